// The notes of a user, over a client of either package: a note is an item with its text as content,
// an attachment is a file in it.
import type { Client, Content } from '@vfs-sync/client';

export interface Attachment {
  readonly id: string;
  readonly name: string;
  readonly size: number;
}

export interface Note {
  readonly id: string;
  readonly title: string;
  /** The user who shares it, for a note of somebody else's. */
  readonly from: string | null;
  /** True for the other version of a note that two devices wrote, or titled, while they were apart. */
  readonly conflict: boolean;
  /** True if the server does not have all of it yet. */
  readonly pending: boolean;
  readonly attachments: readonly Attachment[];
}

/** What every device adds to the name of the other version. */
const CONFLICT = / \(conflict [^)]+\)/;

export class Notes {
  readonly client: Client;
  readonly #folder: string;

  private constructor(client: Client, folder: string) {
    this.client = client;
    this.#folder = folder;
  }

  /** Opens the notes of a client. Devices that do so while they are apart make one folder. */
  static async of(client: Client): Promise<Notes> {
    return new Notes(client, await client.getOrCreateFolder('Notes'));
  }

  /** Lists the user's own notes, then those that others share. */
  list(): Note[] {
    const { client } = this;
    const all = [...client.children(this.#folder), ...client.sharing.withMe()];
    return all
      .filter(({ type }) => type === 'note')
      .map((item) => ({
        id: item.id,
        title: item.shownName,
        from: item.owner === client.user ? null : item.owner,
        conflict: CONFLICT.test(item.shownName),
        pending: item.pending,
        attachments: client.children(item.id).map((file) => ({
          id: file.id,
          name: file.shownName,
          size: file.content?.size ?? 0,
        })),
      }));
  }

  find(title: string): Note {
    const found = this.list().find((note) => note.title === title);
    if (found === undefined) throw new Error(`there is no note ${title}`);
    return found;
  }

  async create(title: string, text: string): Promise<string> {
    const note = await this.client.create('note', title, { parent: this.#folder });
    await this.write(note, text);
    return note;
  }

  async write(note: string, text: string): Promise<void> {
    await this.client.contents.put(note, text);
  }

  async text(note: string): Promise<string> {
    if (this.client.node(note)?.content == null) return '';
    return (await this.client.contents.read(note)).text();
  }

  async attach(note: string, name: string, bytes: Uint8Array): Promise<void> {
    const file = await this.client.createFile(name, { parent: note });
    await this.client.contents.put(file, bytes);
  }

  async attachment(file: string): Promise<Content> {
    return this.client.contents.read(file);
  }

  async remove(note: string): Promise<void> {
    await this.client.delete(note, { recursive: true });
  }

  async share(note: string, user: string): Promise<void> {
    await this.client.sharing.share(note, { kind: 'user', id: user }, 'write');
  }

  async unshare(note: string, user: string): Promise<void> {
    await this.client.sharing.unshare(note, { kind: 'user', id: user });
  }

  /** The number of edits and contents that are on this device alone: on their way, or refused. */
  get unsent(): number {
    const { pending, uploads, rejected, rejectedUploads } = this.client.syncState();
    return pending + uploads + rejected + rejectedUploads;
  }
}
