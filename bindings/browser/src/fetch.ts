import { reasonOf } from '../../node/src/transport.js';
import type { PendingChunk, PendingFetch } from '../wasm/vfs_sync_browser.js';

/** Sends a request of the client by the page's `fetch`. @internal */
export function fetchCallback(pending: PendingFetch): void {
  const abort = new AbortController();
  pending.onAbort(() => abort.abort());
  void (async () => {
    try {
      const given = pending.headers;
      const headers: [string, string][] = [];
      for (let at = 0; at + 1 < given.length; at += 2) headers.push([given[at]!, given[at + 1]!]);
      const answer = await globalThis.fetch(pending.url, {
        method: pending.method,
        headers,
        body: pending.body as BodyInit | null,
        signal: abort.signal,
        // A token goes to nobody but the server that it is for, and nothing else goes with it.
        redirect: 'error',
        credentials: 'omit',
        cache: 'no-store',
        referrerPolicy: 'no-referrer',
      });
      const reader = answer.body?.getReader();
      const pull = (chunk: PendingChunk): void => {
        void (async () => {
          try {
            const next = await reader?.read();
            chunk.resolve(next?.value);
          } catch (thrown) {
            chunk.fail(reasonOf(thrown));
          } finally {
            chunk.free();
          }
        })();
      };
      pending.answer(answer.status, [...answer.headers].flat(), pull);
    } catch (thrown) {
      pending.fail(reasonOf(thrown));
    } finally {
      // It has the body of the request, and the collector does not know how large that is.
      pending.free();
    }
  })();
}
