// The helpers of the runbook, as it writes them: against a hostile transport each passes for its
// violation, and fails for every other and for each detail that differs.
import assert, { AssertionError } from 'node:assert';
import { test } from 'node:test';
import { Client, GuardrailViolationError, type Violation } from '@vfs-sync/client';
import {
  allResults,
  cursor,
  expectExactGuardrailSignatures,
  expectGuardrailSignature,
  expectHydrateGuardrailViolation,
  expectLastWriteIdRegressionViolation,
  expectPullCursorRegressionViolation,
  expectPullDuplicateOpReplayViolation,
  expectPullPageInvariantViolation,
  expectPullRematerializationRequiredViolation,
  expectReconcileCursorRegressionViolation,
  expectStaleWriteRecoveryExhaustedViolation,
  itemEntry,
  page,
  ScriptedTransport,
  Status,
  ViolationCollector,
} from '@vfs-sync/testing';

const at = (millis: number): string => new Date(millis).toISOString();
const entry = (millis: number, opId: string) => itemEntry(at(millis), opId, `item-${opId}`);

interface Scene extends AsyncDisposable {
  readonly client: Client;
  readonly server: ScriptedTransport;
  readonly collector: ViolationCollector;
}

/** A client that has applied one entry, at (20, "b"), and knows write id 5 of `other`. */
async function scene(): Promise<Scene> {
  const server = new ScriptedTransport();
  const client = await Client.open({ mode: 'memory', user: 'alice', transport: server });
  server.onPull(() => page({ items: [entry(20, 'b')], lastReconciledWriteIds: { other: 5 } }));
  await client.sync();
  const collector = new ViolationCollector(client);
  return { client, server, collector, [Symbol.asyncDispose]: () => client.close() };
}

/** Captures `client.exportState()` before and after a retry, as the runbook says. */
async function failsClosed(
  { client, server, collector }: Scene,
  message: string,
  script: (server: ScriptedTransport) => void,
): Promise<Violation[]> {
  script(server);
  const failed = { name: 'GuardrailViolationError', message };
  await assert.rejects(client.sync(), failed);
  const before = client.exportState();
  const violations = collector.take();
  script(server);
  await assert.rejects(client.sync(), failed);
  assert.equal(client.exportState(), before, 'a failed attempt changed the state');
  assert.deepEqual(collector.violations, violations);
  assert.equal(violations.length, 1, 'emitted once');
  assert.equal(collector.take().length, 1);
  assert.equal(server.unused, 0);
  return violations;
}

const previous = { previousChangedAt: at(20), previousChangeId: 'b' };
const incoming = { incomingChangedAt: at(10), incomingChangeId: 'a' };
const MORE = 'transport returned hasMore=true with an empty pull page';
const REGRESSED = 'transport regressed lastReconciledWriteIds for replica other';
const STALE = 'stale write-id recovery exceeded max retry attempts without forward progress';

interface Case {
  readonly name: string;
  make(): Promise<Violation[]>;
  /** The helper, with the violation's own details. */
  met(violations: readonly Violation[]): void;
  /** The helper with one detail that differs. */
  readonly unmet: readonly ((violations: readonly Violation[]) => void)[];
}

async function hostile(message: string, script: (server: ScriptedTransport) => void): Promise<Violation[]> {
  await using set = await scene();
  return await failsClosed(set, message, script);
}

const cases: readonly Case[] = [
  {
    name: 'pull:pullPageInvariantViolation',
    make: () => hostile(MORE, (server) => server.onPull(() => page({ hasMore: true }))),
    met: (violations) => expectPullPageInvariantViolation({ violations, hasMore: true, itemsLength: 0 }),
    unmet: [
      (violations) => expectPullPageInvariantViolation({ violations, hasMore: false, itemsLength: 0 }),
      (violations) => expectPullPageInvariantViolation({ violations, hasMore: true, itemsLength: 1 }),
    ],
  },
  {
    name: 'pull:pullDuplicateOpReplay',
    make: () =>
      hostile('transport replayed opId c during pull pagination', (server) =>
        server.onPull(() => page({ items: [entry(30, 'c'), entry(40, 'c')] })),
      ),
    met: (violations) => expectPullDuplicateOpReplayViolation({ violations, opId: 'c' }),
    unmet: [(violations) => expectPullDuplicateOpReplayViolation({ violations, opId: 'b' })],
  },
  {
    name: 'pull:pullCursorRegression',
    make: () =>
      hostile('transport returned regressing sync cursor', (server) =>
        server.onPull(() => page({ items: [entry(10, 'a')] })),
      ),
    met: (violations) => {
      expectPullCursorRegressionViolation({ violations, previousChangedAt: at(20) });
      expectPullCursorRegressionViolation({ violations, ...previous, ...incoming });
    },
    unmet: [
      (violations) => expectPullCursorRegressionViolation({ violations, previousChangedAt: at(21) }),
      (violations) => expectPullCursorRegressionViolation({ violations, ...previous, previousChangeId: 'a' }),
      (violations) => expectPullCursorRegressionViolation({ violations, ...previous, incomingChangedAt: at(20) }),
      (violations) => expectPullCursorRegressionViolation({ violations, ...previous, incomingChangeId: 'b' }),
    ],
  },
  {
    name: 'pull:lastWriteIdRegression',
    make: () =>
      hostile(REGRESSED, (server) =>
        server.onPull(() => page({ items: [entry(30, 'c')], lastReconciledWriteIds: { other: 4 } })),
      ),
    met: (violations) => {
      expectLastWriteIdRegressionViolation({ violations, stage: 'pull', replicaId: 'other' });
      const ids = { previousWriteId: 5, incomingWriteId: 4 };
      expectLastWriteIdRegressionViolation({ violations, stage: 'pull', replicaId: 'other', ...ids });
    },
    unmet: [
      (violations) => expectLastWriteIdRegressionViolation({ violations, stage: 'reconcile', replicaId: 'other' }),
      (violations) => expectLastWriteIdRegressionViolation({ violations, stage: 'pull', replicaId: 'phone' }),
      (violations) =>
        expectLastWriteIdRegressionViolation({ violations, stage: 'pull', replicaId: 'other', previousWriteId: 6 }),
      (violations) =>
        expectLastWriteIdRegressionViolation({ violations, stage: 'pull', replicaId: 'other', incomingWriteId: 5 }),
    ],
  },
  {
    name: 'pull:pullRematerializationRequired',
    make: () =>
      hostile('pull requires re-materialization from canonical state', (server) =>
        server.onPull(
          ({ body }) =>
            new Status(409, {
              error: 'pull requires re-materialization',
              code: 'crdt_rematerialization_required',
              requestedCursor: body.cursor,
              oldestAvailableCursor: cursor(at(30), 'c'),
            }),
        ),
      ),
    met: (violations) => {
      expectPullRematerializationRequiredViolation({ violations });
      expectPullRematerializationRequiredViolation({
        violations,
        requestedChangedAt: at(20),
        requestedChangeId: 'b',
        oldestAvailableChangedAt: at(30),
        oldestAvailableChangeId: 'c',
      });
    },
    unmet: [
      (violations) => expectPullRematerializationRequiredViolation({ violations, requestedChangeId: 'c' }),
      (violations) => expectPullRematerializationRequiredViolation({ violations, oldestAvailableChangedAt: null }),
    ],
  },
  {
    name: 'reconcile:reconcileCursorRegression',
    make: () =>
      hostile('transport reconcile regressed sync cursor', (server) =>
        server
          // Only what is new is reconciled: the second attempt has the entry already.
          .onPull(({ body }) => page({ items: body.cursor === cursor(at(20), 'b') ? [entry(30, 'c')] : [] }))
          .onReconcile(({ body }) => ({ ...body, cursor: cursor(at(10), 'a') })),
      ),
    met: (violations) => {
      expectReconcileCursorRegressionViolation({ violations });
      expectReconcileCursorRegressionViolation({ violations, previousChangedAt: at(30), ...incoming });
    },
    unmet: [
      (violations) => expectReconcileCursorRegressionViolation({ violations, previousChangedAt: at(20) }),
      (violations) => expectReconcileCursorRegressionViolation({ violations, incomingChangeId: 'b' }),
    ],
  },
  {
    name: 'reconcile:lastWriteIdRegression',
    make: () =>
      hostile(REGRESSED, (server) =>
        server
          .onPull(() => page({ lastReconciledWriteIds: { other: 6 } }))
          .onReconcile(({ body }) => ({ ...body, lastReconciledWriteIds: { other: 5 } })),
      ),
    met: (violations) => {
      const ids = { previousWriteId: 6, incomingWriteId: 5 };
      expectLastWriteIdRegressionViolation({ violations, stage: 'reconcile', replicaId: 'other', ...ids });
    },
    unmet: [
      (violations) => expectLastWriteIdRegressionViolation({ violations, stage: 'pull', replicaId: 'other' }),
      (violations) => expectLastWriteIdRegressionViolation({ violations, stage: 'reconcile', replicaId: 'x' }),
    ],
  },
  {
    name: 'flush:staleWriteRecoveryExhausted',
    async make() {
      await using set = await scene();
      await set.client.createFolder('f');
      const violations = await failsClosed(set, STALE, (server) => {
        for (let attempt = 0; attempt < 3; attempt += 1) {
          server.onPush((call) => {
            const last = call.body.operations[0].writeId + 10;
            return allResults(call, 'staleWriteId', { lastWriteId: last });
          });
        }
      });
      assert.equal(set.client.status().pending, 1, 'it waits');
      return violations;
    },
    met: (violations) => expectStaleWriteRecoveryExhaustedViolation({ violations, attempts: 2, maxAttempts: 2 }),
    unmet: [
      (violations) => expectStaleWriteRecoveryExhaustedViolation({ violations, attempts: 1, maxAttempts: 2 }),
      (violations) => expectStaleWriteRecoveryExhaustedViolation({ violations, attempts: 2, maxAttempts: 3 }),
    ],
  },
  {
    name: 'hydrate:hydrateGuardrailViolation',
    async make() {
      await using set = await scene();
      const good = set.client.exportState();
      const open = (clientId: string) =>
        Client.open({ mode: 'memory', user: 'alice', clientId, transport: new ScriptedTransport() });
      await using other = await open('somebody-else');
      const pristine = other.exportState();
      await assert.rejects(other.hydrateState(good), { name: 'GuardrailViolationError', stage: 'hydrate' });
      assert.equal(other.exportState(), pristine);
      await using again = await open(set.client.clientId);
      assert.equal((await again.hydrateState(good)).items, 1);
      assert.equal(again.exportState(), good);
      assert.deepEqual(again.violations(), []);
      return other.takeViolations();
    },
    met: (violations) => {
      expectHydrateGuardrailViolation({ violations });
      expectHydrateGuardrailViolation({ violations, messagePattern: /^clientId/ });
      const everywhere = /clientid/gi;
      expectHydrateGuardrailViolation({ violations, messagePattern: everywhere });
      expectHydrateGuardrailViolation({ violations, messagePattern: everywhere });
    },
    unmet: [(violations) => expectHydrateGuardrailViolation({ violations, messagePattern: /is in order/ })],
  },
];

const made: Violation[] = [];

for (const { name, make, met, unmet } of cases) {
  test(`${name} is emitted, fails closed, and its helper passes and fails as it must`, async () => {
    const violations = await make();
    made.push(...violations);
    met(violations);
    const signature = name as Violation['signature'];
    expectGuardrailSignature({ violations, signature });
    expectExactGuardrailSignatures({ violations, signatures: [signature] });
    for (const expectation of unmet) assert.throws(() => expectation(violations), AssertionError);
    assert.throws(() => met([]), /got no violation$/);
  });
}

test('each helper is met by its violation alone, among all', () => {
  assert.equal(made.length, cases.length);
  for (const [at, { met, name }] of cases.entries()) {
    met(made);
    const others = made.filter((_, index) => index !== at);
    assert.throws(() => met(others), (error: Error) => {
      const [first = '', ...lines] = error.message.split('\n');
      assert.ok(first.startsWith(`expected ${name}`), first);
      assert.equal(lines.length, 1 + others.length);
      return true;
    });
  }
});

test('exact signatures are all of them, in order', () => {
  const [page, replay] = made as [Violation, Violation];
  const violations = [page, replay];
  const signatures = [page.signature, replay.signature];
  expectExactGuardrailSignatures({ violations, signatures });
  for (const wrong of [[page.signature], [...signatures].reverse(), [...signatures, page.signature], []]) {
    assert.throws(() => expectExactGuardrailSignatures({ violations, signatures: wrong }), /^AssertionError.*expected exactly/s);
  }
  const signature = 'flush:staleWriteRecoveryExhausted';
  assert.throws(() => expectGuardrailSignature({ violations, signature }), AssertionError);
});

test('an argument that is missing or unknown is an error, and not a pass', () => {
  const violations = made;
  const loose = (helper: unknown, args: object) => () => (helper as (args: object) => void)(args);
  assert.throws(loose(expectPullPageInvariantViolation, { violations, hasMore: true }), /itemsLength is missing/);
  assert.throws(loose(expectPullDuplicateOpReplayViolation, { violations, opID: 'c' }), /no argument opID/);
  assert.throws(loose(expectGuardrailSignature, { signature: made[0]?.signature }), /violations is not an array/);
  assert.throws(loose(expectHydrateGuardrailViolation, { violations, messagePattern: 'client' }), /not a regular/);
});

test('the error of the call has the stage, the code and the details', async () => {
  await using set = await scene();
  set.server.onPull(() => page({ hasMore: true }));
  const error = await set.client.sync().catch((error: unknown) => error);
  assert.ok(error instanceof GuardrailViolationError);
  assert.equal(error.code, 'violation');
  assert.equal(error.stage, 'pull');
  assert.equal(error.signature, 'pull:pullPageInvariantViolation');
  assert.deepEqual(error.details, { hasMore: true, itemsLength: 0 });
  assert.deepEqual(error.violation, set.collector.violations[0]);
  assert.equal(error.violation.code, 'pullPageInvariantViolation');
  assert.equal(set.client.syncState().stopped?.signature, error.signature);
});
