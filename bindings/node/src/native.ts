import { converted } from './errors.js';

/** @internal */
export interface NativeCancellation {
  cancel(): void;
}

/** @internal */
export interface NativeSubscription {
  next(cancel?: NativeCancellation): Promise<string | null>;
  close(): void;
}

/** @internal */
export interface NativeReader {
  readonly size: number;
  readonly digest: string;
  read(atMost: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** @internal */
export interface NativeWriter {
  write(bytes: Uint8Array): Promise<void>;
  finish(): Promise<string>;
  abort(): void;
}

/** @internal */
export interface PendingToken {
  readonly refresh: boolean;
  resolve(token: string): void;
  fail(reason: string): void;
}

/** @internal */
export interface PendingCall {
  readonly kind: string;
  readonly body: string;
  readonly data: Uint8Array | null;
  forward(): Promise<{ status: number; body: string; data?: Uint8Array }>;
  answer(status: number, body: string, data?: Uint8Array, retryAfter?: number): void;
  fail(reason: string): void;
}

/** @internal */
export interface NativeClient {
  read(call: string): string;
  write(call: string): Promise<string>;
  run(call: string, cancel?: NativeCancellation): Promise<string>;
  subscribe(stream: string): NativeSubscription;
  violations(take: boolean): string;
  put(options: string, bytes: Uint8Array): Promise<string>;
  writer(options: string): NativeWriter;
  reader(item: string, version?: string, cancel?: NativeCancellation): Promise<NativeReader>;
  advanceClock(millis: number): void;
  close(): Promise<void>;
}

/** @internal */
export interface Native {
  open(
    options: string,
    tokens?: (pending: PendingToken) => void,
    transport?: (pending: PendingCall) => void,
  ): Promise<NativeClient>;
  NativeCancellation: new () => NativeCancellation;
}

let load: (() => Promise<Native>) | undefined;
let loaded: Native | undefined;

/** Names the loader of the native part, which each package has of its own. @internal */
export function provide(loader: () => Promise<Native>): void {
  load = loader;
}

/** Loads the native part. @internal */
export async function native(): Promise<Native> {
  return (loaded ??= await load!());
}

/** Runs a call, and converts what it throws. @internal */
export function checked<T>(call: () => T): T {
  try {
    return call();
  } catch (thrown) {
    throw converted(thrown);
  }
}

/** Waits for a call, and converts what it throws. @internal */
export async function settled<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (thrown) {
    throw converted(thrown);
  }
}

/** Runs a call that a signal may cancel; then it fails with the signal's reason. @internal */
export async function cancellable<T>(
  signal: AbortSignal | undefined,
  call: (cancel?: NativeCancellation) => Promise<T>,
): Promise<T> {
  if (signal === undefined) return settled(() => call());
  signal.throwIfAborted();
  const cancel = new loaded!.NativeCancellation();
  const abort = (): void => cancel.cancel();
  signal.addEventListener('abort', abort, { once: true });
  try {
    return await settled(() => call(cancel));
  } catch (error) {
    if (signal.aborted && (error as { code?: unknown }).code === 'cancelled') throw signal.reason;
    throw error;
  } finally {
    signal.removeEventListener('abort', abort);
  }
}
