// The page of docs/quickstart-browser.md, as it stands there.
import assert from 'node:assert';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { originOf, serve } from '../src/serve.js';
import { Browser, until } from './browser.js';
import { Server } from './server.js';

const DOCUMENT = new URL('../../../../docs/quickstart-browser.md', import.meta.url);

test('the quick start for a browser', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'quickstart-'));
  const page = /^```html\n(.*?)^```$/ms.exec(await readFile(DOCUMENT, 'utf8'))?.[1];
  assert.ok(page !== undefined && page.trimEnd().split('\n').length <= 30);
  await writeFile(join(directory, 'index.html'), page);
  const pages = await serve(0, {
    '/': pathToFileURL(`${directory}/`),
    '/node_modules/': new URL('../../node_modules/', import.meta.url),
  });
  try {
    await using server = await Server.start(join(directory, 'server'), originOf(pages));
    await using browser = await Browser.start();
    await browser.open(`${originOf(pages)}/#server=${server.url}&token=${server.token('alice')}`);
    const said = await until('a wave', async () => {
      const text = await browser.run<string>('return document.body.innerText');
      return text.includes('a wave') ? text : null;
    });
    assert.match(said, /^appeared \/Photos\/sea.txt$/m);
  } finally {
    pages.close();
    pages.closeAllConnections();
    await rm(directory, { recursive: true });
  }
});
