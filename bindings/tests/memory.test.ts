// Many calls with flat memory, and handles that are dropped in any order.
//
//   VFS_SYNC_TEST_CALLS=1000000    how many calls (100,000 otherwise)
import assert from 'node:assert';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Client } from '@vfs-sync/client';
import { ScriptedTransport } from '@vfs-sync/testing';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;
const CALLS = Number(process.env['VFS_SYNC_TEST_CALLS'] ?? 100_000);
/** What the allocators may keep beyond what is in use. */
const SLACK = 24 * 1024 * 1024;

async function settledMemory(): Promise<number> {
  for (let round = 0; round < 3; round += 1) {
    gc();
    await new Promise((resolve) => setImmediate(resolve));
  }
  return process.memoryUsage().rss;
}

/** Makes about 100 calls of every kind; the tree is as before afterwards. */
async function round(client: Client, item: string): Promise<void> {
  for (let count = 0; count < 60; count += 1) {
    client.node(item);
    client.children();
    assert.throws(() => client.resolve('/nowhere'));
  }
  for (let count = 0; count < 5; count += 1) {
    using changes = client.changes();
    void changes;
    client.syncState();
    const writer = client.contents.writer(item);
    await writer.write(Buffer.alloc(1_000));
    if (count % 2 === 0) writer.abort();
    const content = await client.contents.read(item);
    for await (const chunk of content) assert.equal(chunk.length, 1_000);
    const abort = new AbortController();
    const next = client.events({ signal: abort.signal }).next();
    abort.abort();
    await assert.rejects(next);
  }
  await client.pull();
}

test(`${CALLS} calls with flat memory`, async () => {
  const transport = { call: (call: Parameters<ScriptedTransport['call']>[0]) => new ScriptedTransport().call(call) };
  const client = await Client.open({ mode: 'memory', user: 'alice', transport });
  const item = await client.createFile('f');
  await client.contents.put(item, Buffer.alloc(1_000));
  const rounds = Math.ceil(CALLS / 200);
  const warm = Math.ceil(rounds / 5);
  let before = 0;
  for (let count = 0; count < warm + rounds; count += 1) {
    if (count === warm) before = await settledMemory();
    await round(client, item);
  }
  const grown = (await settledMemory()) - before;
  assert.ok(grown < SLACK, `memory grew by ${grown} bytes`);
  await client.close();
});

test('handles may be dropped in any order, open or not', async () => {
  for (let count = 0; count < 50; count += 1) {
    const client = await Client.open({ mode: 'memory', user: 'alice', transport: new ScriptedTransport() });
    const item = await client.createFile('f');
    await client.contents.put(item, 'text');
    const held = [client.changes(), client.watchChildren(), client.contents.writer(item), await client.contents.read(item)];
    if (count % 3 === 0) void client.sync().catch(() => undefined);
    if (count % 3 === 1) await client.close();
    if (count % 2 === 0) held.reverse();
    while (held.length > 0) {
      held.pop();
      if (count % 10 === 0) gc();
    }
  }
  gc();
  await new Promise((resolve) => setImmediate(resolve));
});
