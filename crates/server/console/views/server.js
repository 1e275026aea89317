// The database, its standbys, and the process.

import { button, facts, h, named, plain, replace, table } from '../dom.js';
import { get } from '../api.js';
import { bytes, count, duration, seconds } from '../format.js';
import { live } from '../live.js';

export async function server(main) {
  const again = () => server(main);
  const found = await get('/database');
  const { vitals, databaseMillis, version } = live.overview ?? { vitals: { gauges: {}, connections: {}, databaseErrors: {}, authFailures: {}, beyondLimits: {} } };
  const { gauges } = vitals;
  const listed = (numbers) => {
    const all = Object.entries(numbers);
    return all.length === 0 ? 'none' : all.map(([name, number]) => `${plain(name)}: ${count(number)}`).join(', ');
  };
  const off = found.clock ? Math.abs(Date.parse(found.clock) - Date.parse(found.now)) / 1000 : null;
  replace(main,
    h('h1', { tabindex: '-1' }, 'Server'),
    h('p', { class: 'filter' }, button('Load again', again)),
    h('h2', {}, 'Database'),
    facts([
      ['Product', named(found.product)],
      ['Role', found.server?.isStandby || gauges.vfs_sync_database_primary === 0 ? h('span', { class: 'over' }, 'standby: takes no writes') : 'primary: takes writes'],
      ['Answers in', databaseMillis === undefined ? null : seconds(databaseMillis / 1000)],
      ['Size', `${bytes(found.bytes)}, of which ${bytes(found.unusedBytes)} hold nothing`],
      ['What is acknowledged', found.unsafeSettings.length === 0 ? 'survives a power cut' : h('span', { class: 'over' }, `may be lost: ${found.unsafeSettings.map(plain).join(', ')}`)],
      ['Place', found.server ? (found.server.isInPlace ? 'where its epoch began' : h('span', { class: 'over' }, 'restored or failed over since')) : null],
      ['Connections', found.server ? `${count(found.server.connections)} of ${count(found.server.maxConnections)}` : null],
      ['Of this process', Object.keys(vitals.connections).length === 0 ? null : listed(vitals.connections)],
      ['Oldest transaction', found.server ? duration(found.server.oldestTransactionSeconds) : null],
      ['Synchronous commit', found.server ? found.server.synchronousCommit : null],
      ['Clocks apart', off === null ? null : h('span', { class: off > 5 ? 'over' : null }, seconds(off))],
      ['Queue of writes', gauges.vfs_sync_commit_queue === undefined ? null : count(gauges.vfs_sync_commit_queue)],
      ['Failures since the start', listed(vitals.databaseErrors)],
    ]),
    found.server ? table('Standbys', [
      { title: 'Name', show: (one) => named(one.name) },
      { title: 'State', show: (one) => named(one.state) },
      { title: 'Commits wait for it', show: (one) => named(one.syncState) },
      { title: 'Behind', kind: 'number', show: (one) => (one.lagSeconds === null ? 'not known' : duration(one.lagSeconds)) },
    ], found.server.standbys, 'No standby is connected.') : null,
    h('p', { class: 'hint' }, 'A user’s levels of access and feed are examined in Users; all users, quotas, contents, keys and settings beside the server: ', h('code', {}, 'vfs-sync admin doctor --data DIR'), ', see docs/doctor.md.'),
    h('h2', {}, 'Process'),
    facts([
      ['Version', version],
      ['Up for', duration(gauges.vfs_sync_uptime_seconds ?? 0)],
      ['Memory', gauges.process_resident_memory_bytes === undefined ? null : bytes(gauges.process_resident_memory_bytes)],
      ['Descriptors', gauges.process_open_fds === undefined ? null : `${count(gauges.process_open_fds)} of ${count(gauges.process_max_fds)}`],
      ['Disk free', gauges.vfs_sync_disk_free_bytes === undefined ? null : bytes(gauges.vfs_sync_disk_free_bytes)],
      ['Without a valid token', listed(vitals.authFailures)],
      ['Beyond limits', listed(vitals.beyondLimits)],
    ]));
}

