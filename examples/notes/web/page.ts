// A page of notes. Its address has the server, the user and the token behind `#`, which browsers
// send to nobody: /#server=https://…&user=alice&token=…
import { Client, VfsSyncError } from '@vfs-sync/client';
import { Notes, type Note } from '../src/notes.js';

function byId<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

const settings = new URLSearchParams(location.hash.slice(1));
const client = await Client.open({
  mode: 'memory',
  user: settings.get('user') ?? '',
  server: settings.get('server') ?? '',
  token: settings.get('token') ?? '',
  device: 'browser',
});
const notes = await Notes.of(client);
const editor = byId<HTMLFormElement>('editor');
const field = (name: string): HTMLInputElement => editor.elements.namedItem(name) as HTMLInputElement;
let open: string | null = null;

function report(error: unknown): void {
  byId('problem').textContent = error instanceof Error ? error.message : String(error);
}

async function show(note: Note): Promise<void> {
  open = note.id;
  field('title').value = note.title;
  field('text').value = await notes.text(note.id);
}

function row(note: Note): HTMLLIElement {
  const line = document.createElement('li');
  line.dataset['id'] = note.id;
  line.textContent = note.title;
  const about = [
    note.from === null ? '' : `from ${note.from}`,
    note.conflict ? 'another device wrote this version' : '',
    note.pending ? 'not sent' : '',
    ...note.attachments.map(({ name, size }) => `${name}, ${size} bytes`),
  ];
  const small = document.createElement('small');
  small.textContent = about.filter((text) => text !== '').map((text) => ` · ${text}`).join('');
  line.append(small);
  if (note.conflict) line.classList.add('conflict');
  line.addEventListener('click', () => void show(note).catch(report));
  return line;
}

function draw(): void {
  byId('notes').replaceChildren(...notes.list().map(row));
}

async function save(): Promise<void> {
  const [title, text, reader] = [field('title').value, field('text').value, field('reader').value];
  const file = field('file').files?.[0];
  if (open === null) {
    open = await notes.create(title, text);
  } else {
    if (client.node(open)?.name !== title) await client.rename(open, title);
    if ((await notes.text(open)) !== text) await notes.write(open, text);
  }
  if (file !== undefined) {
    await notes.attach(open, file.name, new Uint8Array(await file.arrayBuffer()));
    field('file').value = '';
  }
  if (reader !== '') await notes.share(open, reader);
  field('reader').value = '';
  await client.requestSync();
}

editor.addEventListener('submit', (event) => {
  event.preventDefault();
  void save().catch(report);
});
editor.addEventListener('reset', () => (open = null));

// The replica ends with the page: what the server does not have yet would be lost.
window.addEventListener('beforeunload', (event) => {
  if (notes.unsent > 0) event.preventDefault();
});

async function followTree(): Promise<void> {
  const changes = client.changes();
  draw();
  for await (const _ of changes) draw();
}

async function followState(): Promise<void> {
  for await (const state of client.syncStates()) {
    const { unsent } = notes;
    byId('state').textContent = [
      state.offlineSince === null ? state.connection : `offline since ${state.offlineSince}`,
      unsent === 0 ? 'all sent' : `${unsent} not sent`,
    ].join(', ');
    // Fails closed: the page shows the reason, and what is to be done is the user's choice.
    const stop = state.stopped ?? state.paused;
    const refused = state.refused === null ? '' : `The server refused an edit: ${state.refused}`;
    byId('problem').textContent = stop === null ? refused : `${stop.signature}: ${stop.message}`;
    draw();
  }
}

for (const work of [followTree(), followState()]) {
  work.catch((error: unknown) => {
    if (!(error instanceof VfsSyncError && error.code === 'closed')) report(error);
  });
}
await client.startBackground();
