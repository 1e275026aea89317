/** The kind of a {@link VfsSyncError}. */
export type ErrorCode =
  | 'violation'
  | 'network'
  | 'unauthorized'
  | 'wrongUser'
  | 'rematerializationRequired'
  | 'writeIdsAhead'
  | 'tooLarge'
  | 'invalidAddress'
  | 'refused'
  | 'malformedResponse'
  | 'unknownItem'
  | 'unknownPath'
  | 'cycle'
  | 'changed'
  | 'notPermitted'
  | 'otherTree'
  | 'invalid'
  | 'noContent'
  | 'wrongContent'
  | 'notDeclined'
  | 'unknownRejected'
  | 'inUse'
  | 'newerReplica'
  | 'olderReplica'
  | 'corruptReplica'
  | 'replicaExists'
  | 'noReplica'
  | 'storage'
  | 'io'
  | 'stopped'
  | 'restoredDuringRebuild'
  | 'cancelled'
  | 'closed'
  | 'panicked';

/** The details of an error or a violation, by name. */
export type Details = Readonly<Record<string, unknown>>;

/** A stage of a client's work, in which a guardrail may be violated. */
export type Stage = 'pull' | 'reconcile' | 'flush' | 'hydrate';

/** The `stage:code` of every guardrail. */
export type GuardrailSignature =
  | 'pull:pullPageInvariantViolation'
  | 'pull:pullDuplicateOpReplay'
  | 'pull:pullCursorRegression'
  | 'pull:lastWriteIdRegression'
  | 'pull:pullRematerializationRequired'
  | 'reconcile:reconcileCursorRegression'
  | 'reconcile:lastWriteIdRegression'
  | 'flush:staleWriteRecoveryExhausted'
  | 'hydrate:hydrateGuardrailViolation';

/** A violated guardrail: the server broke the protocol, or an imported state contradicts itself. */
export interface Violation {
  /** The stage in which the violation was found. */
  readonly stage: Stage;
  /** The name of the rule, such as `pullCursorRegression`. */
  readonly code: string;
  /** `stage:code`, the name by which the runbook lists the violation. */
  readonly signature: GuardrailSignature;
  /** The text of the error: the same for the same violation. */
  readonly message: string;
  /** The details, by name: the same for the same violation. */
  readonly details: Details;
}

/** The form in which a failure leaves the native part. @internal */
export interface NativeFailure {
  readonly code: ErrorCode;
  readonly message: string;
  readonly signature?: GuardrailSignature;
  readonly stage?: Stage;
  readonly details: Details;
  readonly transient: boolean;
}

/** The reason why a call failed. Unless its description says otherwise, the call changed nothing. */
export class VfsSyncError extends Error {
  override readonly name: string = 'VfsSyncError';
  /** The kind of the failure. */
  readonly code: ErrorCode;
  /** The details, by name. */
  readonly details: Details;
  /** True if the same call may succeed later without intervention. */
  readonly transient: boolean;

  constructor(code: ErrorCode, message: string, details: Details = {}, transient = false) {
    super(message);
    this.code = code;
    this.details = details;
    this.transient = transient;
  }
}

/** A call that ended in a violated guardrail. The client has stopped, and applied nothing of it. */
export class GuardrailViolationError extends VfsSyncError {
  override readonly name = 'GuardrailViolationError';
  /** The violation, as it was emitted before the call failed. */
  readonly violation: Violation;

  constructor(violation: Violation) {
    super('violation', violation.message, violation.details);
    this.violation = violation;
  }

  /** `stage:code`, the name by which the runbook lists the violation. */
  get signature(): GuardrailSignature {
    return this.violation.signature;
  }

  /** The stage in which the violation was found. */
  get stage(): Stage {
    return this.violation.stage;
  }
}

/** Makes the error of an argument that is not valid. @internal */
export function invalid(message: string): VfsSyncError {
  return new VfsSyncError('invalid', message);
}

/** @internal */
export function violationOf(failure: NativeFailure): Violation {
  const signature = failure.signature ?? 'hydrate:hydrateGuardrailViolation';
  const stage = failure.stage ?? 'hydrate';
  const code = signature.slice(stage.length + 1);
  return { stage, code, signature, message: failure.message, details: failure.details };
}

/** Converts what the native part throws, which has the failure as JSON in its message. @internal */
export function converted(thrown: unknown): unknown {
  if (!(thrown instanceof Error) || thrown instanceof VfsSyncError) return thrown;
  let failure: NativeFailure;
  try {
    failure = JSON.parse(thrown.message) as NativeFailure;
  } catch {
    // Arguments of a wrong type are noticed where they enter the native part: by a TypeError, or by a
    // code of Node-API such as `StringExpected`. Anything else is a bug of the native part.
    const { code } = thrown as { code?: unknown };
    if (thrown instanceof TypeError || (code !== undefined && code !== 'GenericFailure')) {
      return invalid(`an argument is not valid: ${thrown.message}`);
    }
    return new VfsSyncError('panicked', thrown.message);
  }
  if (failure.code === 'violation') return new GuardrailViolationError(violationOf(failure));
  return new VfsSyncError(failure.code, failure.message, failure.details, failure.transient);
}
