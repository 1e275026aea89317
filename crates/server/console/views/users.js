// Users with what they use and may use.

import { button, facts, h, id, named, plain, replace, table } from '../dom.js';
import { get, post, step } from '../api.js';
import { ago, bytes, count, percent } from '../format.js';
import { ask } from '../dialog.js';
import { live } from '../live.js';
import { devicesTable } from './devices.js';
import { entry } from './problem.js';

const PAGE = 100;
/** The part of a limit from which a user is near it. */
const NEAR = 0.9;
/** The part of a limit below which it is not shown. */
const FAR = 0.01;
const LIMITS = [
  ['maxStoredBytes', 'Bytes of contents'],
  ['maxStagedBytes', 'Bytes that are staged'],
  ['maxOpenStages', 'Open stages'],
  ['maxItems', 'Items'],
  ['maxLinks', 'Links'],
  ['maxGrants', 'Grants'],
  ['maxRegisterBytes', 'Bytes of names and metadata'],
  ['maxReplicas', 'Replicas'],
];

function limit(user, name) {
  const key = `max${name[0].toUpperCase()}${name.slice(1)}`;
  return user.limits[key] ?? live.overview?.limits[key] ?? null;
}

function usage(user, name, show) {
  const most = limit(user, name);
  const used = user[name];
  if (!most) return show(used);
  const part = used / most;
  // What is far from its limit needs no look.
  if (part < FAR) return h('span', { title: `of ${show(most)}` }, show(used));
  const near = part >= NEAR;
  return [h('span', { class: near ? 'over' : null }, `${show(used)} of ${show(most)}`), ' ',
    h('meter', { min: 0, max: 1, high: NEAR - 0.001, optimum: 0, value: Math.min(1, part), 'aria-label': `${percent(part)} of the limit` }),
    near ? h('span', { class: 'condition stuck' }, part >= 1 ? 'at the limit' : 'near the limit') : null];
}

function state(user) {
  const { deletion } = user;
  if (deletion && deletion.state !== 'allowed') return [h('span', { class: 'condition stopped' }, `deletion ${deletion.state}`), ' ', ago(deletion.finishedAt ?? deletion.dueAt)];
  if (user.disabledAt) return [h('span', { class: 'condition stopped' }, 'disabled'), ' ', ago(user.disabledAt)];
  return h('span', { class: 'condition active' }, 'served');
}

function actions(user, after) {
  const path = `/users/${step(user.userId)}`;
  const name = named(user.userId);
  const act = (text, question) => h('button', { type: 'button', class: question.danger === false ? null : 'danger', onclick: () => ask({ title: `${text.replace(' …', '')} a user`, action: text.replace(' …', ''), ...question, work: async (values) => {
    await question.work(values);
    await after();
  } }), 'aria-label': `${text.replace(' …', '')} ${plain(user.userId)}` }, text);
  const going = user.deletion && user.deletion.state !== 'allowed';
  return [
    act('Limits …', {
      danger: false,
      text: ['Limits of ', name, '. One that is empty is the server’s.'],
      fields: LIMITS.map(([key, label]) => ({ name: key, label, type: 'number', value: user.limits[key] ?? '', hint: `the server’s: ${count(live.overview?.limits[key])}` })),
      work: (values) => {
        const limits = {};
        for (const [key, label] of LIMITS) {
          if (values[key].trim() === '') continue;
          const value = Number(values[key]);
          if (!Number.isSafeInteger(value) || value < 0) throw new Error(`${label} must be a whole number of 0 or more: nothing was changed.`);
          limits[key] = value;
        }
        return post(`${path}/limits`, limits);
      },
    }),
    user.disabledAt || going
      ? act('Enable …', { danger: false, text: [name, ' is served again. A deletion has to be called off first: by Allow.'], work: () => post(`${path}/enable`) })
      : act('Disable …', { text: ['Every call of ', name, ' is refused within 5 seconds; devices stop and keep all. Enable takes it back.'], work: () => post(`${path}/disable`) }),
    going
      ? act('Allow …', { danger: false, text: ['Calls off the deletion of ', name, ' if it still waits; after it, the user may begin again with nothing.'], work: () => post(`${path}/allow`) })
      : act('Delete …', {
        text: ['Disables ', name, ' now, and removes everything of theirs after the wait: items, contents, feeds, grants, devices. Until then Allow calls it off. Backups and the disks of others keep what they have.'],
        typed: user.userId,
        fields: [{ name: 'days', label: 'Days to wait', type: 'number', value: '7', hint: '0 to 366' }],
        work: (values) => {
          const days = Number(values.days);
          if (values.days.trim() === '' || !(days >= 0 && days <= 366)) throw new Error('The days to wait are 0 to 366: nothing was done.');
          return post(`${path}/delete`, { waitSeconds: Math.round(days * 86400) });
        },
      }),
  ];
}

function columns(after) {
  return [
    { title: 'User', show: (one) => [h('a', { href: `#/users/${encodeURIComponent(one.userId)}` }, named(one.userId)), h('br'), id(one.pseudonym)] },
    { title: 'State', show: state },
    { title: 'Contents', show: (one) => usage(one, 'storedBytes', bytes) },
    { title: 'Items', show: (one) => usage(one, 'items', count) },
    { title: 'Stages', kind: 'number', show: (one) => count(one.openStages) },
    { title: 'Devices', kind: 'number', show: (one) => h('a', { href: `#/devices/${encodeURIComponent(one.userId)}`, 'aria-label': `${one.devices} devices of ${plain(one.userId)}` }, count(one.devices)) },
    { title: 'Actions', kind: 'actions', show: (one) => actions(one, after) },
  ];
}

/** Shows all users, by pages. */
export async function users(main) {
  const again = () => users(main);
  const first = await get(`/users?limit=${PAGE}`);
  const rows = table('Users', columns(again), first.users, 'No users.');
  let [last, hasMore] = [first.users.at(-1)?.userId, first.hasMore];
  const more = button('Load more', async () => {
    const page = await get(`/users?limit=${PAGE}&after=${encodeURIComponent(last)}`);
    rows.add(page.users);
    [last, hasMore] = [page.users.at(-1)?.userId ?? last, page.hasMore];
    more.hidden = !hasMore;
  });
  more.hidden = !hasMore;
  replace(main, h('h1', { tabindex: '-1' }, 'Users'), h('p', { class: 'filter' }, button('Load again', again)), rows, h('p', {}, more));
}

const PARTS = ['owned', 'read', 'granted', 'feed', 'states'];

/** Makes the doctor's examination of a user, page by page, in `into`. */
async function examine(name, into) {
  const said = h('p', { role: 'status' });
  replace(into, said);
  const found = new Map();
  let examined = 0;
  for (const part of PARTS) {
    let next = '';
    do {
      const page = await get(`/users/${step(name)}/examination?part=${part}&after=${encodeURIComponent(next)}`);
      if (!into.isConnected) return;
      examined += page.examined;
      for (const one of page.findings) {
        const known = found.get(one.id) ?? { ...one, count: 0, rows: [] };
        found.set(one.id, { ...known, count: known.count + one.count, rows: [...known.rows, ...page.malformed].slice(0, 20) });
      }
      said.textContent = `${count(examined)} items and entries compared …`;
      next = page.next;
    } while (next);
  }
  said.textContent = found.size === 0
    ? `Nothing was found: ${count(examined)} items and entries are what they are derived from.`
    : `${count(examined)} items and entries were compared.`;
  into.append(...[...found.values()].map((one) => h('section', { class: 'problem bad' },
    h('h3', {}, h('span', { class: 'mark' }, 'Problem'), ` ${one.id}: ${count(one.count)} found`),
    one.id === 'state.rows' ? one.rows.map((row) => h('p', {}, named(row))) : null,
    entry(one.entry))));
}

/** Shows one user with the devices. */
export async function user(main, name) {
  const again = () => user(main, name);
  const findings = h('div', { class: 'findings' });
  const [found, { devices, nextCursor }] = await Promise.all([get(`/users/${step(name)}`), get(`/devices?userId=${encodeURIComponent(name)}&limit=${PAGE}`)]);
  replace(main,
    h('h1', { tabindex: '-1' }, 'User ', named(found.userId)),
    facts([
      ['State', state(found)],
      ['In logs', id(found.pseudonym)],
      ['Contents', usage(found, 'storedBytes', bytes)],
      ['Staged', usage(found, 'stagedBytes', bytes)],
      ['Open stages', usage(found, 'openStages', count)],
      ['Items', usage(found, 'items', count)],
      ['Links', usage(found, 'links', count)],
      ['Grants', usage(found, 'grants', count)],
      ['Names and metadata', usage(found, 'registerBytes', bytes)],
    ]),
    h('p', { class: 'actions' }, actions(found, again)),
    h('h2', {}, 'Doctor'),
    h('p', { class: 'filter' }, button('Examine', () => examine(found.userId, findings)), h('span', { class: 'hint' }, 'compares levels of access and the feed with what they are derived from; changes nothing')),
    findings,
    devicesTable('Devices', devices, again),
    nextCursor ? h('p', {}, h('a', { href: `#/devices/${encodeURIComponent(name)}` }, 'All devices')) : null);
}
