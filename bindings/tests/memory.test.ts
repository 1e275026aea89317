// Many calls with flat memory, and handles that are dropped in any order.
//
//   VFS_SYNC_TEST_CALLS=1000000    how many calls (50,000 otherwise)
//   VFS_SYNC_TEST_SLACK=64         MiB that memory may grow by (24 otherwise)
import assert from 'node:assert';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Client } from '@vfs-sync/client';
import { ScriptedTransport } from '@vfs-sync/testing';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;
const CALLS = Number(process.env['VFS_SYNC_TEST_CALLS'] ?? 50_000);
/** What the allocators may keep beyond what is in use. */
const SLACK = Number(process.env['VFS_SYNC_TEST_SLACK'] ?? 24) * 1024 * 1024;

async function settledMemory(): Promise<number> {
  for (let round = 0; round < 3; round += 1) {
    gc();
    await new Promise((resolve) => setImmediate(resolve));
  }
  return process.memoryUsage().rss;
}

/** Makes about 250 calls of every kind; the tree is as before afterwards. */
async function round(client: Client, item: string, index: number): Promise<void> {
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
    await assert.rejects(client.rename('unknown', 'x'));
    assert.equal((await client.find({ limit: 10 })).items.length, 1);
    using results = client.watch({ limit: 10 });
    await results.next();
    // Cancelled at one await or another.
    const stop = new AbortController();
    const call = client.pull({ signal: stop.signal }).catch(() => undefined);
    for (let wait = 0; wait < (index + count) % 7; wait += 1) await new Promise((resolve) => setImmediate(resolve));
    stop.abort();
    await call;
  }
  await client.pull();
  // Clients come and go too, some without being closed.
  const other = await Client.open({ mode: 'memory', user: 'alice', transport: new ScriptedTransport() });
  const note = await other.create('note', 'n', { metadata: { stars: 5 } });
  await other.contents.put(note, 'text');
  await other.transaction((batch) => batch.rename(note, 'm').touch(note, new Date(0)));
  await other.flush();
  void other.changes().next().catch(() => undefined);
  if (index % 2 === 0) await other.close();
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
    await round(client, item, count);
    // A client that is not closed lives until it is collected, and the collector does not know how much it holds.
    if (count % 10 === 0) await settledMemory();
  }
  const grown = (await settledMemory()) - before;
  console.log(`# ${process.memoryUsage().rss >> 20} MiB resident, ${grown >> 10} KiB more than after the first fifth`);
  assert.ok(grown < SLACK, `memory grew by ${grown} bytes`);
  await client.close();
});

test('clients that are dropped while their streams wait are collected', async () => {
  const rounds = 100;
  let before = 0;
  for (let count = 0; count < 2 * rounds; count += 1) {
    if (count === rounds) before = await settledMemory();
    const client = await Client.open({ mode: 'memory', user: 'alice', transport: new ScriptedTransport() });
    void client.changes().next().catch(() => undefined);
    if (count % 10 === 0) await settledMemory();
  }
  const grown = (await settledMemory()) - before;
  // Each client has about half a MiB.
  assert.ok(grown < SLACK, `memory grew by ${grown} bytes`);
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
