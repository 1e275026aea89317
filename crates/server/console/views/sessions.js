// Sessions of the console, and streams of devices.

import { button, h, id, replace, table } from '../dom.js';
import { get, remove, step } from '../api.js';
import { ago, count } from '../format.js';
import { ask } from '../dialog.js';
import { live } from '../live.js';

export async function sessions(main) {
  const again = () => sessions(main);
  const found = await get('/sessions');
  const end = (one) => ask({
    title: 'End a session',
    text: ['The session ', id(one.sessionId), ' of ', id(one.by), one.current ? ', which is this one,' : '', ' ends at once: its next call is refused.'],
    action: 'End the session',
    work: async () => {
      await remove(`/sessions/${step(one.sessionId)}`);
      await again();
    },
  });
  replace(main,
    h('h1', { tabindex: '-1' }, 'Sessions'),
    h('p', { class: 'filter' }, button('Load again', again)),
    h('p', {}, `${count(live.overview?.vitals.gauges.vfs_sync_event_streams ?? 0)} streams of live updates are open at this process.`),
    table('Sessions of the console', [
      { title: 'Session', show: (one) => [id(one.sessionId), one.current ? [' ', h('span', { class: 'condition active' }, 'this one')] : null] },
      { title: 'Operator', show: (one) => id(one.by) },
      { title: 'Begun', show: (one) => ago(one.madeAt) },
      { title: 'Ends', show: (one) => ago(one.expiresAt) },
      { title: 'Actions', kind: 'actions', show: (one) => h('button', { type: 'button', class: 'danger', onclick: () => end(one), 'aria-label': `End the session ${one.sessionId}` }, 'End …') },
    ], found.sessions, 'No session is open.'),
    h('p', { class: 'hint' }, 'Operators are named by their pseudonyms, as in the audit log.'));
}
