import {
  bytesOf,
  cancellable,
  settled,
  type NativeReader,
  type NativeSubscription,
  type NativeWriter,
} from './native.js';
import type { StoredContent } from './types.js';

/**
 * A stream of values, for `for await`. It begins when it is made, and ends when the loop is left,
 * when it is closed, or with the client.
 */
export class Subscription<T> implements AsyncIterableIterator<T>, Disposable, AsyncDisposable {
  readonly #native: NativeSubscription;
  readonly #signal: AbortSignal | null | undefined;
  readonly #map: (value: unknown) => T;

  /** @internal */
  constructor(
    native: NativeSubscription,
    signal?: AbortSignal | null,
    map: (value: unknown) => T = (value) => value as T,
  ) {
    this.#native = native;
    this.#signal = signal;
    this.#map = map;
  }

  /** Returns the next value. An aborted signal throws its reason. */
  async next(): Promise<IteratorResult<T, undefined>> {
    const json = await cancellable(this.#signal, (cancel) => this.#native.next(cancel));
    if (json === null || json === undefined) return { done: true, value: undefined };
    return { done: false, value: this.#map(JSON.parse(json)) };
  }

  /** Ends the stream. */
  close(): void {
    this.#native.close();
  }

  async return(): Promise<IteratorResult<T, undefined>> {
    this.close();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

/** Bytes to store, or text to store as UTF-8. */
export type Bytes = string | ArrayBuffer | ArrayBufferView;

/** The number of bytes that are read at a time. */
const CHUNK = 256 * 1024;

/** A content of an item. It is read once, as a stream of chunks or as a whole. */
export class Content implements AsyncIterable<Uint8Array<ArrayBuffer>> {
  readonly #native: NativeReader;
  readonly #signal: AbortSignal | null | undefined;

  /** @internal */
  constructor(native: NativeReader, signal?: AbortSignal | null) {
    this.#native = native;
    this.#signal = signal;
  }

  /** The size in bytes. */
  get size(): number {
    return this.#native.size;
  }

  /** The SHA-256 digest of the bytes, which was verified. */
  get digest(): string {
    return this.#native.digest;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
    for (;;) {
      this.#signal?.throwIfAborted();
      const chunk = await settled(() => this.#native.read(CHUNK));
      if (chunk.length === 0) return;
      yield chunk;
    }
  }

  /** Reads the rest of the bytes. */
  async bytes(): Promise<Uint8Array<ArrayBuffer>> {
    const rest = await cancellable(this.#signal, (cancel) => this.#native.readRest(cancel));
    // A Buffer of Node has other methods than the bytes that a page has.
    return new Uint8Array(rest.buffer, rest.byteOffset, rest.byteLength);
  }

  /** Reads the rest of the bytes as UTF-8. */
  async text(): Promise<string> {
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(await this.bytes());
  }
}

/** A content that is being written. One that is dropped or aborted leaves nothing. */
export class ContentWriter implements AsyncDisposable {
  readonly #native: NativeWriter;
  #open = true;

  /** @internal */
  constructor(native: NativeWriter) {
    this.#native = native;
  }

  /** Writes the next bytes; resolves when there is room for more. Text is written as UTF-8. */
  async write(bytes: Bytes): Promise<void> {
    await settled(async () => this.#native.write(bytesOf(bytes)));
  }

  /** Queues the content: from then on it is durable, and shown. */
  async finish(): Promise<StoredContent> {
    this.#open = false;
    return JSON.parse(await settled(() => this.#native.finish())) as StoredContent;
  }

  /** Gives the content up. */
  abort(): void {
    this.#open = false;
    this.#native.abort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#open) this.abort();
  }
}
