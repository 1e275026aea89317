import { AssertionError } from 'node:assert';
import type { Client, GuardrailSignature, Stage, Violation } from '@vfs-sync/client';

/** The violations of a client, in the order in which they were emitted. */
export class ViolationCollector {
  readonly #client: Client;

  constructor(client: Client) {
    this.#client = client;
  }

  /** The violations so far. */
  get violations(): Violation[] {
    return this.#client.violations();
  }

  /** Removes and returns the violations so far. */
  take(): Violation[] {
    return this.#client.takeViolations();
  }
}

/** The argument of every helper: the violations that were emitted. */
export interface Emitted {
  readonly violations: readonly Violation[];
}

/** The details of a cursor that regressed. Those that are given must match. */
export interface CursorDetails {
  readonly previousChangedAt: string;
  readonly previousChangeId?: string;
  readonly incomingChangedAt?: string;
  readonly incomingChangeId?: string;
}

function shown(violation: Violation): string {
  const { signature, message, details } = violation;
  return `  ${signature} ${JSON.stringify(message)} with ${JSON.stringify(details)}`;
}

function fail(expected: string, violations: readonly Violation[], from: Function): never {
  const got = violations.length === 0 ? 'got no violation' : ['got', ...violations.map(shown)].join('\n');
  throw new AssertionError({
    message: `expected ${expected}\n${got}`,
    actual: violations.map(({ signature }) => signature),
    expected,
    operator: from.name,
    stackStartFn: from,
  });
}

/** Returns the details to compare, and refuses arguments that the helper does not have or lacks. */
function detailsOf(
  args: object,
  from: Function,
  required: readonly string[],
  optional: readonly string[] = [],
): Record<string, unknown> {
  const given = args as Record<string, unknown>;
  if (!Array.isArray(given['violations'])) {
    throw new TypeError(`${from.name}: violations is not an array: take it from a ViolationCollector`);
  }
  const details: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(given)) {
    if (name === 'violations') continue;
    if (!required.includes(name) && !optional.includes(name)) {
      throw new TypeError(`${from.name}: there is no argument ${name}`);
    }
    if (value !== undefined) details[name] = value;
  }
  for (const name of required) {
    if (!(name in details)) throw new TypeError(`${from.name}: ${name} is missing`);
  }
  return details;
}

function expectViolation(
  violations: readonly Violation[],
  signature: string,
  details: Record<string, unknown>,
  from: Function,
  messagePattern?: RegExp,
): void {
  const matches = (violation: Violation): boolean =>
    violation.signature === signature &&
    Object.entries(details).every(([name, value]) => violation.details[name] === value) &&
    // A pattern with the flag `g` or `y` would begin where it ended the last time.
    (messagePattern === undefined ||
      new RegExp(messagePattern.source, messagePattern.flags.replace(/[gy]/g, '')).test(violation.message));
  if (violations.some(matches)) return;
  const named = Object.keys(details).length > 0 ? ` with ${JSON.stringify(details)}` : '';
  const message = messagePattern === undefined ? '' : ` whose message matches ${messagePattern}`;
  fail(`${signature}${named}${message}`, violations, from);
}

/** Expects that a page had `hasMore` and `itemsLength` items. */
export function expectPullPageInvariantViolation(
  args: Emitted & { readonly hasMore: boolean; readonly itemsLength: number },
): void {
  const from = expectPullPageInvariantViolation;
  const details = detailsOf(args, from, ['hasMore', 'itemsLength']);
  expectViolation(args.violations, 'pull:pullPageInvariantViolation', details, from);
}

/** Expects that a page replayed `opId`. */
export function expectPullDuplicateOpReplayViolation(args: Emitted & { readonly opId: string }): void {
  const from = expectPullDuplicateOpReplayViolation;
  const details = detailsOf(args, from, ['opId']);
  expectViolation(args.violations, 'pull:pullDuplicateOpReplay', details, from);
}

const CURSOR = ['previousChangeId', 'incomingChangedAt', 'incomingChangeId'];

/** Expects that a page regressed behind the cursor of the previous one. */
export function expectPullCursorRegressionViolation(args: Emitted & CursorDetails): void {
  const from = expectPullCursorRegressionViolation;
  const details = detailsOf(args, from, ['previousChangedAt'], CURSOR);
  expectViolation(args.violations, 'pull:pullCursorRegression', details, from);
}

/** Expects that the server could not serve the requested cursor. */
export function expectPullRematerializationRequiredViolation(
  args: Emitted & {
    readonly requestedChangedAt?: string | null;
    readonly requestedChangeId?: string | null;
    readonly oldestAvailableChangedAt?: string | null;
    readonly oldestAvailableChangeId?: string | null;
  },
): void {
  const from = expectPullRematerializationRequiredViolation;
  const names = ['requestedChangedAt', 'requestedChangeId', 'oldestAvailableChangedAt', 'oldestAvailableChangeId'];
  const details = detailsOf(args, from, [], names);
  expectViolation(args.violations, 'pull:pullRematerializationRequired', details, from);
}

/** Expects that a reconcile acknowledged a cursor before the one that was sent. */
export function expectReconcileCursorRegressionViolation(args: Emitted & Partial<CursorDetails>): void {
  const from = expectReconcileCursorRegressionViolation;
  const details = detailsOf(args, from, [], ['previousChangedAt', ...CURSOR]);
  expectViolation(args.violations, 'reconcile:reconcileCursorRegression', details, from);
}

/** Expects that a pull or a reconcile, as `stage` says, returned a lower write id of `replicaId`. */
export function expectLastWriteIdRegressionViolation(
  args: Emitted & {
    readonly stage: Extract<Stage, 'pull' | 'reconcile'>;
    readonly replicaId: string;
    readonly previousWriteId?: number;
    readonly incomingWriteId?: number;
  },
): void {
  const from = expectLastWriteIdRegressionViolation;
  const names = ['previousWriteId', 'incomingWriteId'];
  const { stage, ...details } = detailsOf(args, from, ['stage', 'replicaId'], names);
  expectViolation(args.violations, `${String(stage)}:lastWriteIdRegression`, details, from);
}

/** Expects that write ids were still stale after `attempts` recoveries. */
export function expectStaleWriteRecoveryExhaustedViolation(
  args: Emitted & { readonly attempts: number; readonly maxAttempts: number },
): void {
  const from = expectStaleWriteRecoveryExhaustedViolation;
  const details = detailsOf(args, from, ['attempts', 'maxAttempts']);
  expectViolation(args.violations, 'flush:staleWriteRecoveryExhausted', details, from);
}

/** Expects that a state was rejected; with `messagePattern`, for a reason that matches it. */
export function expectHydrateGuardrailViolation(args: Emitted & { readonly messagePattern?: RegExp }): void {
  const from = expectHydrateGuardrailViolation;
  const { messagePattern } = detailsOf(args, from, [], ['messagePattern']);
  if (messagePattern !== undefined && !(messagePattern instanceof RegExp)) {
    throw new TypeError(`${from.name}: messagePattern is not a regular expression`);
  }
  expectViolation(args.violations, 'hydrate:hydrateGuardrailViolation', {}, from, messagePattern);
}

/** Expects a violation of this `stage:code`, perhaps among others. */
export function expectGuardrailSignature(args: Emitted & { readonly signature: GuardrailSignature }): void {
  const from = expectGuardrailSignature;
  const { signature } = detailsOf(args, from, ['signature']);
  expectViolation(args.violations, String(signature), {}, from);
}

/** Expects exactly these signatures, in this order. */
export function expectExactGuardrailSignatures(
  args: Emitted & { readonly signatures: readonly GuardrailSignature[] },
): void {
  const from = expectExactGuardrailSignatures;
  const { signatures } = detailsOf(args, from, ['signatures']) as { signatures: readonly string[] };
  const got = args.violations.map(({ signature }) => signature);
  if (got.length !== signatures.length || got.some((signature, at) => signature !== signatures[at])) {
    fail(`exactly ${JSON.stringify(signatures)}`, args.violations, from);
  }
}
