// Notes on the command line.
//
//   node dist/src/cli.js list | sync | create TITLE TEXT | read TITLE | write TITLE TEXT
//     | attach TITLE FILE | share TITLE USER | unshare TITLE USER
//
// NOTES_REPLICA is the directory of the replica, NOTES_USER the user; VFS_SYNC_SERVER and
// VFS_SYNC_TOKEN are the server and the token.
import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { Client } from '@vfs-sync/client';
import { Notes } from './notes.js';

function setting(name: string, otherwise?: string): string {
  const value = process.env[name] ?? otherwise;
  if (value === undefined) throw new Error(`set ${name}`);
  return value;
}

async function run(command = 'list', title = '', argument = ''): Promise<void> {
  await using client = await Client.open({
    user: setting('NOTES_USER'),
    directory: setting('NOTES_REPLICA', 'notes-replica'),
    server: setting('VFS_SYNC_SERVER', 'http://127.0.0.1:7070'),
    token: setting('VFS_SYNC_TOKEN'),
  });
  const notes = await Notes.of(client);
  switch (command) {
    case 'list':
      for (const note of notes.list()) {
        const from = note.from === null ? '' : `  from ${note.from}`;
        const conflict = note.conflict ? '  conflict' : '';
        console.log(`${note.title}${from}${conflict}${note.pending ? '  not sent' : ''}`);
        for (const file of note.attachments) console.log(`  ${file.name}  ${file.size} bytes`);
      }
      break;
    case 'create':
      await notes.create(title, argument);
      break;
    case 'read':
      console.log(await notes.text(notes.find(title).id));
      break;
    case 'write':
      await notes.write(notes.find(title).id, argument);
      break;
    case 'attach':
      await notes.attach(notes.find(title).id, basename(argument), await readFile(argument));
      break;
    case 'share':
      await notes.share(notes.find(title).id, argument);
      break;
    case 'unshare':
      await notes.unshare(notes.find(title).id, argument);
      break;
    case 'sync': {
      const report = await client.sync();
      console.log(`${report.applied} sent, ${report.uploaded} uploaded, ${report.pulled} received`);
      break;
    }
    default:
      throw new Error(`there is no command ${command}`);
  }
}

run(...process.argv.slice(2)).catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
