// A server for the tests.
//
//   VFS_SYNC    the program vfs-sync
import { execFileSync, spawn } from 'node:child_process';
import { Client } from '@vfs-sync/client';
import { Notes } from '../src/notes.js';
import { until } from './browser.js';

const PROGRAM = process.env['VFS_SYNC'] ?? 'vfs-sync';
const SECRET = 'c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3I=';
const ENVIRONMENT = { ...process.env, VFS_SYNC_JWT_SECRET: SECRET };

/** A server with the page's origin among those that may call it. */
export class Server implements AsyncDisposable {
  private constructor(
    readonly url: string,
    readonly stop: () => void,
  ) {}

  static async start(directory: string, origin: string): Promise<Server> {
    const args = ['--json', 'serve', '--listen', '127.0.0.1:0', '--data', directory];
    const env = { ...ENVIRONMENT, VFS_SYNC_CORS_ORIGINS: origin };
    const child = spawn(PROGRAM, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    let complaints = '';
    child.stdout.on('data', (text: Buffer) => (said += String(text)));
    child.stderr.on('data', (text: Buffer) => (complaints += String(text)));
    const host = await until('a server', () => {
      if (child.exitCode !== null) throw new Error(complaints);
      return /127\.0\.0\.1:\d+/.exec(said)?.[0] ?? null;
    });
    return new Server(`http://${host}`, () => child.kill());
  }

  token(user: string): string {
    return execFileSync(PROGRAM, ['token', '--user', user], { env: ENVIRONMENT, encoding: 'utf8' }).trim();
  }

  /** The notes of a user on a device that ends with the test. */
  async device(user: string): Promise<Notes> {
    const options = { mode: 'memory', user, server: this.url, token: this.token(user) } as const;
    return Notes.of(await Client.open({ ...options, device: 'phone' }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
  }
}
