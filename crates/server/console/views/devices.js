// Devices of all users, or of one.

import { button, facts, h, id, named, plain, replace, table } from '../dom.js';
import { get, remove, step } from '../api.js';
import { ago, count } from '../format.js';
import { ask, show } from '../dialog.js';
import { start } from '../live.js';
import { entry } from './problem.js';

const PAGE = 100;

export function condition(device) {
  return h('span', { class: `condition ${device.condition}` }, device.condition);
}

function revoke(device, after) {
  ask({
    title: 'Revoke a device',
    text: [named(device.name || 'no name'), ' of ', named(device.userId), ' (', id(device.clientId), ') is served no longer, within 5 seconds and for ever. It is told so, stops, and keeps everything that it has: nothing is wiped.'],
    action: 'Revoke',
    work: async () => {
      await remove(`/devices/${step(device.userId)}/${step(device.clientId)}`);
      await start();
      after();
    },
  });
}

/** Shows a device with its last reports, each with what the runbook says. */
export async function open(device) {
  const signatures = [...new Set([device.stopped, ...device.reports.map((one) => one.signature)])].filter(Boolean);
  const entries = new Map();
  await Promise.all(signatures.map(async (one) => {
    const found = await get(`/search?q=${encodeURIComponent(one)}`).catch(() => ({ entries: [] }));
    entries.set(one, found.entries.find((known) => known.key === one));
  }));
  show(`Device ${plain(device.name || device.clientId)}`,
    facts([
      ['Condition', condition(device)],
      ['User', named(device.userId)],
      ['Client id', id(device.clientId)],
      ['Lag', count(device.lag)],
      ['Queue', count(device.queue)],
      ['Version', named(device.version || '–')],
      ['Platform', named(device.platform || '–')],
      ['Address', device.address ?? 'this machine, or not known'],
      ['First seen', ago(device.firstSeen)],
      ['Last seen', ago(device.lastSeen)],
      ['Revoked', device.revokedAt ? ago(device.revokedAt) : null],
    ]),
    signatures.map((one) => h('section', {}, h('h2', {}, plain(one)), entry(entries.get(one)))),
    h('h2', {}, 'Last reports'),
    device.reports.length === 0 ? h('p', { class: 'hint' }, 'None.') : h('ul', { class: 'reports' },
      [...device.reports].reverse().map((one) => h('li', {}, named(one.signature), ' · ', ago(one.receivedAt), ' ',
        h('code', { class: 'details' }, plain(JSON.stringify(one.details ?? {})))))));
}

function columns(after) {
  return [
    { title: 'Device', show: (one) => [named(one.name || 'no name'), h('br'), id(one.clientId)] },
    { title: 'User', show: (one) => h('a', { href: `#/users/${encodeURIComponent(one.userId)}` }, named(one.userId)) },
    { title: 'Condition', show: (one) => [condition(one), one.stopped ? [h('br'), named(one.stopped, 'id')] : null] },
    { title: 'Lag', kind: 'number', show: (one) => count(one.lag) },
    { title: 'Queue', kind: 'number', show: (one) => count(one.queue) },
    { title: 'Version', show: (one) => [named(one.version || '–'), h('br'), named(one.platform, 'hint')] },
    { title: 'Seen', show: (one) => ago(one.lastSeen) },
    { title: 'Actions', kind: 'actions', show: (one) => [
      button('Details', () => open(one)),
      one.condition === 'revoked' ? null : h('button', { type: 'button', class: 'danger', onclick: () => revoke(one, after), 'aria-label': `Revoke ${plain(one.name || one.clientId)}` }, 'Revoke …'),
    ] },
  ];
}

/** Makes a table of devices that are there already. */
export function devicesTable(caption, devices, after) {
  return table(caption, columns(after), devices, 'No devices.');
}

/** Shows the view; `user` limits it to one user's devices. */
export async function devices(main, user) {
  const again = () => devices(main, user);
  const input = h('input', { id: 'of-user', name: 'user', value: user ?? '', maxlength: 128, autocomplete: 'off', spellcheck: 'false' });
  const filter = h('form', { class: 'filter', onsubmit: (event) => {
    event.preventDefault();
    const wanted = input.value.trim();
    location.hash = wanted ? `#/devices/${encodeURIComponent(wanted)}` : '#/devices';
  } }, h('label', { for: 'of-user' }, 'User'), input, h('button', { type: 'submit' }, 'Show'), button('Load again', again));
  const of = user ? `&userId=${encodeURIComponent(user)}` : '';
  const first = await get(`/devices?limit=${PAGE}${of}`);
  const rows = devicesTable(user ? `Devices of ${plain(user)}` : 'Devices of all users', first.devices, again);
  let cursor = first.nextCursor;
  const more = button('Load more', async () => {
    const page = await get(`/devices?limit=${PAGE}${of}&cursor=${encodeURIComponent(cursor)}`);
    rows.add(page.devices);
    cursor = page.nextCursor;
    more.hidden = !cursor;
  });
  more.hidden = !cursor;
  replace(main, h('h1', { tabindex: '-1' }, 'Devices'), filter, rows, h('p', {}, more));
}
