// The first view: what needs somebody, then how the server is.

import { facts, h, keyed, replace, say } from '../dom.js';
import { sparkline } from '../chart.js';
import { bytes, count, duration, percent, rate, seconds } from '../format.js';
import { listen, live, objectives } from '../live.js';
import { counted, problems, show, sum } from './problem.js';
import { open as openDevice } from './devices.js';

/** The samples over which a line is drawn at least: a minute. */
const SHORTEST = 30;

function tile(title) {
  const value = h('p', { class: 'value' });
  const more = h('p', { class: 'hint' });
  const chart = h('div', { class: 'chart' });
  const element = h('section', { class: 'tile' }, h('h3', {}, title), value, chart, more);
  return {
    element,
    set(text, hint, lines, bad = false) {
      say(value, text);
      say(more, hint);
      value.classList.toggle('over', bad);
      replace(chart, lines ? sparkline(`${title} in the last five minutes, now ${text}`, lines, Math.max(SHORTEST, live.samples.length)) : null);
    },
  };
}

/** Shows the view in `main`; returns what ends it. */
export function overview(main) {
  const list = h('ul', { class: 'problems' });
  const well = h('p', { class: 'well' });
  const hidden = h('p', { class: 'hint' });
  const tiles = {
    requests: tile('Requests'),
    latency: tile('Time of requests'),
    failed: tile('Failed requests'),
    push: tile('Time of pushes'),
    flow: tile('Changes'),
    open: tile('In progress'),
  };
  const state = h('div');
  replace(main,
    h('h1', { tabindex: '-1' }, 'Overview'),
    h('section', { 'aria-labelledby': 'needs' }, h('h2', { id: 'needs' }, 'What needs you'), well, list, hidden),
    h('section', { 'aria-labelledby': 'now' }, h('h2', { id: 'now' }, 'Now'),
      h('div', { class: 'tiles' }, Object.values(tiles).map((one) => one.element))),
    h('section', { 'aria-labelledby': 'holds' }, h('h2', { id: 'holds' }, 'State'), state));

  const update = () => {
    if (live.overview === null) return;
    const found = problems();
    keyed(list, found, (one) => one.key, (one) => show(one, openDevice));
    list.hidden = found.length === 0;
    say(well, found.length === 0 ? 'Nothing. The server keeps its objectives, no device is stopped or stuck, and no client reported anything for a day.' : '');
    well.hidden = found.length > 0;
    const { hidden: more } = counted();
    say(hidden, more > 0 ? `and ${count(more)} more devices: see Devices` : '');

    const { vitals, objectives: bounds, version, databaseMillis } = live.overview;
    const { gauges } = vitals;
    const last = live.samples[live.samples.length - 1];
    const line = (name, kind = 'first') => ({ kind, values: live.samples.map((one) => one[name]) });
    const slo = objectives();
    tiles.requests.set(last ? `${rate(last.requests)} /s` : '–', `${count(vitals.requests)} since the start, ${count(vitals.refused)} refused`, [line('requests')]);
    tiles.latency.set(last?.half === null || !last ? '–' : `${seconds(last.half)} · ${seconds(last.most)}`, 'half · all but one of a hundred', [line('most', 'second'), line('half')]);
    tiles.failed.set(percent(slo.failed), `objective ${percent(bounds.maxFailed)} · ${percent(slo.failedEver)} since the start`, [line('failed', slo.failed > 0 ? 'alarm' : 'second')], slo.failed > bounds.maxFailed);
    tiles.push.set(seconds(slo.push ?? slo.pushEver), `all but one of a hundred · objective ${seconds(bounds.maxPushSeconds)}`, null, (slo.push ?? 0) > bounds.maxPushSeconds);
    tiles.flow.set(last ? `${rate(last.pushed)} · ${rate(last.pulled)} /s` : '–', 'operations pushed · entries pulled', [line('pulled', 'second'), line('pushed')]);
    tiles.open.set(`${count(gauges.vfs_sync_http_requests_in_flight)} · ${count(gauges.vfs_sync_event_streams ?? 0)}`, 'requests · streams of live updates', null);

    const { conditions } = live.problems;
    const lag = gauges.vfs_sync_database_replication_lag_seconds;
    replace(state, facts([
      ['Version', version],
      ['Up for', duration(gauges.vfs_sync_uptime_seconds ?? 0)],
      ['Database', `${gauges.vfs_sync_database_primary === 0 ? 'standby' : 'primary'}, answers in ${seconds(databaseMillis / 1000)}`],
      ['Standbys', gauges.vfs_sync_database_standbys ? `${count(gauges.vfs_sync_database_standbys)}, ${duration(lag ?? 0)} behind` : 'none'],
      ['Devices', ['active', 'away', 'stuck', 'stopped', 'revoked'].map((one) => `${count(conditions[one] ?? 0)} ${one}`).join(', ')],
      ['Users', count(gauges.vfs_sync_users)],
      ['Items', count(gauges.vfs_sync_items)],
      ['Contents', `${bytes(gauges.vfs_sync_stored_bytes ?? 0)}, of which ${bytes(gauges.vfs_sync_staged_bytes ?? 0)} staged`],
      ['Memory', gauges.process_resident_memory_bytes === undefined ? null : bytes(gauges.process_resident_memory_bytes)],
      ['Disk free', gauges.vfs_sync_disk_free_bytes === undefined ? null : bytes(gauges.vfs_sync_disk_free_bytes)],
      ['Without a valid token', count(sum(vitals.authFailures))],
    ]));
  };
  update();
  return listen(update);
}
