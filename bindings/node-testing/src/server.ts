import { join } from 'node:path';
import { Client, type ClientOptions } from '@vfs-sync/client';

interface NativeServer {
  readonly url: string;
  token(user: string, scope?: string): Promise<string>;
  stop(): Promise<void>;
  restart(): Promise<void>;
  advanceClock(millis: number): Promise<void>;
  backUp(): Promise<void>;
  restore(): Promise<void>;
}

const native = require(join(__dirname, '..', 'vfs-sync-testing.node')) as {
  startServer(): Promise<NativeServer>;
};

/** The real server, in the process of the test, on a port of its own, with its data in memory. */
export class TestServer implements AsyncDisposable {
  readonly #native: NativeServer;

  private constructor(server: NativeServer) {
    this.#native = server;
  }

  /** Starts a server. */
  static async start(): Promise<TestServer> {
    return new TestServer(await native.startServer());
  }

  /** The server's address, the same after a restart. */
  get url(): string {
    return this.#native.url;
  }

  /** Makes a token of a user, with a scope such as `vfs:admin`. */
  async token(user: string, scope?: string): Promise<string> {
    return this.#native.token(user, scope);
  }

  /** Opens a client of a user, by default with its replica in memory. */
  async device(user: string, options: Partial<ClientOptions> = {}): Promise<Client> {
    const place = options.directory === undefined ? ({ mode: 'memory' } as const) : {};
    return Client.open({ user, server: this.url, token: await this.token(user), ...place, ...options });
  }

  /** Stops the server: its port refuses connections. */
  async stop(): Promise<void> {
    await this.#native.stop();
  }

  /** Stops the server if it runs, and starts it with its data. */
  async restart(): Promise<void> {
    await this.#native.restart();
  }

  /** Moves the server's clock. */
  async advanceClock(millis: number): Promise<void> {
    await this.#native.advanceClock(millis);
  }

  /** Keeps a copy of the database. */
  async backUp(): Promise<void> {
    await this.#native.backUp();
  }

  /** Puts the last copy of the database back, as after a disaster: what came after it is lost. */
  async restore(): Promise<void> {
    await this.#native.restore();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
