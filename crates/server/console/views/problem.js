// What needs somebody: found in the numbers, the devices and the reports, the worst first.

import { h, id, named, plain } from '../dom.js';
import { ago, bytes, count, duration, percent, seconds } from '../format.js';
import { live, objectives } from '../live.js';

/** The requests in the history from which a part of failed ones says something. */
const ENOUGH = 20;

export const sum = (numbers) => Object.values(numbers).reduce((all, one) => all + one, 0);

function grown(name) {
  const first = live.samples[0]?.vitals[name] ?? {};
  return Object.entries(live.overview.vitals[name])
    .map(([key, value]) => [key, value - (first[key] ?? 0)])
    .filter(([, value]) => value > 0);
}

/** Finds what is wrong with the server itself, by the bounds of its alert rules. */
function ofServer() {
  const { vitals, objectives: bounds, databaseMillis } = live.overview;
  const { gauges } = vitals;
  const found = [];
  const add = (key, title, text, command) => found.push({ key, level: 'bad', title, text, command });
  const slo = objectives();
  if (slo.requests >= ENOUGH && slo.failed > bounds.maxFailed) {
    add('failed', `${percent(slo.failed)} of the requests fail`, `The bound is ${percent(bounds.maxFailed)}. The server’s log names each request.`,
      'journalctl -u vfs-sync -p warning --since -1h');
  }
  if (slo.push !== null && slo.push > bounds.maxPushSeconds) {
    add('slow', `One push of a hundred takes ${seconds(slo.push)}`, `The bound is ${seconds(bounds.maxPushSeconds)}. Compare the time of commits and the queue of the database.`,
      'vfs-sync admin doctor');
  }
  if (gauges.vfs_sync_database_primary === 0) {
    add('standby', 'The database takes no writes', 'It is a standby: name the primary, or promote this one.', 'vfs-sync admin doctor');
  }
  if (gauges.vfs_sync_database_replication_lag_seconds > bounds.maxReplicationLagSeconds) {
    add('lag', `The slowest standby is ${duration(gauges.vfs_sync_database_replication_lag_seconds)} behind`, 'A failover to it would lose that much.', 'vfs-sync admin doctor');
  }
  if (databaseMillis > 1000) {
    add('database', `The database took ${seconds(databaseMillis / 1000)} to answer`, 'It is busy, or the way to it is slow.', 'vfs-sync admin doctor');
  }
  for (const [task, late] of Object.entries(bounds.lateSeconds)) {
    const age = vitals.taskSeconds[task];
    if (age > late) {
      add(`task ${task}`, `The task ${task} has not succeeded for ${duration(age)}`, 'The server’s log says why it fails.', 'journalctl -u vfs-sync -p warning --since -1h');
    }
  }
  const free = gauges.vfs_sync_disk_free_bytes;
  if (free !== undefined && free < bounds.minDiskBytes) {
    add('disk', `The disk of the server’s directory has ${bytes(free)} left`, 'Writes are answered 507 once it is full; clients keep their queues.', 'df -h');
  }
  if (gauges.process_open_fds > gauges.process_max_fds * bounds.maxDescriptors) {
    add('descriptors', `${count(gauges.process_open_fds)} of ${count(gauges.process_max_fds)} file descriptors are open`, 'Raise the limit of the service.', 'vfs-sync admin doctor');
  }
  for (const [what, number] of grown('databaseErrors')) {
    add(`database ${what}`, `The database failed: ${what}`, `${count(number)} times in the last minutes.`, `vfs-sync explain ${what === 'unavailable' ? 'database_unavailable' : what}`);
  }
  for (const [what, number] of grown('blobErrors')) {
    const code = what.split(' ').pop();
    add(`blobs ${what}`, `The store of contents failed: ${what}`, `${count(number)} times in the last minutes.`, `vfs-sync explain ${code}`);
  }
  for (const [what, number] of grown('beyondLimits')) {
    found.push({ key: `limit ${what}`, level: 'note', title: `Requests beyond the limit ${what}`, text: `${count(number)} in the last minutes.`, command: 'vfs-sync explain too_many_requests' });
  }
  return found;
}

function ofDevices() {
  const { devices, reports } = live.problems;
  const found = devices.map(({ device, entry }) => ({
    key: `device ${device.clientId} ${device.userId}`,
    level: device.condition === 'stopped' ? 'bad' : 'note',
    device,
    entry,
    title: device.condition === 'stopped' ? `A device has stopped: ${plain(device.stopped)}` : 'A device is stuck',
  }));
  const stopped = new Set(devices.map(({ device }) => JSON.stringify([device.userId, device.clientId, device.stopped])));
  const groups = new Map();
  for (const one of reports) {
    // Of a device that is stopped by it, that is said already.
    if (stopped.has(JSON.stringify([one.userId, one.clientId, one.report.signature]))) continue;
    const group = groups.get(one.report.signature) ?? [];
    groups.set(one.report.signature, [...group, one]);
  }
  for (const [signature, ones] of groups) {
    const violation = signature.includes(':');
    found.push({
      key: `report ${signature}`,
      level: violation ? 'bad' : 'note',
      title: violation ? `A client reported a violation: ${plain(signature)}` : `A client reported that it stopped: ${plain(signature)}`,
      reports: ones.slice(0, 10),
      more: Math.max(0, ones.length - 10),
      entry: ones[0].entry,
    });
  }
  return found;
}

/** Returns everything that needs somebody, what is bad first. */
export function problems() {
  const all = [...ofServer(), ...ofDevices()];
  return [...all.filter((one) => one.level === 'bad'), ...all.filter((one) => one.level !== 'bad')];
}

/** Returns the number of problems that are bad, and of those that are not shown. */
export function counted() {
  const bad = problems().filter((one) => one.level === 'bad').length;
  const hidden = live.problems.stopped + live.problems.stuck - live.problems.devices.length;
  return { bad, notes: problems().length - bad, hidden };
}

/** Shows an entry of the runbook. */
export function entry(found) {
  if (!found) return h('p', { class: 'hint' }, 'The runbook has no entry of this name.');
  return h('div', { class: 'entry' },
    h('p', {}, found.meaning),
    h('p', {}, found.action),
    found.next ? h('p', { class: 'command' }, h('code', {}, found.next)) : null,
    h('p', { class: 'hint' }, `Runbook: ${found.key}, ${found.runbook.document}#${found.runbook.anchor}`));
}

/** Shows where a device is and what it last said. */
export function deviceLine(device) {
  return [named(device.name || 'no name'), ' of ', named(device.userId), ' · ', id(device.clientId), ' · ',
    `lag ${count(device.lag)} · queue ${count(device.queue)} · ${device.version || 'no version'} · seen `, ago(device.lastSeen)];
}

/** Shows a problem as an element of a list. */
export function show(problem, openDevice) {
  const lines = [];
  if (problem.text) lines.push(h('p', {}, problem.text));
  if (problem.device) lines.push(h('p', {}, deviceLine(problem.device)));
  if (problem.reports) {
    lines.push(h('ul', { class: 'reports' }, problem.reports.map((one) => h('li', {},
      named(one.name || 'no name'), ' of ', named(one.userId), ' · ', id(one.clientId), ' · ', ago(one.report.receivedAt)))));
    if (problem.more > 0) lines.push(h('p', { class: 'hint' }, `and ${problem.more} more`));
  }
  return h('li', { class: `problem ${problem.level}` },
    h('h3', {}, h('span', { class: 'mark' }, problem.level === 'bad' ? 'Problem' : 'Note'), ' ', problem.title),
    problem.device ? h('p', { class: 'actions' }, h('button', { type: 'button', onclick: () => openDevice(problem.device), 'aria-label': `Device ${plain(problem.device.name || problem.device.clientId)}` }, 'Device')) : null,
    lines,
    problem.command ? h('p', { class: 'command' }, h('code', {}, problem.command)) : null,
    problem.entry ? h('details', {}, h('summary', {}, 'What it means and what to do'), entry(problem.entry)) : null);
}

