import { converted, invalid, VfsSyncError } from './errors.js';

/** @internal */
export interface NativeCancellation {
  cancel(): void;
  /** Releases its memory, where a collector does not know of it. */
  free?(): void;
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
  readRest(cancel?: NativeCancellation): Promise<Uint8Array<ArrayBuffer>>;
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
  free?(): void;
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

/** Makes JSON of a value that was made for it. @internal */
export function jsonOf(value: unknown, replacer?: (key: string, value: unknown) => unknown): string {
  try {
    return JSON.stringify(value, replacer);
  } catch (thrown) {
    if (thrown instanceof VfsSyncError || !(thrown instanceof Error)) throw thrown;
    throw invalid(`the call is not valid: ${thrown.message}`);
  }
}

/** What JSON would leave out, or store as something else. */
function kept(key: string, value: unknown): unknown {
  const kind = typeof value;
  const whole =
    value === null || kind === 'string' || kind === 'boolean' ||
    (kind === 'number' ? Number.isFinite(value) : kind === 'object' && plain(value as object));
  if (whole) return value;
  const shown = kind === 'object' ? Object.prototype.toString.call(value) : String(value);
  throw invalid(`the call is not valid: \`${key}\` is ${shown}, which JSON cannot hold`);
}

function plain(value: object): boolean {
  const tag = Object.prototype.toString.call(value);
  return tag === '[object Object]' || tag === '[object Array]';
}

/** Makes JSON of an edit, and refuses what would not come back as it went in. @internal */
export function editJson(value: unknown): string {
  return jsonOf(value, kept);
}

const ENCODER = new TextEncoder();

/** Returns the bytes to store, without a copy. Text is stored as UTF-8. @internal */
export function bytesOf(data: unknown): Uint8Array {
  if (typeof data === 'string') return ENCODER.encode(data);
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const tag = Object.prototype.toString.call(data);
  if (tag === '[object ArrayBuffer]') return new Uint8Array(data as ArrayBuffer);
  const hint = tag === '[object Blob]' || tag === '[object File]' ? ': await its arrayBuffer()' : '';
  throw invalid(`a content is text, an ArrayBuffer or a view of one, and not ${tag}${hint}`);
}

/** Runs a call that a signal may cancel; then it fails with the signal's reason. @internal */
export async function cancellable<T>(
  signal: AbortSignal | null | undefined,
  call: (cancel?: NativeCancellation) => Promise<T>,
): Promise<T> {
  if (signal == null) return settled(() => call());
  if (typeof signal.throwIfAborted !== 'function') throw invalid('`signal` is not an AbortSignal');
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
    cancel.free?.();
  }
}
