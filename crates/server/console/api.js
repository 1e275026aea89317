// The API for operators, by the cookie of the session.

const HEADERS = { 'Vfs-Sync-Console': '1' };
const TIMEOUT = 20_000;
const API = '/v1/vfs/admin';

/** A call that did not succeed; `status` is 0 if there was no answer. */
export class Refusal extends Error {
  constructor(status, body, retryAfter) {
    super(body?.error ?? 'The server does not answer');
    this.status = status;
    this.code = body?.code ?? 'no_answer';
    this.reason = body?.reason;
    this.requestId = body?.requestId;
    this.retryAfter = Number(retryAfter) || 0;
  }
}

let ended = () => {};

/** Sets what is done once the session has ended. */
export function whenEnded(work) {
  ended = work;
}

async function send(method, path, headers, body) {
  let response;
  try {
    response = await fetch(`${API}${path}`, {
      method,
      headers: { ...HEADERS, ...headers, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: 'same-origin',
      cache: 'no-store',
      redirect: 'error',
      referrerPolicy: 'no-referrer',
      signal: AbortSignal.timeout(TIMEOUT),
    });
  } catch {
    throw new Refusal(0, null, 0);
  }
  const text = response.status === 204 ? '' : await response.text();
  let answer = null;
  try {
    answer = text === '' ? null : JSON.parse(text);
  } catch {
    throw new Refusal(response.status, { error: 'The answer is not of the server: something in between answered' }, 0);
  }
  if (!response.ok) throw new Refusal(response.status, answer, response.headers.get('Retry-After'));
  return answer;
}

async function call(method, path, body) {
  try {
    return await send(method, path, {}, body);
  } catch (refusal) {
    if (refusal.status === 401) ended(refusal);
    throw refusal;
  }
}

export const get = (path) => call('GET', path);
export const post = (path, body) => call('POST', path, body);
export const remove = (path) => call('DELETE', path);

/** Exchanges a token for a session. */
export const signIn = (token) => send('POST', '/sessions', { Authorization: `Bearer ${token}` });

/** Returns the present session; a refusal if there is none. */
export const session = () => send('GET', '/sessions/current', {});

/** Encodes an id as a step of a path. */
export function step(id) {
  return encodeURIComponent(id === '.' || id === '..' ? ` ${id}` : id);
}

/** Says what a refusal means, and what to do next. */
export function explain(refusal) {
  const next = {
    0: 'Look whether the server runs, and whether this machine reaches its operator’s listener. The page tries again by itself.',
    401: 'Sign in again with a token of the scope vfs:admin.',
    403: 'Have a token made with the scope vfs:admin; `vfs-sync explain ' + refusal.code + '` says more.',
    404: 'It may have ended or been removed meanwhile: load the view again.',
    429: `Wait ${refusal.retryAfter || 1} s, then try again.`,
    500: `The server’s log has the reason at request ${refusal.requestId ?? '–'}.`,
    503: 'The page tries again by itself; `vfs-sync admin doctor` on the server examines the database.',
  }[refusal.status] ?? '`vfs-sync explain ' + refusal.code + '` says more.';
  return `${refusal.message}. ${next}`;
}
