// The state of the server, asked for again and again, and a short history of it, in this page alone.

import { get } from './api.js';
import { quantile, since } from './chart.js';
import { setClock } from './format.js';

/** The time between two questions, and the longest after failures. */
const EVERY = 2000;
const AT_MOST = 30_000;
/** Samples that are kept: five minutes. */
export const SLOTS = 150;

export const live = { overview: null, problems: null, samples: [], refusal: null };

const listeners = new Set();
let [timer, wait, running] = [null, EVERY, false];
let before = null;

/** Calls `listener` after each answer, until the returned function is called. */
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function sample(vitals, at) {
  const last = before;
  before = { vitals, at };
  const pushed = (one) => Object.values(one.pushResults).reduce((sum, value) => sum + value, 0);
  if (last === null || vitals.requests < last.vitals.requests) return;
  const passed = (at - last.at) / 1000;
  const requests = vitals.requests - last.vitals.requests;
  const times = since(vitals.requestSeconds, last.vitals.requestSeconds);
  live.samples.push({
    requests: requests / passed,
    failed: (vitals.failed - last.vitals.failed) / passed,
    refused: (vitals.refused - last.vitals.refused) / passed,
    pushed: (pushed(vitals) - pushed(last.vitals)) / passed,
    pulled: (vitals.pullItems - last.vitals.pullItems) / passed,
    half: quantile(times, 0.5),
    most: quantile(times, 0.99),
    vitals: last.vitals,
  });
  if (live.samples.length > SLOTS) live.samples.shift();
}

async function ask() {
  timer = null;
  try {
    const [overview, problems] = await Promise.all([get('/overview'), get('/problems')]);
    setClock(overview.now);
    sample(overview.vitals, performance.now());
    Object.assign(live, { overview, problems, refusal: null });
    wait = EVERY;
  } catch (refusal) {
    live.refusal = refusal;
    wait = Math.min(AT_MOST, Math.max(wait * 2, (refusal.retryAfter ?? 0) * 1000));
    if (refusal.status === 401) running = false;
  }
  for (const listener of listeners) listener();
  plan();
}

function plan() {
  if (running && timer === null && !document.hidden) timer = setTimeout(ask, wait);
}

/** Begins to ask, at once. */
export async function start() {
  running = true;
  if (timer !== null) clearTimeout(timer);
  wait = EVERY;
  await ask();
}

/** Asks no more. */
export function stop() {
  running = false;
  if (timer !== null) clearTimeout(timer);
  timer = null;
}

// A page that nobody sees asks nothing.
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && running && timer === null) ask();
});

/** Returns the part of failed requests and the time of pushes, in the history and since the start. */
export function objectives() {
  const { vitals } = live.overview;
  const first = live.samples[0]?.vitals ?? vitals;
  const requests = vitals.requests - first.requests;
  const failed = vitals.failed - first.failed;
  return {
    requests,
    failed: requests > 0 ? failed / requests : 0,
    failedEver: vitals.requests > 0 ? vitals.failed / vitals.requests : 0,
    push: quantile(since(vitals.pushSeconds, first.pushSeconds), 0.99),
    pushEver: quantile(vitals.pushSeconds, 0.99),
  };
}
