import './symbols.js';
import {
  provide,
  type Native,
  type NativeCancellation,
  type NativeClient,
  type NativeReader,
  type NativeSubscription,
  type NativeWriter,
} from '../../node/src/native.js';
import * as wasm from '../wasm/vfs_sync_browser.js';
import { fetchCallback } from './fetch.js';

export * from '../../node/src/client.js';
export * from '../../node/src/errors.js';
export { Content, ContentWriter, Subscription, type Bytes } from '../../node/src/stream.js';
export type {
  CallKind,
  TokenSource,
  Transport,
  TransportAnswer,
  TransportCall,
} from '../../node/src/transport.js';
export type * from '../../node/src/types.js';

type Cancellation = wasm.NativeCancellation;

/** The panic after which the WebAssembly cannot be used any more. */
let broken: Error | undefined;
/** How the calls that wait now are ended by a panic. */
const waiting = new Set<(reason: Error) => void>();

function panicked(text: string): void {
  broken ??= new Error(text);
  for (const reject of waiting) reject(broken);
}

function whole<T>(call: () => T): T {
  if (broken !== undefined) throw broken;
  return call();
}

async function answered<T>(call: () => Promise<T>): Promise<T> {
  return whole(() => new Promise<T>((resolve, reject) => {
    waiting.add(reject);
    call().then(resolve, reject).finally(() => waiting.delete(reject));
  }));
}

/** The cancellation of calls that are given none: it is never used. */
let never: Cancellation;
const given = (cancel?: NativeCancellation): Cancellation => (cancel as Cancellation) ?? never;

// What waits is held in `waiting`, with all that its closures see. The handles are therefore adapted apart from their
// client: one that is dropped with a stream that waits is collected, which ends the stream.

function adaptedSubscription(made: wasm.NativeSubscription): NativeSubscription {
  let subscription: wasm.NativeSubscription | undefined = made;
  return {
    next: async (cancel) => {
      const open = subscription;
      return open === undefined ? null : answered(() => open.next(given(cancel)));
    },
    close: () => {
      subscription?.close();
      subscription?.free();
      subscription = undefined;
    },
  };
}

function adaptedWriter(writer: wasm.NativeWriter): NativeWriter {
  return {
    write: (bytes) => answered(() => writer.write(bytes)),
    finish: () => answered(() => writer.finish()),
    abort: () => writer.abort(),
  };
}

function adaptedReader(reader: wasm.NativeReader): NativeReader {
  return {
    size: reader.size,
    digest: reader.digest,
    read: (atMost) => answered(() => reader.read(atMost)),
    readRest: (cancel) => answered(() => reader.readRest(given(cancel))),
  };
}

function adapted(client: wasm.NativeClient): NativeClient {
  return {
    read: (call) => whole(() => client.read(call)),
    write: (call) => answered(() => client.write(call)),
    run: (call, cancel) => answered(() => client.run(call, given(cancel))),
    subscribe: (stream) => adaptedSubscription(whole(() => client.subscribe(stream))),
    violations: (take) => whole(() => client.violations(take)),
    put: (options, bytes) => answered(async () => client.put(options, bytes)),
    writer: (options) => adaptedWriter(whole(() => client.writer(options))),
    reader: async (item, version, cancel) => {
      const opening = (): Promise<wasm.NativeReader> => client.reader(item, version, given(cancel));
      return adaptedReader(await answered(opening));
    },
    advanceClock: (millis) => client.advanceClock(millis),
    close: () => answered(() => client.close()),
  };
}

async function load(): Promise<Native> {
  const module = new URL('../wasm/vfs_sync_browser_bg.wasm', import.meta.url);
  if (module.protocol === 'file:') {
    // Node fetches no files.
    const files = 'node:fs/promises';
    const { readFile } = (await import(/* @vite-ignore */ files)) as {
      readFile(url: URL): Promise<BufferSource>;
    };
    await wasm.default({ module_or_path: await readFile(module) });
  } else {
    await wasm.default({ module_or_path: module });
  }
  wasm.onPanic(panicked);
  never = new wasm.NativeCancellation();
  return {
    open: async (options, tokens, transport) => {
      const open = async (): Promise<wasm.NativeClient> => wasm.open(options, fetchCallback, tokens, transport);
      return adapted(await answered(open));
    },
    NativeCancellation: wasm.NativeCancellation,
  };
}

let loading: Promise<Native> | undefined;
provide(() => (loading ??= load()));
