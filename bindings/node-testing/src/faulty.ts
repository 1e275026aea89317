import type { CallKind, Transport, TransportAnswer, TransportCall } from '@vfs-sync/client';

/** A fault of a network, or of a server that is not to be trusted. */
export type Fault =
  /** The request does not arrive. */
  | 'dropRequest'
  /** The server acts, and its answer is lost. */
  | 'dropAnswer'
  /** The request arrives twice; the second answer is returned. */
  | 'duplicate'
  /** The request arrives after the next one, and its answer is lost. */
  | 'reorder'
  /** The call takes longer, by so many milliseconds. */
  | { readonly delay: number }
  /** The server refuses with a status and a body. */
  | { readonly refuse: { readonly status: number; readonly body: unknown } }
  /** The answer is that of the call of this kind so many calls before: 1 is the last one. */
  | { readonly stale: number }
  /** The JSON of the answer is cut after so many characters. */
  | { readonly truncateAnswer: number }
  /** The answer is replaced by what the function makes of it. */
  | { readonly damageAnswer: (body: any) => unknown };

/** The number of answers that are kept of each kind of call. */
const ANSWERS_KEPT = 64;

class Lost extends Error {
  constructor() {
    super('the line is cut');
  }
}

/** A transport before the real one, with faults that a test controls. It forwards all other calls. */
export class FaultyTransport implements Transport {
  readonly #next = new Map<CallKind, Fault[]>();
  readonly #answers = new Map<CallKind, TransportAnswer[]>();
  readonly #kinds: CallKind[] = [];
  #late: TransportCall[] = [];
  #cut = false;

  /** Gives a fault to the next call of a kind that has none yet. */
  next(kind: CallKind, fault: Fault): void {
    this.#next.set(kind, [...(this.#next.get(kind) ?? []), fault]);
  }

  /** Stops all calls until {@link heal}. */
  cut(): void {
    this.#cut = true;
  }

  /** Lets calls through again. */
  heal(): void {
    this.#cut = false;
  }

  /** The kinds of the calls so far, in order. */
  get calls(): readonly CallKind[] {
    return this.#kinds;
  }

  async call(call: TransportCall): Promise<TransportAnswer> {
    this.#kinds.push(call.kind);
    if (this.#cut) throw new Lost();
    const fault = this.#next.get(call.kind)?.shift();
    if (fault === 'dropRequest') throw new Lost();
    if (fault === 'reorder') {
      this.#late.push(call);
      throw new Lost();
    }
    const late = this.#late;
    this.#late = [];
    try {
      return await this.#under(fault, call);
    } finally {
      // Nobody waits for their answers.
      for (const one of late) await one.forward().catch(() => undefined);
    }
  }

  async #under(fault: Exclude<Fault, 'dropRequest' | 'reorder'> | undefined, call: TransportCall): Promise<TransportAnswer> {
    if (fault === undefined) return this.#forward(call);
    if (fault === 'dropAnswer') {
      await this.#forward(call);
      throw new Lost();
    }
    if (fault === 'duplicate') {
      await this.#forward(call);
      return this.#forward(call);
    }
    if ('delay' in fault) {
      await new Promise((resolve) => setTimeout(resolve, fault.delay));
      return this.#forward(call);
    }
    if ('refuse' in fault) return fault.refuse;
    if ('stale' in fault) return this.#answers.get(call.kind)?.at(-fault.stale) ?? this.#forward(call);
    const answer = await this.#forward(call);
    if ('truncateAnswer' in fault) {
      return { ...answer, body: JSON.stringify(answer.body).slice(0, fault.truncateAnswer) };
    }
    return { ...answer, body: fault.damageAnswer(structuredClone(answer.body)) };
  }

  async #forward(call: TransportCall): Promise<TransportAnswer> {
    const answer = await call.forward();
    const answers = this.#answers.get(call.kind) ?? [];
    answers.push(answer);
    if (answers.length > ANSWERS_KEPT) answers.shift();
    this.#answers.set(call.kind, answers);
    return answer;
  }
}
