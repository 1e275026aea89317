// Arguments, callbacks and ends that a careful application does not have: each is an error with a
// code or has no effect, and none ends the process.
import assert from 'node:assert';
import { execFile } from 'node:child_process';
import { after, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { Client, VfsSyncError, type Transport } from '@vfs-sync/client';
import { ScriptedTransport } from '@vfs-sync/testing';

const PAGE = process.env['VFS_SYNC_TEST_PAGE'] !== undefined;
if (PAGE) {
  // A page waits on; Node would end while nothing but a page's client waits.
  const alive = setInterval(() => undefined, 1_000);
  after(() => clearInterval(alive));
}

type Loose = any;

const offline = (options: object = {}): Promise<Client> =>
  Client.open({ mode: 'memory', user: 'alice', transport: new ScriptedTransport(), ...options });

/** Has a call fail with one of some codes; returns the message. */
async function refused(call: () => unknown, codes: string | string[] = 'invalid'): Promise<string> {
  let message = '';
  await assert.rejects(async () => call(), (error: unknown) => {
    assert.ok(error instanceof VfsSyncError, `${call}: ${error}`);
    assert.ok([codes].flat().includes(error.code), `${call}: ${error.code}: ${error.message}`);
    message = error.message;
    return true;
  });
  return message;
}

test('a content is made of bytes or text, and of nothing that only looks like it', async () => {
  await using client = await offline();
  const item = await client.createFile('f');
  const put = client.contents.put.bind(client.contents) as Loose;
  for (const wrong of [undefined, null, 5, 1e15, [1, 2, 300], {}, { length: 3 }, true, Symbol('x')]) {
    await refused(() => put(item, wrong));
  }
  assert.match(await refused(() => put(item, new Blob(['x']))), /await its arrayBuffer\(\)/);
  await refused(() => (client.contents as Loose).putStream(item, [1, 2]));
  await refused(() => (client.contents as Loose).putStream(item, ['a', undefined]));
  assert.equal(client.node(item)?.content, null, 'nothing was stored');

  const stored = async (): Promise<Buffer> => Buffer.from(await (await client.contents.read(item)).bytes());
  const wide = new Uint16Array([1, 1_000]);
  for (const bytes of [wide, wide.buffer, new DataView(wide.buffer), Buffer.from(wide.buffer)]) {
    await client.contents.put(item, bytes);
    assert.deepEqual(await stored(), Buffer.from([1, 0, 232, 3]));
  }
  await client.contents.putStream(item, ['wave ', Buffer.from('and '), new TextEncoder().encode('shore').buffer]);
  assert.equal(String(await stored()), 'wave and shore');
  const bytes = Buffer.from('before');
  const putting = client.contents.put(item, bytes);
  bytes.fill('x');
  await putting;
  assert.equal(String(await stored()), 'before', 'the bytes are those at the time of the call');
});

test('what JSON cannot hold is refused and not stored as something else', async () => {
  await using client = await offline();
  const folder = await client.createFolder('a');
  const note = await client.create('note', 'n', { parent: folder });
  const before = client.exportState();
  const set = (metadata: unknown) => () => client.setMetadata(note, metadata as Loose);
  const circle: Loose = {};
  circle.circle = circle;
  let deep: Loose = 1;
  for (let depth = 0; depth < 100_000; depth += 1) deep = [deep];
  const values = [
    undefined, NaN, Infinity, 2n ** 64n, () => 1, Symbol('x'), new Map([['a', 1]]), new Set([1]), /x/,
    new Uint8Array(3), new Date(NaN), circle, deep, [undefined], { x: { y: NaN } }, '\ud800',
  ];
  for (const value of values) if (!(value instanceof Date)) await refused(set({ key: value }));
  assert.match(await refused(set({ stars: NaN })), /`stars` is NaN/);
  const loose = client as Loose;
  for (const call of [
    () => loose.move(note, undefined),
    () => loose.rename(note, undefined),
    () => loose.rename(undefined, 'x'),
    () => loose.link(note, undefined),
    () => loose.create('note', undefined),
    () => loose.sharing.share(note, undefined, 'read'),
    () => loose.sharing.share(note, { kind: 'user' }, 'read'),
    () => loose.sharing.share(note, { kind: 'user', id: 'bob' }, 'own'),
    () => loose.touch(note, new Date(NaN)),
    () => loose.touch(note, 5),
    () => loose.touch(note, 'yesterday'),
    () => loose.delete(undefined),
    () => loose.delete(null, { recursive: true }),
    () => loose.delete(note, { recursive: 'yes' }),
    () => loose.hydrateState({}),
    () => loose.contents.read(undefined),
    () => loose.contents.read(5),
    () => loose.contents.writer(undefined),
    () => loose.contents.fetch('x'),
    () => loose.find({ limit: -1 }),
    () => loose.find({ limit: 2n }),
    () => loose.find({ modifiedSince: 5 }),
    () => loose.find({ colour: 'red' }),
    () => loose.watch({ sortBy: 'colour' }),
    () => loose.walk({ limit: -1 }),
    () => loose.walk({ limit: 1.5 }),
    () => loose.walk({ limit: NaN }),
    () => loose.walk({ limit: 2 ** 70 }),
    () => loose.lost.list({ after: 2 ** 63 }),
    () => loose.node(null),
    () => loose.node(2n),
    () => loose.advanceClock(NaN),
  ]) await refused(call);
  assert.equal(client.exportState(), before, 'nothing was stored');
  await client.setMetadata(note, { n: 2 ** 53, m: -0.5, when: new Date(0).toISOString(), list: [null, { a: '\0' }] });
  assert.deepEqual(client.node(note)?.metadata['list'], [null, { a: '\0' }]);
});

test('names, ids and paths of any text are taken or refused by a code', async () => {
  await using client = await offline();
  const long = 'x'.repeat(300_000);
  for (const text of ['', ' ', '.', '..', '/', '\0', 'a\0b', '\ud800', '\udfff\ud800', '\u202e', '😀'.repeat(300), long, '__proto__']) {
    for (const call of [
      () => client.createFile(text),
      () => client.getOrCreateFolder(text),
      () => client.node(text),
      () => client.resolve(text),
      () => client.children(text),
      () => client.contents.read(text),
      () => client.find({ namePrefix: text }),
      () => client.sharing.by(text),
      () => client.queue.retry(text),
      () => client.hydrateState(text),
    ]) {
      try {
        await call();
      } catch (error) {
        assert.ok(error instanceof VfsSyncError, String(error));
        assert.ok(
          ['invalid', 'unknownPath', 'unknownItem', 'unknownRejected', 'violation', 'noContent'].includes(error.code),
          `${call}: ${error.code}`,
        );
      }
    }
  }
});

test('options of any value are taken or refused when the client is opened', async () => {
  const wrong: object[] = [
    { pageLimit: 0 }, { pageLimit: -1 }, { pageLimit: 501 }, { pageLimit: 1.5 }, { transfers: 0 }, { transfers: 65 },
    { cacheSize: -1 }, { intervalMs: 0 }, { intervalMs: -1 }, { liveIntervalMs: 0 }, { intervalMs: 2 ** 64 },
    { user: '' }, { user: 5 }, { user: 'a\0b' }, { user: '\ud800' }, { mode: 'x' }, { live: 'no' },
    { test: { seed: -1, now: '2026-01-01T00:00:00.000Z' } }, { test: { seed: 1, now: 'now' } }, { clientId: '' },
    { transport: {} }, { transport: { call: 1 } }, { transport: null }, { token: 5 }, { token: {} }, { device: 5n },
  ];
  for (const options of wrong) await refused(() => offline(options));
  await using client = await offline({ intervalMs: Number.MAX_SAFE_INTEGER, liveIntervalMs: Number.MAX_SAFE_INTEGER });
  await client.startBackground();
  await client.createFolder('a');
  await client.requestSync();
  await client.stopBackground();
});

test('a transaction that is asynchronous is refused whole, and one that has ended takes nothing', async () => {
  await using client = await offline();
  let kept: Loose;
  await refused(() => client.transaction(async (batch) => {
    kept = batch;
    batch.createFolder('half');
    await Promise.resolve();
    batch.createFolder('the other half');
  }));
  await refused(() => kept.createFolder('late'));
  await assert.rejects(client.transaction((batch) => {
    batch.createFolder('half');
    throw new Error('given up');
  }), /given up/);
  assert.deepEqual(client.children(), []);
});

test('signals may be aborted before, at and after a call', async () => {
  await using client = await offline();
  await refused(() => client.sync({ signal: 'soon' as Loose }));
  await client.sync({ signal: null });
  await assert.rejects(client.sync({ signal: AbortSignal.abort() }), { name: 'AbortError' });
  await assert.rejects(client.find({}, { signal: AbortSignal.abort(new Error('mine')) }), /mine/);
  await assert.rejects(client.sync({ signal: AbortSignal.abort(0) }), (thrown) => thrown === 0);
  for (let count = 0; count < 200; count += 1) {
    const abort = new AbortController();
    const call = client.sync({ signal: abort.signal }).then(() => 'done', (error: Error) => error.name);
    if (count % 2 === 0) abort.abort();
    else setTimeout(() => abort.abort(), (count % 10) / 10);
    assert.match(await call, /^(done|AbortError)$/);
    abort.abort();
  }
  assert.equal((await client.sync()).pages, 1);
});

test('a transport that answers anything is a failure of the server, and changes nothing', async () => {
  const circle: Loose = {};
  circle.circle = circle;
  const answers: (() => unknown)[] = [
    () => undefined, () => null, () => 5, () => 'text', () => ({}), () => ({ body: undefined }), () => ({ body: circle }),
    () => ({ body: 2n }), () => ({ status: -1, body: {} }), () => ({ status: NaN, body: {} }), () => ({ status: 'x', body: {} }),
    () => ({ status: 700, body: {} }), () => ({ status: 503, body: {}, retryAfter: NaN }), () => ({ status: 503, body: {}, retryAfter: -1 }),
    () => ({ status: 503, body: {}, retryAfter: Infinity }), () => ({ status: 503, body: {}, retryAfter: 'soon' }),
    () => ({ body: {}, data: 'text' }), () => ({ body: '{' }), () => ({ body: '\ud800' }), () => ({ body: [] }),
    () => { throw null; }, () => { throw undefined; }, () => { throw new VfsSyncError('closed', 'x'); },
    () => { throw Object.create(null); }, () => { throw Object.assign(new Error('x'), { message: 5 }); },
    () => ({ body: () => 1 }), () => ({ body: {}, data: 5 }), () => ({ status: 200.5, body: {} }),
    () => Promise.reject(), () => ({ get body() { throw new Error('getter'); } }),
  ];
  for (const answer of answers) {
    await using client = await offline({ transport: { call: answer } as unknown as Transport });
    await client.createFolder('kept');
    const before = client.exportState();
    await refused(() => client.sync(), ['network', 'malformedResponse', 'refused']);
    assert.equal(client.exportState(), before, String(answer));
  }
});

test('a token that is no token is an error; one that never comes is cancelled or closed', async () => {
  const server = { mode: 'memory', user: 'alice', server: 'http://127.0.0.1:9' } as const;
  for (const token of [
    () => undefined, () => 5, () => ({}), () => { throw null; }, () => Promise.reject(), () => 'a\r\nX: y', () => '\ud800',
    () => { throw Object.create(null); }, () => 'é', () => '', () => 'x'.repeat(1_000_000), 'a\nb',
  ]) {
    await using client = await Client.open({ ...server, token: token as Loose });
    await refused(() => client.sync(), ['unauthorized', 'network']);
  }
  let asked = (): void => undefined;
  const arrived = new Promise<void>((resolve) => (asked = resolve));
  const client = await Client.open({ ...server, token: () => (asked(), new Promise<string>(() => undefined)) });
  const abort = new AbortController();
  const cancelled = client.sync({ signal: abort.signal });
  const closed = client.pull();
  await arrived;
  abort.abort(new Error('enough'));
  await assert.rejects(cancelled, /enough/);
  const both = [client.close(), client.close()];
  await refused(() => closed, 'closed');
  await Promise.all(both);
});

test('streams may be abandoned, closed twice, and asked at once', async () => {
  await using client = await offline();
  const changes = client.changes();
  const nexts = [changes.next(), changes.next(), changes.next()];
  for (const name of ['a', 'b']) await client.createFolder(name);
  const first = await Promise.all(nexts.slice(0, 2));
  assert.equal(new Set(first.map(({ value }) => (value as Loose).id)).size, 2, 'each change comes once');
  changes.close();
  changes.close();
  assert.equal((await nexts[2]!).done, true);
  assert.equal((await changes.next()).done, true);
  assert.equal((await changes.return()).done, true);
  for (let count = 0; count < 100; count += 1) void client.watch().next().catch(() => undefined);
  const pages = client.findAll({ limit: 1 });
  assert.equal((await pages.next()).value?.name, 'a');
  const thrown = client.changes();
  await client.createFolder('c');
  await assert.rejects(async () => {
    for await (const _ of thrown) throw new Error('from the loop');
  }, /from the loop/);
  assert.equal((await thrown.next()).done, true);
});

test('every call of a closed client says that it is closed', async () => {
  const client = await offline();
  const item = await client.createFile('f');
  await client.contents.put(item, 'text');
  const open = [client.changes(), client.contents.writer(item), await client.contents.read(item)] as const;
  const writing = Array.from({ length: 50 }, (_, index) => client.rename(item, `n${index}`));
  const late = client.sync().catch((error: VfsSyncError) => error.code);
  await client.close();
  await Promise.all(writing);
  assert.ok(['closed', undefined].includes((await late) as Loose) || typeof (await late) === 'object');
  const without = new Set(['constructor', 'item', 'close', 'violations', 'takeViolations', 'advanceClock', 'findAll']);
  const groups: object[] = [client, client.contents, client.sharing, client.trash, client.queue, client.lost];
  let calls = 0;
  for (const group of groups) {
    for (const name of Object.getOwnPropertyNames(Object.getPrototypeOf(group))) {
      if (without.has(name)) continue;
      const args: Record<string, unknown[]> = {
        share: [item, { kind: 'user', id: 'b' }, 'read'], unshare: [item, { kind: 'user', id: 'b' }], putStream: [item, ['x']],
        transaction: [(batch: Loose) => batch.rename(item, 'x')], setMetadata: [item, {}], touch: [item, new Date(0)],
        fetch: [[item]], discard: group === client.lost ? [[1]] : [item], create: ['note', 'x'], watch: [], find: [],
        sync: [], flush: [], pull: [], rematerialise: [], serverState: [], list: [], empty: [],
        restore: [item], purge: [item], hydrateState: ['{}'], walk: [], delete: [item], createFile: ['f'], createFolder: ['f'],
        getOrCreateFolder: ['f'], changes: [], events: [], syncStates: [], progress: [], watchChildren: [], exportState: [],
        operations: [], rejected: [], writer: [item], read: [item], versions: [item],
      };
      await refused(() => {
        const value = (group as Loose)[name];
        return typeof value === 'function' ? value.apply(group, args[name] ?? [item, 'x']) : value;
      }, 'closed');
      calls += 1;
    }
  }
  assert.ok(calls > 60, String(calls));
  assert.equal((await open[0].next()).done, true);
  await refused(() => open[1].write('x'), 'closed');
  assert.equal(await open[2].text(), 'text', 'a content that is open stays readable');
});

/** Runs a script in a process of its own; returns what it prints. */
async function process_(script: string, code = 0): Promise<string> {
  const source = `
    const { Client } = require(${JSON.stringify(require.resolve('@vfs-sync/client'))});
    const never = { call: () => new Promise(() => undefined) };
    const open = (options) => Client.open({ mode: 'memory', user: 'alice', transport: never, ...options });
    (async () => { ${script} })();`;
  return new Promise((resolve, reject) => {
    execFile(process.execPath, ['-e', source], { timeout: 20_000 }, (error, stdout, stderr) => {
      const ended = error === null ? 0 : (error.code ?? error.signal);
      if (ended === code && !/panicked|FATAL/.test(stderr)) resolve(stdout);
      else reject(new Error(`${script}: ${ended}\n${stderr}`));
    });
  });
}

test('a process ends in the middle of anything', { skip: PAGE }, async () => {
  const scripts: [string, number?][] = [
    ['const c = await open(); void c.sync().catch(() => 0); setTimeout(() => process.exit(0), 20)'],
    ['const c = await open(); void c.sync(); void c.changes().next(); process.exit(3)', 3],
    ['const c = await open({ transport: { call: () => process.exit(4) } }); await c.sync()', 4],
    ['const c = await open(); await c.startBackground(); setTimeout(() => process.exit(0), 20)'],
    ['const c = await open(); void c.close(); process.exit(0)'],
    ['const c = await open(); for (let n = 0; n < 500; n += 1) void c.createFolder("f" + n); process.exit(0)'],
    ['const c = await open(); const f = await c.createFile("f"); void c.contents.put(f, Buffer.alloc(5e6)); process.exit(0)'],
    ['const c = await open(); await c.createFolder("f"); console.log("left open")'],
    ['const c = await open(); await c.startBackground(); await c.close(); console.log("closed")'],
    ['const c = await open(); void c.sync(); throw new Error("mine")', 1],
  ];
  await Promise.all(scripts.map(([script, code]) => process_(script, code)));
});

test('a worker is ended in the middle of calls', { skip: PAGE }, async () => {
  const script = `
    const { parentPort } = require('node:worker_threads');
    const { Client } = require(${JSON.stringify(require.resolve('@vfs-sync/client'))});
    (async () => {
      const transport = { call: () => new Promise(() => undefined) };
      const client = await Client.open({ mode: 'memory', user: 'alice', transport });
      // A call that is forgotten fails once it is collected.
      void client.sync().catch(() => undefined);
      void client.changes().next();
      await client.startBackground();
      parentPort.postMessage('ready');
      for (let n = 0; ; n += 1) await client.createFolder('f' + n);
    })();`;
  for (let count = 0; count < 5; count += 1) {
    const workers = Array.from({ length: 2 }, () => new Worker(script, { eval: true }));
    await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('message', resolve))));
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
  await using client = await offline();
  await client.createFolder('still here');
});
