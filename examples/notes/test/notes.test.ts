// The example in a real browser and in Node, over a real server.
import assert from 'node:assert';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Notes, Note } from '../src/notes.js';
import { originOf, serve } from '../src/serve.js';
import { Browser, until } from './browser.js';
import { Server } from './server.js';

/** Waits until a device shows a note, in the background. */
function shown(notes: Notes, what: string, is: (note: Note) => boolean): Promise<Note> {
  return until(what, () => notes.list().find(is) ?? null);
}

test('a page and a command write notes together', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'notes-'));
  const pages = await serve(0);
  await using server = await Server.start(join(directory, 'server'), originOf(pages));
  await using browser = await Browser.start();
  const phone = await server.device('alice');
  const bob = await server.device('bob');
  const line = (title: string): Promise<string | null> =>
    browser.run(
      `return [...document.querySelectorAll('#notes li')].map((li) => li.textContent)
        .find((text) => text.startsWith(arguments[0])) ?? null`,
      title,
    );
  const state = async (text: string): Promise<true> =>
    until(`the page is: ${text}`, async () => {
      const now = await browser.run<string>(`return document.getElementById('state').textContent`);
      return now.includes(text) ? true : null;
    });
  const save = async (title: string, text: string): Promise<void> => {
    await browser.run(`document.getElementById('editor').reset()`);
    await browser.type('[name=title]', title);
    await browser.type('[name=text]', text);
    await browser.click('#editor button');
    await until(`the page saved ${title}`, () => line(title));
  };
  try {
    const settings = new URLSearchParams({ server: server.url, user: 'alice', token: server.token('alice') });
    await browser.open(`${originOf(pages)}/#${settings}`);
    await state('live');
    await phone.client.startBackground();

    // Live, in both directions, with an attachment.
    const file = join(directory, 'map.txt');
    await writeFile(file, 'over the hills');
    await browser.type('[name=file]', file);
    await browser.type('[name=title]', 'Trip');
    await browser.type('[name=text]', 'by train');
    await browser.click('#editor button');
    const trip = await shown(phone, 'the trip, with its map', ({ title, attachments }) => {
      return title === 'Trip' && (attachments[0]?.size ?? 0) > 0;
    });
    assert.equal(await phone.text(trip.id), 'by train');
    const map = await phone.attachment(trip.attachments[0]!.id);
    assert.equal(await map.text(), 'over the hills');
    await phone.create('Milk', 'two bottles');
    await phone.client.requestSync();
    await until('the page shows the milk', () => line('Milk'));
    await state('all sent');

    // Apart: both write, and one note is written by both.
    await browser.offline(true);
    await phone.client.stopBackground();
    await save('Offline page', 'in a tunnel');
    await browser.run(`[...document.querySelectorAll('#notes li')]
      .find((li) => li.textContent.startsWith('Trip')).click()`);
    await until('the page opened the trip', async () => {
      const text = await browser.run<string>(`return document.querySelector('[name=text]').value`);
      return text === 'by train' ? true : null;
    });
    await browser.type('[name=text]', ' or by bus');
    await browser.click('#editor button');
    await state('offline since');
    await state('not sent');
    const kept = await browser.run<boolean>(
      `return !window.dispatchEvent(new Event('beforeunload', { cancelable: true }))`,
    );
    assert.ok(kept, 'the page asks before it loses what was not sent');
    await phone.create('Offline phone', 'on a ferry');
    await phone.write(trip.id, 'on foot');
    await phone.client.sync();

    // Together again: both have both, and both versions of the note are shown.
    await browser.offline(false);
    await phone.client.startBackground();
    await until('the page has the note of the phone', () => line('Offline phone'));
    await shown(phone, 'the note of the page', ({ title }) => title === 'Offline page');
    const other = await shown(phone, 'the other version', ({ conflict }) => conflict);
    // A note comes before its text.
    await until('both texts', async () => {
      const texts = [await phone.text(trip.id), await phone.text(other.id)].sort();
      return texts.join() === 'by train or by bus,on foot' ? true : null;
    });
    await until('the page shows the conflict', async () => {
      return browser.run(`return document.querySelector('#notes li.conflict')?.textContent ?? null`);
    });
    await state('all sent');

    // A share of another user appears, and goes.
    const plan = await bob.create('Plan', 'secret');
    await bob.share(plan, 'alice');
    await bob.client.sync();
    assert.match(await until('the share', () => line('Plan')), /from bob/);
    await bob.unshare(plan, 'alice');
    await bob.client.sync();
    await until('the share is gone', async () => ((await line('Plan')) === null ? true : null));

    const problem = await browser.run<string>(`return document.getElementById('problem').textContent`);
    assert.equal(problem, '');
    assert.deepEqual(phone.client.violations(), []);
  } finally {
    await phone.client.close();
    await bob.client.close();
    pages.close();
    pages.closeAllConnections();
    await rm(directory, { recursive: true });
  }
});
