// The command, on two replicas on the disk.
import assert from 'node:assert';
import { execFileSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Server } from './server.js';

const COMMAND = fileURLToPath(new URL('../src/cli.js', import.meta.url));

test('two devices write a note while they are apart, and both versions stay', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'notes-'));
  try {
    await using server = await Server.start(join(directory, 'server'), 'http://127.0.0.1:1');
    const token = server.token('alice');
    const on = (device: string, ...args: string[]): string[] => {
      const settings = {
        NOTES_REPLICA: join(directory, device),
        NOTES_USER: 'alice',
        VFS_SYNC_SERVER: server.url,
        VFS_SYNC_TOKEN: token,
      };
      const env = { ...process.env, ...settings };
      return execFileSync(process.execPath, [COMMAND, ...args], { env, encoding: 'utf8' }).split('\n');
    };
    const map = join(directory, 'map.txt');
    await writeFile(map, 'over the hills');
    on('laptop', 'create', 'Trip', 'by train');
    on('laptop', 'attach', 'Trip', map);
    assert.deepEqual(on('laptop', 'list'), ['Trip  not sent', '  map.txt  14 bytes', '']);
    on('laptop', 'sync');
    on('phone', 'sync');
    assert.deepEqual(on('phone', 'list'), ['Trip', '  map.txt  14 bytes', '']);
    assert.equal(on('phone', 'read', 'Trip')[0], 'by train');

    on('laptop', 'write', 'Trip', 'by bus');
    on('phone', 'write', 'Trip', 'on foot');
    for (const device of ['laptop', 'phone', 'phone', 'laptop']) on(device, 'sync');
    const listed = on('laptop', 'list');
    assert.deepEqual(on('phone', 'list'), listed);
    const other = listed.find((line) => line.endsWith('  conflict'))!.slice(0, -'  conflict'.length);
    assert.deepEqual([on('laptop', 'read', 'Trip')[0], on('laptop', 'read', other)[0]], ['by bus', 'on foot']);
    assert.throws(() => on('laptop', 'read', 'Nothing'));
  } finally {
    await rm(directory, { recursive: true });
  }
});
