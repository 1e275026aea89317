// The conformance suite in TypeScript: scenarios as data, with the results that every language has.
import assert from 'node:assert';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Client, GuardrailViolationError, VfsSyncError, type Batch } from '@vfs-sync/client';
import { allResults, ScriptedTransport, Status } from '@vfs-sync/testing';

const DIRECTORY = join(__dirname, '..', '..', 'conformance');

type Step = Record<string, any> & { do: string };
type Edit = Record<string, any> & { edit: string };

/** Replaces `$name` by the value that an earlier step gave the name. */
function filled(value: any, names: Map<string, unknown>): any {
  if (typeof value === 'string' && value.startsWith('$')) return names.get(value.slice(1));
  if (Array.isArray(value)) return value.map((one) => filled(one, names));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, filled(one, names)]));
}

const edits: Record<string, (batch: Batch, edit: Edit) => unknown> = {
  create: (batch, { type, name, parent, metadata, id }) => batch.create(type, name, { parent, metadata, id }),
  rename: (batch, { item, name }) => batch.rename(item, name),
  move: (batch, { item, parent }) => batch.move(item, parent),
  link: (batch, { item, parent }) => batch.link(item, parent),
  unlink: (batch, { item, parent }) => batch.unlink(item, parent),
  delete: (batch, { item, recursive }) => batch.delete(item, { recursive: recursive ?? false }),
  setMetadata: (batch, { item, metadata }) => batch.setMetadata(item, metadata),
  touch: (batch, { item, modifiedAt }) => batch.touch(item, modifiedAt),
  share: (batch, { item, principal, level }) => batch.share(item, principal, level),
  unshare: (batch, { item, principal }) => batch.unshare(item, principal),
};

function answer(server: ScriptedTransport, step: Step): null {
  server.on(step['kind'], (call) => {
    if (step['fail'] !== undefined) throw new Error(step['fail']);
    if (step['results'] !== undefined) return allResults(call, step['results'], step['fields']);
    return new Status(step['status'] ?? 200, step['body']);
  });
  return null;
}

const calls: Record<string, (client: Client, step: Step, server: ScriptedTransport) => unknown> = {
  answer: (_, step, server) => answer(server, step),
  clock: (client, { millis }) => (client.advanceClock(millis), null),
  put: async (client, { item, text }) => (await client.contents.put(item, text), null),
  tree: (client) => client.walk().map(({ path }) => path),
  state: (client) => client.exportState(),
  violations: (client) =>
    client.takeViolations().map(({ signature, message, details }) => ({ signature, message, details })),
  sync: (client) => client.sync(),
  find: async (client, { query }) =>
    (await client.find(query)).items.map(({ id, name, modifiedAt }) => [id, name, modifiedAt]),
  edit: (client, step) =>
    client.transaction((batch) => {
      for (const edit of step['edits'] as Edit[]) edits[edit.edit]!(batch, edit);
    }),
  getOrCreateFolder: (client, { name }) => client.getOrCreateFolder(name),
  hydrateState: (client, { state }) => client.hydrateState(state),
  clientId: (client) => client.clientId,
  children: (client, { parent }) => client.children(parent),
  resolve: (client, { path }) => client.resolve(path),
  syncState: (client) => client.syncState(),
  outstanding: (client) => client.queue.outstanding(),
};

for (const file of readdirSync(DIRECTORY).filter((name) => name.endsWith('.json'))) {
  const { about, steps } = JSON.parse(readFileSync(join(DIRECTORY, file), 'utf8')) as {
    about: string;
    steps: Step[];
  };
  test(`${file}: ${about}`, async () => {
    const server = new ScriptedTransport();
    await using client = await Client.open({
      mode: 'memory',
      user: 'alice',
      clientId: 'conformance',
      device: 'laptop',
      test: { seed: 1, now: '2026-01-01T12:00:00.000Z' },
      transport: server,
    });
    const names = new Map<string, unknown>();
    for (const [at, raw] of steps.entries()) {
      const step = filled(raw, names) as Step;
      const place = `step ${at}: ${step.do}`;
      let result: any;
      try {
        result = await calls[step.do]!(client, step, server);
      } catch (error) {
        assert.ok(error instanceof VfsSyncError && step['error'] !== undefined, `${place}: ${error}`);
        const { code, signature } = step['error'];
        assert.equal(error.code, code, `${place}: ${error}`);
        if (signature !== undefined) assert.equal((error as GuardrailViolationError).signature, signature, place);
        continue;
      }
      assert.equal(step['error'], undefined, `${place} succeeded`);
      if (step['as'] !== undefined) names.set(step['as'], result);
      // The results of the edits of a transaction are those of the batch.
      if (step['shows'] !== undefined) assert.equal(result.length, step['shows'].length, place);
      else if (step.do !== 'edit' && 'expect' in step) assert.deepEqual(result, step['expect'], place);
    }
  });
}
