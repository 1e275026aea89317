// What is of a page alone: its requests, and the replica that is nowhere but in memory.
import assert from 'node:assert';
import { test } from 'node:test';
import { Client } from '@vfs-sync/client';

const PAGE = process.env['VFS_SYNC_TEST_PAGE'] !== undefined;
const SERVER = { mode: 'memory', user: 'alice', server: 'https://sync.example', token: 'secret' } as const;

/** Has requests answered by a function for as long as `use` runs. */
async function fetched(answer: typeof fetch, use: () => Promise<void>): Promise<void> {
  const real = globalThis.fetch;
  globalThis.fetch = answer;
  try {
    await use();
  } finally {
    globalThis.fetch = real;
  }
}

test('a request carries the token to the server alone, and ends with the call', { skip: !PAGE }, async () => {
  const requests: [string, RequestInit][] = [];
  const silent: typeof fetch = (url, init) => {
    requests.push([String(url), init!]);
    return new Promise((_, reject) => {
      init!.signal!.addEventListener('abort', () => reject(init!.signal!.reason as Error));
    });
  };
  await fetched(silent, async () => {
    await using client = await Client.open(SERVER);
    const abort = new AbortController();
    const pulling = client.pull({ signal: abort.signal });
    while (requests.length === 0) await new Promise((resolve) => setImmediate(resolve));
    abort.abort();
    await assert.rejects(pulling, { name: 'AbortError' });
    await client.close();
  });
  const [[url, init]] = requests as [[string, RequestInit]];
  assert.match(url, /^https:\/\/sync\.example\/v1\/vfs\/crdt\//);
  const headers = new Headers(init.headers);
  assert.equal(headers.get('authorization'), 'Bearer secret');
  assert.equal(headers.get('vfs-sync-user'), 'alice');
  assert.deepEqual([init.redirect, init.credentials, (init as { cache?: string }).cache], ['error', 'omit', 'no-store']);
  assert.ok(init.signal!.aborted, 'the request is given up');
});

test('an answer that breaks off, or is for another user, changes nothing', { skip: !PAGE }, async () => {
  const answers = [
    () => Promise.reject(new TypeError('Failed to fetch')),
    async () => new Response('{"items":[', { headers: { 'vfs-sync-user': 'alice' } }),
    async () => new Response('{}', { headers: { 'vfs-sync-user': 'bob' } }),
    async () =>
      new Response(
        new ReadableStream({
          start: (controller) => controller.error(new Error('cut')),
        }),
        { headers: { 'vfs-sync-user': 'alice' } },
      ),
  ];
  const codes: unknown[] = [];
  const answer: typeof fetch = (url) =>
    String(url).endsWith('/telemetry') ? Promise.resolve(new Response('', { status: 404 })) : answers.shift()!();
  await fetched(answer, async () => {
    await using client = await Client.open(SERVER);
    const before = client.exportState();
    for (let left = answers.length; left > 0; left -= 1) {
      codes.push(await client.pull().catch((error: { code: unknown }) => error.code));
      assert.equal(client.exportState(), before);
    }
  });
  assert.deepEqual(codes, ['network', 'malformedResponse', 'wrongUser', 'network']);
});

test('what was not sent is counted until it is', { skip: !PAGE }, async () => {
  await using client = await Client.open({
    mode: 'memory',
    user: 'alice',
    transport: { call: () => Promise.reject(new Error('no network')) },
  });
  const note = await client.create('note', 'n');
  await client.contents.put(note, 'text');
  await assert.rejects(client.sync(), { code: 'network' });
  const { pending, uploads, connection } = client.syncState();
  assert.deepEqual([pending, uploads, connection], [1, 1, 'offline']);
});

test('a replica on a disk is refused by name', { skip: !PAGE }, async () => {
  await assert.rejects(Client.open({ ...SERVER, mode: 'openOrCreate' }), { code: 'invalid', message: /directory/ });
  await assert.rejects(Client.open({ ...SERVER, directory: 'here' }), { code: 'invalid', message: /directory/ });
});
