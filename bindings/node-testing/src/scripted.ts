import type { CallKind, Transport, TransportAnswer, TransportCall } from '@vfs-sync/client';
import { page } from './build.js';

/** Makes the answer to a call. What it throws is a failure of the network. */
export type Answer = (call: TransportCall) => unknown;

/** A call that a transport received. */
export interface RecordedCall {
  readonly kind: CallKind;
  readonly body: any;
  /** The phase of the script in which the call came. */
  readonly phase: string | null;
}

/** An answer with a status of its own: that of an error, with the body of one. */
export class Status implements TransportAnswer {
  constructor(
    readonly status: number,
    readonly body: unknown,
  ) {}
}

/** Makes the answer that gives every operation of a push the same status. */
export function allResults(call: TransportCall, status: string, fields: Record<string, unknown> = {}): unknown {
  const operations = call.body.operations as readonly { opId: string }[];
  return {
    clientId: call.body.clientId,
    results: operations.map(({ opId }) => ({ opId, status, ...fields })),
  };
}

const UNKNOWN = new Status(404, { error: 'the script has no answer', code: 'not_found' });

/** Answers as the simplest server does: applied, nothing new, acknowledged. */
function plainly(call: TransportCall): unknown {
  switch (call.kind) {
    case 'push':
      return allResults(call, 'applied');
    case 'pull':
      return page();
    case 'reconcile':
      return call.body;
    case 'state':
      return { clientId: call.body.clientId, reconcileState: null, feedHead: null, lastWriteIds: {} };
    default:
      return UNKNOWN;
  }
}

/**
 * A transport that answers from a script, and records the calls. A call gets the next answer that was
 * set for its kind; else that of the present phase; else that of a minimal server.
 */
export class ScriptedTransport implements Transport {
  readonly #next = new Map<CallKind, Answer[]>();
  readonly #calls: RecordedCall[] = [];
  #phase: { readonly name: string; readonly answers: Partial<Record<CallKind, Answer>> } | null = null;

  /** Sets the answer to the next call of a kind that has none yet. */
  on(kind: CallKind, answer: Answer): this {
    const answers = this.#next.get(kind) ?? [];
    answers.push(answer);
    this.#next.set(kind, answers);
    return this;
  }

  onPush(answer: Answer): this {
    return this.on('push', answer);
  }

  onPull(answer: Answer): this {
    return this.on('pull', answer);
  }

  onReconcile(answer: Answer): this {
    return this.on('reconcile', answer);
  }

  /** Begins a phase: calls without an answer of their own get that of the phase. */
  begin(name: string, answers: Partial<Record<CallKind, Answer>>): void {
    this.#phase = { name, answers };
  }

  /** Ends the present phase. */
  end(): void {
    this.#phase = null;
  }

  /** The number of answers that were set and not used: 0 after a complete script. */
  get unused(): number {
    return [...this.#next.values()].reduce((sum, answers) => sum + answers.length, 0);
  }

  /** The calls so far, in order. */
  get calls(): readonly RecordedCall[] {
    return this.#calls;
  }

  async call(call: TransportCall): Promise<TransportAnswer> {
    this.#calls.push({ kind: call.kind, body: call.body, phase: this.#phase?.name ?? null });
    const answer = this.#next.get(call.kind)?.shift() ?? this.#phase?.answers[call.kind] ?? plainly;
    const body = await answer(call);
    return body instanceof Status ? body : { status: 200, body };
  }
}
