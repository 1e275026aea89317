// The calls of src/measure.rs in Node: it reads their names, and writes the nanoseconds of each.
import { createInterface } from 'node:readline';
import { Client } from '@vfs-sync/client';

const [directory, items, content] = [process.argv[2], ...process.argv.slice(3).map(Number)];
const transport = { call: () => { throw new Error('there is no server'); } };
const client = await Client.open({ directory, mode: 'open', transport });
const id = (index) => `item-${String(index).padStart(12, '0')}`;
const middle = Math.floor(items / 200) * 100;
const [folder, file] = [id(middle), id(middle + 7)];
const path = client.pathOf(file);
const bytes = Buffer.alloc(content, 7);
const notes = { type: 'note', sortBy: 'modifiedAt', descending: true, limit: 100 };
const now = () => Number(process.hrtime.bigint());

async function timed(calls, call) {
  const begun = now();
  for (let count = 0; count < calls; count += 1) await call();
  return [(now() - begun) / calls];
}

function timedNow(calls, call) {
  const begun = now();
  for (let count = 0; count < calls; count += 1) call();
  return [(now() - begun) / calls];
}

/** What it takes to make the result of a call, of which there is JSON. */
function made(calls, result) {
  const text = JSON.stringify(result);
  return timedNow(calls, () => JSON.parse(text));
}

let note;
let edits = 0;
async function watched() {
  note ??= (await client.find(notes)).items[0].id;
  edits += 1;
  let begun = now();
  const watch = client.watch(notes);
  await watch.next();
  const first = now() - begun;
  begun = now();
  const [edited, changed] = await Promise.all([
    client.rename(note, `renamed-${process.pid}-${edits}`).then(now),
    watch.next().then(now),
  ]);
  watch.close();
  return [first, edited - begun, Math.max(0, changed - edited)];
}

const calls = {
  node: () => timedNow(2_000, () => client.node(file)),
  'made: node': () => made(2_000, client.node(file)),
  parentsOf: () => timedNow(2_000, () => client.parentsOf(file)),
  status: () => timedNow(2_000, () => client.status()),
  'made: status': () => made(2_000, client.status()),
  pathOf: () => timedNow(10, () => client.pathOf(file)),
  resolve: () => timedNow(10, () => client.resolve(path)),
  children: () => timedNow(20, () => client.children(folder)),
  'made: children': () => made(20, client.children(folder)),
  walk: () => timedNow(1, () => client.walk({ limit: 10_000 })),
  'made: walk': () => made(1, client.walk({ limit: 10_000 })),
  find: () => timed(2, () => client.find({ limit: 1_000 })),
  'made: find': async () => made(2, await client.find({ limit: 1_000 })),
  put: () => timed(1, () => client.contents.put(file, bytes)),
  read: () => timed(1, async () => (await client.contents.read(file)).bytes()),
  'query by name': () => timed(5, () => client.find({ namePrefix: 'name-0000', limit: 100 })),
  'query by type and time': () => timed(5, () => client.find(notes)),
  watch: watched,
};
for await (const call of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await calls[call]()));
}
await client.close();
