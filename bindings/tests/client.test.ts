// The client in Node: edits, streams, contents, cancellation, closing, and faults.
//
//   VFS_SYNC_TEST_PAGE    set if `@vfs-sync/client` is the package for a page, which has no disk
import assert from 'node:assert';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { Client, GuardrailViolationError, VfsSyncError, type Child, type TreeChange } from '@vfs-sync/client';
import { expectGuardrailSignature, FaultyTransport, ScriptedTransport, TestServer } from '@vfs-sync/testing';

const PAGE = process.env['VFS_SYNC_TEST_PAGE'] !== undefined;
if (PAGE) {
  // A page waits on; Node would end while nothing but a page's client waits.
  const alive = setInterval(() => undefined, 1_000);
  after(() => clearInterval(alive));
}

const offline = (options: object = {}): Promise<Client> =>
  Client.open({ mode: 'memory', user: 'alice', transport: new ScriptedTransport(), ...options });

async function taken<T>(stream: AsyncIterable<T>, count: number): Promise<T[]> {
  const values: T[] = [];
  for await (const value of stream) {
    values.push(value);
    if (values.length === count) break;
  }
  return values;
}

const path = (change: TreeChange): string =>
  'after' in change ? `${change.before?.path ?? '-'} -> ${change.after?.path ?? '-'}` : change.type;

test('two devices converge, and each change has the item before and after', async () => {
  await using server = await TestServer.start();
  await using laptop = await server.device('alice');
  await using phone = await server.device('alice');
  const here = laptop.changes();
  const there = phone.changes();

  const photos = await laptop.getOrCreateFolder('Photos');
  assert.equal(await phone.getOrCreateFolder('Photos'), photos, 'one folder, though both are offline');
  const sea = await laptop.createFile('sea.jpg', { parent: photos, metadata: { stars: 5 } });
  await laptop.contents.put(sea, 'a wave');
  await laptop.rename(sea, 'shore.jpg');
  assert.deepEqual((await taken(here, 4)).map(path), [
    '- -> /Photos',
    '- -> /Photos/sea.jpg',
    '/Photos/sea.jpg -> /Photos/sea.jpg',
    '/Photos/sea.jpg -> /Photos/shore.jpg',
  ]);
  const report = await laptop.sync();
  assert.deepEqual([report.applied, report.uploaded], [3, 1]);
  await phone.sync();
  const arrived = await there.next();
  assert.equal(path(arrived.value!), '- -> /Photos');
  assert.equal(phone.resolve('/Photos/shore.jpg').metadata['stars'], 5);
  const content = await phone.contents.read(sea);
  assert.deepEqual([content.size, await content.text()], [6, 'a wave']);
  assert.equal(phone.item(sea).path(), '/Photos/shore.jpg');
  assert.equal(phone.syncState().connection, 'online');
  assert.equal(phone.exportState(), phone.exportState());
  const known = await phone.serverState();
  assert.equal(known.reconcileState?.cursor, phone.status().cursor);
});

test('edits take effect in the order of their calls, and a transaction whole or not at all', async () => {
  await using client = await offline();
  const note = await client.create('note', '0');
  const renames = Array.from({ length: 40 }, (_, index) => client.rename(note, String(index + 1)));
  await Promise.all(renames);
  assert.equal(client.node(note)?.name, '40');

  const made = await client.transaction((batch) => {
    const folder = batch.createFolder('folder');
    const file = batch.createFile('file', { parent: folder });
    batch.setMetadata(file, { colour: 'red', gone: null }).move(note, folder).touch(note, new Date(0));
    return { folder, file };
  });
  assert.deepEqual(client.children(made.folder).map(({ name }) => name), ['40', 'file']);
  assert.equal(client.node(note)?.modifiedAt, '1970-01-01T00:00:00.000Z');
  const before = client.exportState();
  await assert.rejects(
    client.transaction((batch) => batch.rename(note, 'x').rename('unknown', 'y')),
    { name: 'VfsSyncError', code: 'unknownItem', details: { item: 'unknown' } },
  );
  assert.equal(client.exportState(), before);
  assert.equal(await client.delete(made.folder, { recursive: true }), 3);
  assert.deepEqual(client.children(), []);
});

test('every failure is an error with a code', async () => {
  await using client = await offline();
  const folder = await client.createFolder('a');
  const loose = client as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>;
  const fails: [() => unknown, string, RegExp][] = [
    [() => client.resolve('/nothing'), 'unknownPath', /nothing at/],
    [() => client.children('unknown'), 'unknownItem', /no item/],
    [() => client.node(''), 'invalid', /must not be empty/],
    [() => client.node('x'.repeat(200)), 'invalid', /128 bytes/],
    [() => client.rename(folder, 'a/b'), 'invalid', /'\/'/],
    [() => client.move(folder, folder), 'cycle', /contain itself/],
    [() => client.contents.read(folder), 'noContent', /no content/],
    [() => client.queue.retry('unknown'), 'unknownRejected', /no rejected/],
    [() => client.advanceClock(1), 'invalid', /machine's clock/],
    [() => loose['create']!('pixie', 'x'), 'invalid', /unknown variant `pixie`/],
    [() => loose['rename']!(undefined, 'x'), 'invalid', /`item` is undefined/],
    [() => loose['node']!({ id: folder }), 'invalid', /./],
    [() => Client.open({ mode: 'memory', user: 'a' }), 'invalid', /neither/],
    [() => Client.open({ user: 'a', token: 't', server: 'https://h' }), 'invalid', /directory/],
    [() => Client.open({ mode: 'memory', user: 'a', token: 't', server: 'ftp://x' }), 'invalidAddress', /./],
    [() => Client.open({ mode: 'memory', user: 'a', token: 't', colour: 1 } as object), 'invalid', /colour/],
  ];
  for (const [call, code, message] of fails) {
    await assert.rejects(async () => call(), (error: unknown) => {
      assert.ok(error instanceof VfsSyncError, String(error));
      assert.deepEqual([error.code, error.transient], [code, false], error.message);
      assert.match(error.message, message);
      return true;
    });
  }
});

test('a signal cancels a call and a stream, with its reason', async () => {
  let called = (): void => undefined;
  const arrived = new Promise<void>((resolve) => (called = resolve));
  const transport = { call: () => (called(), new Promise<never>(() => undefined)) };
  await using client = await offline({ transport });
  const abort = new AbortController();
  const waiting = client.sync({ signal: abort.signal });
  await arrived;
  abort.abort(new Error('not now'));
  await assert.rejects(waiting, /not now/);
  await assert.rejects(client.pull({ signal: abort.signal }), /not now/);
  await assert.rejects(client.pull({ signal: AbortSignal.timeout(20) }), { name: 'TimeoutError' });
  const stop = new AbortController();
  const next = client.events({ signal: stop.signal }).next();
  stop.abort();
  await assert.rejects(next, { name: 'AbortError' });
});

test('a closed client ends its streams and releases the replica', { skip: PAGE }, async () => {
  const directory = await mkdtemp(join(tmpdir(), 'vfs-sync-'));
  await using server = await TestServer.start();
  const client = await server.device('alice', { directory });
  await client.startBackground();
  const file = await client.createFile('f');
  await assert.rejects(server.device('alice', { directory }), { code: 'inUse' });
  const stream = client.events();
  const end = (async () => {
    for await (const _ of stream);
    return 'ended';
  })();
  const late = client.rename(file, 'renamed');
  await client.close();
  await client.close();
  assert.equal(await end, 'ended');
  await late;
  assert.throws(() => client.node(file), { code: 'closed' });
  await assert.rejects(client.sync(), { code: 'closed' });
  {
    await using again = await server.device('alice', { directory, mode: 'open' });
    assert.equal(again.node(file)?.name, 'renamed');
    assert.equal(again.user, 'alice');
  }
  await assert.rejects(server.device('bob', { directory }), /belongs to alice/);
  await rm(directory, { recursive: true });
});

test('contents are streamed in and out, from memory and from files', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'vfs-sync-'));
  await using server = await TestServer.start();
  await using client = await server.device('alice', PAGE ? {} : { directory: join(directory, 'replica') });
  const item = client.item(await client.createFile('big'));
  const part = Buffer.alloc(700_000, 7);
  async function* parts(): AsyncGenerator<Buffer> {
    for (let count = 0; count < 4; count += 1) yield part;
  }
  const stored = await client.contents.putStream(item.id, parts());
  assert.equal(stored.size, 2_800_000);
  await client.sync();
  await using other = await server.device('alice');
  await other.sync();
  const sizes: number[] = [];
  const content = await other.contents.read(item.id);
  for await (const chunk of content) sizes.push(chunk.length);
  assert.equal(sizes.reduce((sum, size) => sum + size), 2_800_000);
  assert.ok(sizes.length > 5);

  async function* broken(): AsyncGenerator<Buffer> {
    yield part;
    throw new Error('the source failed');
  }
  await assert.rejects(client.contents.putStream(item.id, broken()), /the source failed/);
  assert.equal(client.node(item.id)?.content?.blobId, stored.blobId, 'nothing of it stays');
  {
    await using writer = client.contents.writer(item.id);
    await writer.write(part);
  }
  assert.equal(client.queue.outstanding().uploads, 0);

  const source = join(directory, 'source.txt');
  await writeFile(source, 'from a file');
  if (PAGE) {
    await assert.rejects(client.contents.putFile(item.id, source), { code: 'io' });
    await client.contents.put(item.id, 'from a file');
  } else {
    await client.contents.putFile(item.id, source);
  }
  assert.equal(await (await item.read()).text(), 'from a file');
  await client.sync();
  const versions = await client.contents.versions(item.id);
  assert.deepEqual(versions.map(({ size }) => size), [11, 2_800_000]);
  const first = await client.contents.read(item.id, { version: stored.blobId });
  assert.equal((await first.bytes()).length, 2_800_000);
  await rm(directory, { recursive: true });
});

test('the network is cut, answers are lost, doubled, stale and damaged, and nothing is lost', async () => {
  await using server = await TestServer.start();
  const line = new FaultyTransport();
  await using client = await server.device('alice', { transport: line });
  const states = client.syncStates();
  assert.equal((await states.next()).value?.connection, 'unknown');

  await client.createFolder('Photos');
  line.next('push', 'dropAnswer'); // applied, but the answer is lost
  await assert.rejects(client.sync(), { code: 'network', transient: true });
  assert.equal(client.syncState().connection, 'offline');
  assert.ok(client.syncState().offlineSince);
  line.next('push', 'duplicate');
  await client.sync();
  assert.deepEqual(client.queue.rejected(), []);
  assert.equal(client.syncState().connection, 'online');

  await client.createFolder('Music');
  await client.flush();
  line.next('pull', { stale: 1 }); // as if nothing had happened since
  await assert.rejects(client.pull(), GuardrailViolationError);
  expectGuardrailSignature({ violations: client.takeViolations(), signature: 'pull:pullPageInvariantViolation' });
  line.next('pull', { truncateAnswer: 20 });
  await assert.rejects(client.pull(), { code: 'malformedResponse' });
  line.next('pull', { damageAnswer: (page) => ({ ...page, hasMore: 'perhaps' }) });
  await assert.rejects(client.pull(), (error: VfsSyncError) => {
    assert.deepEqual([error.code, error.details['call'], error.details['field']], ['malformedResponse', 'pull', 'hasMore']);
    return true;
  });
  line.next('pull', { refuse: { status: 403, body: { error: 'no', code: 'forbidden' } } });
  await assert.rejects(client.pull(), { code: 'refused' });

  await client.createFolder('Late');
  line.next('push', 'reorder');
  await assert.rejects(client.sync(), { code: 'network' });
  line.cut();
  await assert.rejects(client.sync(), /the line is cut/);
  line.heal();
  line.next('push', { delay: 5 });
  await client.sync();
  await using other = await server.device('alice');
  await other.sync();
  assert.deepEqual(other.children().map(({ name }) => name), ['Late', 'Music', 'Photos']);
  assert.deepEqual(client.violations(), []);
});

test('background work brings the changes of others, and watched children follow', async () => {
  await using server = await TestServer.start();
  await using laptop = await server.device('alice');
  await using phone = await server.device('alice');
  await laptop.startBackground();
  await phone.startBackground();
  using children = phone.watchChildren();
  const shown = new Promise<Child[]>((resolve) => {
    void (async () => {
      for await (const now of children) if (now.length > 0) return resolve(now);
    })();
  });
  await laptop.createFolder('from afar');
  assert.equal((await shown)[0]?.shownName, 'from afar');
  let live = false;
  for await (const state of phone.syncStates()) {
    live ||= state.connection === 'live';
    if (live && state.lastInStepAt !== null && state.pending === 0) break;
  }
  assert.ok(live);
});

test('a query finds pages, and is watched', async () => {
  await using client = await offline();
  const results = client.watch({ type: 'photo', sortBy: 'name', descending: true });
  assert.deepEqual((await results.next()).value, { added: [], changed: [], removed: [], order: [] });
  const ids = await client.transaction((batch) =>
    ['a', 'b', 'c'].map((name, stars) => batch.create('photo', name, { metadata: { stars } })),
  );
  await client.createFile('no photo');
  assert.deepEqual((await results.next()).value?.order, [...ids].reverse());
  const names: (string | null)[] = [];
  for await (const { name } of client.findAll({ type: 'photo', limit: 2 })) names.push(name);
  assert.deepEqual(names, ['a', 'b', 'c']);
  const found = await client.find({ metadata: { key: 'stars', value: 1 } });
  assert.deepEqual(found.items.map(({ id }) => id), [ids[1]]);
  assert.equal((await client.find({ namePrefix: 'no ' })).items.length, 1);
  await client.delete(ids[0]!);
  assert.deepEqual((await results.next()).value?.removed, [ids[0]]);
  await assert.rejects(client.find({ name: 'a', namePrefix: 'a' }), { code: 'invalid' });
});

test('a share appears for the other user, and goes', async () => {
  await using server = await TestServer.start();
  await using alice = await server.device('alice');
  await using bob = await server.device('bob');
  await bob.sync();
  const plans = await alice.createFolder('plans');
  await alice.sharing.share(plans, { kind: 'user', id: 'bob' }, 'read');
  await alice.sync();
  const events = bob.events();
  await bob.sync();
  assert.deepEqual((await events.next()).value, { type: 'shared', item: plans, owner: 'alice', level: 'read' });
  assert.deepEqual(bob.sharing.withMe().map(({ shownName }) => shownName), ['plans']);
  assert.equal(bob.resolve('shared:alice/plans').accessLevel, 'read');
  await assert.rejects(bob.rename(plans, 'mine'), { code: 'notPermitted' });
  await alice.sharing.unshare(plans, { kind: 'user', id: 'bob' });
  await alice.sync();
  await bob.sync();
  assert.deepEqual((await events.next()).value, { type: 'revoked', item: plans });
  assert.equal(bob.node(plans), null);
});

test('a token comes from a function, is renewed, and may fail', async () => {
  await using server = await TestServer.start();
  const asked: boolean[] = [];
  const good = await server.token('alice');
  const token = async (refresh: boolean): Promise<string> => {
    asked.push(refresh);
    return refresh ? good : 'stale';
  };
  await using client = await server.device('alice', { token });
  await client.sync();
  assert.deepEqual(asked.slice(0, 2), [false, true]);
  const none = (): string => {
    throw new Error('signed out');
  };
  await using signedOut = await server.device('alice', { token: none });
  await assert.rejects(signedOut.sync(), { code: 'unauthorized', message: /signed out/ });
  await using wrong = await server.device('alice', { token: await server.token('bob') });
  await assert.rejects(wrong.sync(), { code: 'wrongUser', details: { expected: 'alice', actual: 'bob' } });
});

test('a worker thread of the host has a client of its own', async () => {
  const script = `
    const { parentPort } = require('node:worker_threads');
    const { Client } = require(${JSON.stringify(require.resolve('@vfs-sync/client'))});
    const transport = { call: ({ kind }) => { throw new Error('no ' + kind); } };
    (async () => {
      const client = await Client.open({ mode: 'memory', user: 'alice', transport });
      await client.createFolder('a');
      const code = await client.sync().catch((error) => error.code);
      await client.close();
      parentPort.postMessage([client.constructor.name, code]);
    })();`;
  const workers = Array.from({ length: 3 }, () => new Worker(script, { eval: true }));
  const messages = workers.map(
    (worker) => new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject)),
  );
  for (const message of await Promise.all(messages)) assert.deepEqual(message, ['Client', 'network']);
  for (const worker of workers) await worker.terminate();
});

test('a server that lost acknowledged writes is noticed, and gets them back', async () => {
  await using server = await TestServer.start();
  await using client = await server.device('alice', { rematerialise: false });
  await client.sync();
  await server.backUp();
  const kept = await client.createFolder('kept');
  await client.sync();
  await server.restore();
  // The server refuses one call when it notices that the database is another one.
  await client.pull().catch((error: unknown) => assert.ok(error instanceof VfsSyncError && error.transient));
  await assert.rejects(client.sync(), { signature: 'pull:pullRematerializationRequired' });
  assert.equal((await client.rematerialise()).offered.items, 1);
  await client.sync();
  await using other = await server.device('alice');
  await other.sync();
  assert.equal(other.node(kept)?.name, 'kept');
});
