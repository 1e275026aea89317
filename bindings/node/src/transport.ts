import { converted, invalid } from './errors.js';
import { bytesOf, settled, type PendingCall, type PendingToken } from './native.js';

/** The name of a call to the server. */
export type CallKind =
  | 'push'
  | 'pull'
  | 'reconcile'
  | 'state'
  | 'limits'
  | 'stage'
  | 'upload'
  | 'stageState'
  | 'openUpload'
  | 'append'
  | 'attach'
  | 'blobBatch'
  | 'versions'
  | 'trash'
  | 'restore'
  | 'purge'
  | 'download';

/** A call to the server, for a transport of the application's own. */
export interface TransportCall {
  readonly kind: CallKind;
  /** The arguments of the call, as in docs/protocol.md. */
  readonly body: any;
  /** The bytes that the call uploads. */
  readonly data: Uint8Array | null;
  /**
   * Makes the call to the server, if the client has one behind this transport. The same call can be
   * forwarded several times, and later.
   */
  forward(): Promise<TransportAnswer>;
}

/** The answer to a call, in the form of HTTP. */
export interface TransportAnswer {
  /** The status: 200 by default. */
  readonly status?: number;
  /** The JSON of the answer, or `{ error, code, … }`. */
  readonly body: unknown;
  /** The bytes of a download. */
  readonly data?: Uint8Array;
  /** The seconds that the client should wait. */
  readonly retryAfter?: number;
}

/**
 * A transport of the application's own: it answers calls itself, or forwards them. What it throws is
 * a failure of the network; the error of a forwarded call stays what it is.
 */
export interface Transport {
  call(call: TransportCall): TransportAnswer | Promise<TransportAnswer>;
}

/** A source of tokens. `refresh` is true if the server has just rejected the previous one. */
export type TokenSource = string | ((refresh: boolean) => string | Promise<string>);

/** Returns the text of anything that is thrown. @internal */
export function reasonOf(thrown: unknown): string {
  try {
    return String(thrown instanceof Error ? thrown.message : thrown);
  } catch {
    return 'an object without text was thrown';
  }
}

/** @internal */
export function tokenCallback(source: TokenSource): (pending: PendingToken) => void {
  if (typeof source !== 'string' && typeof source !== 'function') {
    throw invalid('`token` is neither a string nor a function');
  }
  return (pending) => {
    void (async () => {
      try {
        const token = typeof source === 'string' ? source : await source(pending.refresh);
        if (typeof token !== 'string') throw new TypeError('the token is not a string');
        pending.resolve(token);
      } catch (thrown) {
        pending.fail(reasonOf(thrown));
      } finally {
        pending.free?.();
      }
    })();
  };
}

/** @internal */
export function transportCallback(transport: Transport): (pending: PendingCall) => void {
  if (typeof transport?.call !== 'function') throw invalid('`transport` has no function `call`');
  return (pending) => {
    void (async () => {
      try {
        const { status = 200, body, data, retryAfter } = await transport.call({
          kind: pending.kind as CallKind,
          body: JSON.parse(pending.body),
          data: pending.data,
          async forward() {
            const forwarded = await settled(() => pending.forward());
            const answer = { status: forwarded.status, body: JSON.parse(forwarded.body) as unknown };
            return forwarded.data == null ? answer : { ...answer, data: forwarded.data };
          },
        });
        const json = typeof body === 'string' ? body : JSON.stringify(body ?? null) ?? 'null';
        // The native part takes these types for granted.
        if (!Number.isInteger(status) || status < 100 || status > 999) {
          throw new TypeError(`the status ${String(status)} is none`);
        }
        if (retryAfter !== undefined && typeof retryAfter !== 'number') {
          throw new TypeError('`retryAfter` is not a number');
        }
        pending.answer(status, json, data == null ? undefined : bytesOf(data), retryAfter);
      } catch (thrown) {
        const error = converted(thrown);
        pending.fail(reasonOf(error));
      }
    })();
  };
}
