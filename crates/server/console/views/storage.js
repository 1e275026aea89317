// Contents: the store, the background work on it, and open stages.

import { button, facts, h, id, named, plain, replace, table } from '../dom.js';
import { get, post, step } from '../api.js';
import { ago, bytes, count, duration } from '../format.js';
import { ask } from '../dialog.js';
import { live, start } from '../live.js';

const MOST = 100;

/** What each kind of background work is about. */
export const WORK = {
  'sweeps.stages': ['sweep', 'Stages that expired'],
  'sweeps.contents': ['sweep', 'Contents that nothing needs'],
  'sweeps.versions': ['sweep', 'Old versions'],
  'sweeps.trash': ['sweep', 'Deleted items past their time'],
  'sweeps.purges': ['sweep', 'Items removed for good'],
  'sweeps.removals': ['prune', 'Old removals in feeds'],
  'sweeps.results': ['prune', 'Old results of operations'],
  'sweeps.deletions': ['deletion', 'Steps of users’ deletions'],
};

function abandon(one, after) {
  ask({
    title: 'End a stage',
    text: ['The stage ', id(one.stage.stagingId), ' of ', named(one.owner), ' ends, and its bytes are removed. The client stages the content again, under new ids, if it still has it.'],
    action: 'End the stage',
    work: async () => {
      await post(`/stages/${step(one.stage.stagingId)}/abandon`);
      await after();
    },
  });
}

export async function storage(main) {
  const again = () => storage(main);
  const [{ stages, hasMore }, { waiting }] = await Promise.all([get(`/stages?limit=${MOST}`), get('/database')]);
  const vitals = live.overview?.vitals;
  const gauges = vitals?.gauges ?? {};
  const run = (task) => button('Run now', async () => {
    await post(`/tasks/${task}/run`);
    await start();
    await again();
  });
  const errors = Object.entries(vitals?.blobErrors ?? {});
  replace(main,
    h('h1', { tabindex: '-1' }, 'Storage'),
    h('p', { class: 'filter' }, button('Load again', again)),
    h('h2', {}, 'Store of contents'),
    facts([
      ['Stored', bytes(gauges.vfs_sync_stored_bytes ?? 0)],
      ['Staged', `${bytes(gauges.vfs_sync_staged_bytes ?? 0)} in ${count(gauges.vfs_sync_open_stages ?? 0)} open stages`],
      ['In the trash', `${bytes(gauges.vfs_sync_trashed_bytes ?? 0)} in ${count(gauges.vfs_sync_trashed_items ?? 0)} items`],
      ['Failures since the start', errors.length === 0 ? 'none' : errors.map(([what, number]) => `${plain(what)}: ${count(number)}`).join(', ')],
    ]),
    h('h2', {}, 'Background work'),
    h('div', { class: 'tiles' }, ['sweep', 'prune'].map((task) => h('section', { class: 'tile' },
      h('h3', {}, task === 'sweep' ? 'Sweeper' : 'Retention'),
      h('p', { class: 'value' }, vitals?.taskSeconds[task] === undefined ? '–' : `${duration(vitals.taskSeconds[task])} ago`),
      h('p', { class: 'hint' }, 'last success'),
      run(task)))),
    table('What waits', [
      { title: 'Work', show: (one) => WORK[one.id]?.[1] ?? one.id },
      { title: 'Oldest due', show: (one) => (one.due ? ago(one.due) : 'nothing waits') },
      { title: 'Check', show: (one) => h('code', {}, one.id) },
    ], waiting, 'Nothing.'),
    h('h2', {}, 'Open stages'),
    table('Open stages, the first to expire first', [
      { title: 'Stage', show: (one) => [id(one.stage.stagingId), h('br'), id(one.stage.blobId)] },
      { title: 'Owner', show: (one) => h('a', { href: `#/users/${encodeURIComponent(one.owner)}` }, named(one.owner)) },
      { title: 'Bytes', kind: 'number', show: (one) => (one.stage.size === undefined ? (one.upload ? `${bytes(one.upload.offset)} of ${one.upload.length === null ? '?' : bytes(one.upload.length)}` : 'none yet') : bytes(one.stage.size)) },
      { title: 'Opened', show: (one) => ago(one.stage.stagedAt) },
      { title: 'Expires', show: (one) => [ago(one.stage.expiresAt), one.expired ? h('span', { class: 'condition stuck' }, 'expired') : null] },
      { title: 'Actions', kind: 'actions', show: (one) => h('button', { type: 'button', class: 'danger', onclick: () => abandon(one, again), 'aria-label': `End the stage ${plain(one.stage.stagingId)}` }, 'End …') },
    ], stages, 'No stage is open.'),
    hasMore ? h('p', { class: 'hint' }, `More than ${MOST} are open; those that expire first are shown.`) : null);
}
