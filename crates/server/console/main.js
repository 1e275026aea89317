// The console: its sign-in, its views, and the state that stands above all of them.

import { h, named, replace, say } from './dom.js';
import { explain, remove, session, signIn, whenEnded } from './api.js';
import { duration, keepTimes, now } from './format.js';
import { listen, live, start, stop } from './live.js';
import { counted } from './views/problem.js';
import { overview } from './views/overview.js';
import { devices } from './views/devices.js';
import { user, users } from './views/users.js';
import { storage } from './views/storage.js';
import { server } from './views/server.js';
import { sessions } from './views/sessions.js';
import { search } from './views/search.js';

const main = document.getElementById('main');
const VIEWS = [
  ['overview', 'Overview', overview],
  ['devices', 'Devices', devices],
  ['users', 'Users', (element, name) => (name ? user(element, name) : users(element))],
  ['storage', 'Storage', storage],
  ['server', 'Server', server],
  ['sessions', 'Sessions', sessions],
];
const HIDDEN_VIEWS = [['search', 'Search', search]];

let ends = null;
let own = null;
let shown = 0;

function trouble(text) {
  const element = document.getElementById('trouble');
  say(element, text);
  element.hidden = text === '';
}

/** Shows the view that the address names. */
async function show() {
  const turn = ++shown;
  const [, name = 'overview', ...rest] = location.hash.split('/');
  let argument;
  try {
    argument = rest.length > 0 ? decodeURIComponent(rest.join('/')) : undefined;
  } catch {
    argument = undefined;
  }
  const view = [...VIEWS, ...HIDDEN_VIEWS].find(([known]) => known === name) ?? VIEWS[0];
  for (const link of document.querySelectorAll('#views a')) {
    if (link.getAttribute('href') === `#/${view[0]}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  ends?.();
  ends = null;
  document.title = `${view[1]} · vfs-sync console`;
  // A view is made apart, so that one that is left meanwhile replaces nothing.
  const made = document.createElement('div');
  try {
    const end = await view[2](made, argument);
    if (turn !== shown) {
      end?.();
      return;
    }
    ends = end ?? null;
    trouble('');
  } catch (refusal) {
    if (turn !== shown || refusal.status === 401) return;
    replace(made, h('h1', { tabindex: '-1' }, view[1]), h('p', { class: 'error' }, explain(refusal)),
      h('p', {}, h('button', { type: 'button', onclick: show }, 'Try again')));
  }
  replace(main, made);
  main.querySelector('h1')?.focus({ preventScroll: true });
}

function state() {
  const element = document.getElementById('state');
  if (live.refusal !== null) {
    if (live.refusal.status !== 401) trouble(explain(live.refusal));
    element.className = 'state bad';
    say(element, 'No answer');
    return;
  }
  if (live.overview === null) return;
  if (document.querySelector('#main .error') === null) trouble('');
  const { bad, notes } = counted();
  element.className = `state ${bad > 0 ? 'bad' : notes > 0 ? 'note' : 'ok'}`;
  say(element, bad > 0 ? `${bad} ${bad === 1 ? 'problem' : 'problems'}` : notes > 0 ? `${notes} ${notes === 1 ? 'note' : 'notes'}` : 'All well');
  document.title = document.title.replace(/^(\(\d+\) )?/, bad > 0 ? `(${bad}) ` : '');
}

function whose() {
  if (own === null) return;
  const left = (Date.parse(own.expiresAt) - now()) / 1000;
  replace(document.getElementById('who'), named(own.userId), ` · ${left > 0 ? `${duration(left)} left` : 'ended'}`);
}

/** Asks for a token; the view stays behind it. */
function askForToken(why) {
  stop();
  own = null;
  const dialog = document.getElementById('sign-in');
  say(document.getElementById('sign-in-why'), why);
  say(document.getElementById('sign-in-error'), '');
  document.getElementById('dialog').close();
  if (!dialog.open) dialog.showModal();
  document.getElementById('token').focus();
}

async function begin(session, again) {
  own = session;
  document.getElementById('sign-in').close();
  document.getElementById('top').hidden = false;
  whose();
  await start();
  if (!again || main.children.length === 0) await show();
}

// The sign-in is left by signing in alone.
document.getElementById('sign-in').addEventListener('cancel', (event) => event.preventDefault());
document.getElementById('sign-in').addEventListener('keydown', (event) => {
  if (event.key === 'Escape') event.preventDefault();
});
document.getElementById('sign-in-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const [input, error] = [document.getElementById('token'), document.getElementById('sign-in-error')];
  const button = event.target.querySelector('button');
  button.disabled = true;
  say(error, '');
  try {
    const given = await signIn(input.value.trim());
    input.value = '';
    await begin(given, main.children.length > 0);
  } catch (refusal) {
    say(error, explain(refusal));
    input.select();
  } finally {
    button.disabled = false;
  }
});

document.getElementById('sign-out').addEventListener('click', async () => {
  try {
    await remove('/sessions/current');
  } catch (refusal) {
    if (refusal.status !== 401 && refusal.status !== 404) {
      trouble(`The session was not ended. ${explain(refusal)}`);
      return;
    }
  }
  // What was shown is not left to whoever comes next.
  ends?.();
  ends = null;
  main.replaceChildren();
  document.getElementById('top').hidden = true;
  Object.assign(live, { overview: null, problems: null, refusal: null });
  live.samples.length = 0;
  askForToken('You are signed out.');
});

document.getElementById('search').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = document.getElementById('query').value.trim();
  if (text === '') return;
  const wanted = `#/search/${encodeURIComponent(text)}`;
  if (location.hash === wanted) show();
  else location.hash = wanted;
});

document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});

document.addEventListener('refused', (event) => {
  if (event.detail.status !== 401) trouble(explain(event.detail));
});
whenEnded(() => askForToken('The session has ended. Sign in again to go on where you are.'));
replace(document.getElementById('views'), VIEWS.map(([name, title]) => h('li', {}, h('a', { href: `#/${name}` }, title))));
window.addEventListener('hashchange', show);
listen(state);
keepTimes();
setInterval(whose, 1000);

try {
  await begin(await session(), false);
} catch (refusal) {
  askForToken(refusal.status === 401 ? '' : explain(refusal));
}

