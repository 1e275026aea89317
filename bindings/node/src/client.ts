import { invalid, violationOf, type NativeFailure, type Violation } from './errors.js';
import {
  bytesOf,
  cancellable,
  checked,
  editJson,
  jsonOf,
  native,
  settled,
  type NativeClient,
} from './native.js';
import { Content, ContentWriter, Subscription, type Bytes } from './stream.js';
import { tokenCallback, transportCallback, type TokenSource, type Transport } from './transport.js';
import type {
  AccessLevel,
  CacheUsage,
  Child,
  Found,
  Grant,
  HeldUpload,
  HydrateOutcome,
  Json,
  LostChange,
  Metadata,
  Node,
  ObjectType,
  Outstanding,
  Principal,
  Progress,
  Query,
  QueuedOperation,
  Reader,
  RejectedOperation,
  ResultChange,
  ServerState,
  Status,
  StoredContent,
  SyncEvent,
  SyncReport,
  SyncState,
  Trashed,
  TreeChange,
  TreeEntry,
  Version,
} from './types.js';

/** The options of a call that can be cancelled. */
export interface Cancellable {
  /** Cancels the call at its next step; it then fails with the signal's reason. */
  readonly signal?: AbortSignal | null | undefined;
}

/** The options of {@link Client.open}. */
export interface ClientOptions {
  /** The user that the replica belongs to; an existing replica knows it. */
  readonly user?: string;
  /** The directory of the replica. */
  readonly directory?: string;
  /**
   * `openOrCreate` (the default), `open` or `create` the replica in `directory`, or `memory` for a
   * replica that ends with the client.
   */
  readonly mode?: 'openOrCreate' | 'open' | 'create' | 'memory';
  /** The address of the server: `https://…`. */
  readonly server?: string;
  /** The bearer token, or a function that returns one. */
  readonly token?: TokenSource;
  /** A transport of the application's own: instead of the server, or, with `server` and `token`, before it. */
  readonly transport?: Transport;
  /** The client id of a new replica, for {@link Client.hydrateState}. */
  readonly clientId?: string;
  /** The name of the device in the names of conflicted copies. */
  readonly device?: string;
  /** True to rebuild the replica without being asked when the server requires it. */
  readonly rematerialise?: boolean;
  /** The number of entries in a page: 1 to 500. */
  readonly pageLimit?: number;
  /** The number of concurrent transfers of contents in each direction: 1 to 64. */
  readonly transfers?: number;
  /** The greatest size of the content cache in bytes. */
  readonly cacheSize?: number;
  /** The pause of background work between two syncs. */
  readonly intervalMs?: number;
  /** False to do without the stream of live updates. */
  readonly live?: boolean;
  /** The pause between two syncs while the stream of live updates is up. */
  readonly liveIntervalMs?: number;
  /** Allows `http://` to another machine: whoever is on the way then reads and changes everything. */
  readonly insecureHttp?: boolean;
  /** A clock that stands still and ids that count, for tests. */
  readonly test?: { readonly seed: number; readonly now: string };
}

/** The place and the metadata of a new item. */
export interface CreateOptions {
  /** The container; without one, the item is at the top of the user's own tree. */
  readonly parent?: string | null | undefined;
  readonly metadata?: Metadata | undefined;
  /** An id from {@link Client.newItemId}; by default a new one. */
  readonly id?: string | undefined;
}

type Call = Readonly<Record<string, unknown>> & { readonly call: string };
type Edit = Readonly<Record<string, unknown>> & { readonly edit: string };

function creation(type: ObjectType, name: string, options: CreateOptions = {}): Edit {
  const { parent = null, metadata = {}, id } = options;
  return { edit: 'create', type, name, parent, metadata, ...(id === undefined ? {} : { id }) };
}

function instant(time: Date | string): string {
  if (typeof time === 'string') return time;
  if (time instanceof Date && !Number.isNaN(time.getTime())) return time.toISOString();
  throw invalid('`modifiedAt` is neither a valid Date nor text');
}

/** Calls of the native client, with JSON values. */
class Calls {
  readonly native: NativeClient;

  constructor(client: NativeClient) {
    this.native = client;
  }

  read<T>(call: Call): T {
    return JSON.parse(checked(() => this.native.read(jsonOf(call)))) as T;
  }

  async write<T>(call: Call): Promise<T> {
    const json = editJson(call);
    return JSON.parse(await settled(() => this.native.write(json))) as T;
  }

  async edit<T>(edit: Edit): Promise<T> {
    const [result] = await this.write<[T]>({ call: 'edit', edits: [edit] });
    return result;
  }

  async run<T>(call: Call, options?: Cancellable): Promise<T> {
    const json = jsonOf(call);
    return JSON.parse(await cancellable(options?.signal, (cancel) => this.native.run(json, cancel))) as T;
  }

  subscribe<T>(stream: Readonly<Record<string, unknown>>, options?: Cancellable): Subscription<T> {
    const subscription = checked(() => this.native.subscribe(jsonOf(stream)));
    return new Subscription<T>(subscription, options?.signal);
  }
}

/**
 * A client: a durable replica of a user's tree, and the connection to its server.
 *
 * Reads are local and synchronous. Edits are durable, and visible, when their promise resolves,
 * online or not; they take effect in the order in which they were called. {@link sync}, or background
 * work, exchanges them with the user's other devices.
 */
export class Client implements AsyncDisposable {
  readonly #calls: Calls;
  /** The calls that store and read contents. */
  readonly contents: Contents;
  /** The calls about grants. */
  readonly sharing: Sharing;
  /** The calls about deleted items. */
  readonly trash: Trash;
  /** The calls about edits that wait or were rejected. */
  readonly queue: Queue;
  /** The calls about changes that a restored server lost. */
  readonly lost: Lost;

  private constructor(client: NativeClient) {
    this.#calls = new Calls(client);
    this.contents = new Contents(this.#calls);
    this.sharing = new Sharing(this.#calls);
    this.trash = new Trash(this.#calls);
    this.queue = new Queue(this.#calls);
    this.lost = new Lost(this.#calls);
  }

  /** Opens a client; close it when it is no longer used, or declare it by `await using`. */
  static async open(options: ClientOptions): Promise<Client> {
    const { token, transport, ...rest } = options;
    const client = await settled(async () =>
      (await native()).open(
        jsonOf(rest),
        token === undefined ? undefined : tokenCallback(token),
        transport === undefined ? undefined : transportCallback(transport),
      ),
    );
    return new Client(client);
  }

  /** The user that the replica belongs to. */
  get user(): string {
    return this.#calls.read({ call: 'user' });
  }

  /** The id of this replica. */
  get clientId(): string {
    return this.#calls.read({ call: 'clientId' });
  }

  /** The name of this device in the names of conflicted copies. */
  get device(): string {
    return this.#calls.read({ call: 'device' });
  }

  /** Makes a new item id, for {@link CreateOptions.id}. */
  newItemId(): string {
    return this.#calls.read({ call: 'newItemId' });
  }

  /** Returns the state of the replica. */
  status(): Status {
    return this.#calls.read({ call: 'status' });
  }

  /** Returns the state of synchronisation; {@link syncStates} returns each change of it. */
  syncState(): SyncState {
    return this.#calls.read({ call: 'syncState' });
  }

  /** Returns an item, or `null` if the replica does not show it. */
  node(item: string): Node | null {
    return this.#calls.read({ call: 'node', item });
  }

  /** Returns a handle of an item, which need not exist. */
  item(item: string): Item {
    return new Item(this, item);
  }

  /** Returns the children of a container, by name; without one, those at the top of the user's own tree. */
  children(parent: string | null = null): Child[] {
    return this.#calls.read({ call: 'children', parent });
  }

  /** Returns the item at a path: `/docs/plan.txt`, or `shared:alice/plan.txt` among what alice shares. */
  resolve(path: string): Node {
    return this.#calls.read({ call: 'resolve', path });
  }

  /** Returns a path of an item. */
  pathOf(item: string): string {
    return this.#calls.read({ call: 'pathOf', item });
  }

  /** Returns the containers of an item, by id. */
  parentsOf(item: string): string[] {
    return this.#calls.read({ call: 'parentsOf', item });
  }

  /**
   * Returns the items under a container, containers before their children: at most `limit` (10,000 by
   * default, at most 100,000). `owner` walks what another user shares.
   */
  walk(options: { root?: string; owner?: string; limit?: number } = {}): TreeEntry[] {
    return this.#calls.read({ call: 'walk', ...options });
  }

  /** Returns a page of the items that a query finds. The first query makes an index of the replica. */
  async find(query: Query = {}, options?: Cancellable): Promise<Found> {
    return this.#calls.run({ call: 'find', query }, options);
  }

  /** Returns all items that a query finds, page by page. */
  async *findAll(query: Query = {}, options?: Cancellable): AsyncGenerator<Node, void, undefined> {
    let after = query.after ?? null;
    do {
      const page = await this.find({ ...query, after }, options);
      yield* page.items;
      after = page.next;
    } while (after !== null);
  }

  /** Returns the first result of a query, all of it added, and each difference after it. */
  watch(query: Query = {}, options?: Cancellable): Subscription<ResultChange> {
    return this.#calls.subscribe({ stream: 'query', query }, options);
  }

  /** Creates a folder; returns its id. Each call makes a new one: see {@link getOrCreateFolder}. */
  async createFolder(name: string, options?: CreateOptions): Promise<string> {
    return this.#calls.edit(creation('folder', name, options));
  }

  /** Creates a file without content; returns its id. */
  async createFile(name: string, options?: CreateOptions): Promise<string> {
    return this.#calls.edit(creation('file', name, options));
  }

  /** Creates an item of any type; returns its id. */
  async create(type: ObjectType, name: string, options?: CreateOptions): Promise<string> {
    return this.#calls.edit(creation(type, name, options));
  }

  /**
   * Returns the folder of this name, and creates it if it is not there. Its id follows from the user,
   * the container and the name, so devices that create it offline make one folder.
   */
  async getOrCreateFolder(name: string, options: { parent?: string | null } = {}): Promise<string> {
    return this.#calls.write({ call: 'getOrCreateFolder', parent: options.parent ?? null, name });
  }

  /** Changes the name of an item. */
  async rename(item: string, name: string): Promise<void> {
    await this.#calls.edit({ edit: 'rename', item, name });
  }

  /** Moves an item into a container of the same owner; `null` is the top of the user's own tree. */
  async move(item: string, parent: string | null): Promise<void> {
    await this.#calls.edit({ edit: 'move', item, parent });
  }

  /** Links an item under one more container. */
  async link(item: string, parent: string): Promise<void> {
    await this.#calls.edit({ edit: 'link', item, parent });
  }

  /** Removes an item from a container. */
  async unlink(item: string, parent: string): Promise<void> {
    await this.#calls.edit({ edit: 'unlink', item, parent });
  }

  /** Deletes an item, with everything under it if `recursive`; returns the number of deleted items. */
  async delete(item: string, options: { recursive?: boolean } = {}): Promise<number> {
    return this.#calls.edit({ edit: 'delete', item, recursive: options.recursive ?? false });
  }

  /** Sets metadata keys of an item; `null` removes a key. */
  async setMetadata(item: string, metadata: Readonly<Record<string, Json>>): Promise<void> {
    await this.#calls.edit({ edit: 'setMetadata', item, metadata });
  }

  /** Makes an item show a modification time for as long as it keeps its present content. */
  async touch(item: string, modifiedAt: Date | string): Promise<void> {
    await this.#calls.edit({ edit: 'touch', item, modifiedAt: instant(modifiedAt) });
  }

  /** Copies an item with everything under it; returns the copy's id. Contents must be on this machine. */
  async copy(item: string, name: string, options: { parent?: string | null } = {}): Promise<string> {
    return this.#calls.write({ call: 'copy', item, name, parent: options.parent ?? null });
  }

  /** Moves an item into another owner's tree, by a copy and a deletion; returns the copy's id. */
  async moveByCopy(item: string, name: string, options: { parent?: string | null } = {}): Promise<string> {
    return this.#calls.write({ call: 'moveByCopy', item, name, parent: options.parent ?? null });
  }

  /**
   * Makes the edits that `make` adds to a batch in one transaction: all of them, or none. `make` is
   * not asynchronous: what it reads stays true until the edits are made.
   */
  async transaction<T>(make: (batch: Batch) => T): Promise<T> {
    const batch = new Batch(() => this.newItemId());
    let result: T;
    try {
      result = make(batch);
    } finally {
      batch.end();
    }
    if (typeof (result as { then?: unknown } | null | undefined)?.then === 'function') {
      // Nobody else waits for it.
      void Promise.resolve(result).catch(() => undefined);
      throw invalid('the function of a transaction is asynchronous: wait before the transaction');
    }
    await this.#calls.write({ call: 'edit', edits: batch.edits });
    return result;
  }

  /** Pushes the queue, pulls until settled, reports what was applied, and uploads queued contents. */
  async sync(options?: Cancellable): Promise<SyncReport> {
    return this.#calls.run({ call: 'sync' }, options);
  }

  /** Pushes only the queue. */
  async flush(options?: Cancellable): Promise<SyncReport> {
    return this.#calls.run({ call: 'flush' }, options);
  }

  /** Pulls until settled. */
  async pull(options?: Cancellable): Promise<SyncReport> {
    return this.#calls.run({ call: 'pull' }, options);
  }

  /** Rebuilds the replica from the server's state; the queue stays. */
  async rematerialise(options?: Cancellable): Promise<SyncReport> {
    return this.#calls.run({ call: 'rematerialise' }, options);
  }

  /** Asks for the server's state of this client. */
  async serverState(options?: Cancellable): Promise<ServerState> {
    return this.#calls.run({ call: 'serverState' }, options);
  }

  /** Starts synchronising in the background; it clears the reason of an earlier stop. */
  async startBackground(): Promise<void> {
    await this.#calls.run({ call: 'startBackground' });
  }

  /** Stops background work and waits until it has ended. */
  async stopBackground(): Promise<void> {
    await this.#calls.run({ call: 'stopBackground' });
  }

  /** Requests a sync soon. It has no effect without background work. */
  async requestSync(): Promise<void> {
    await this.#calls.run({ call: 'requestSync' });
  }

  /**
   * Returns the replica's state as canonical JSON: the same text if and only if nothing changed.
   * `redact` replaces names and metadata by digests, for a bug report.
   */
  exportState(options: { redact?: boolean } = {}): string {
    return this.#calls.read({ call: 'exportState', redact: options.redact ?? false });
  }

  /** Imports an exported state into a client that is pristine and has the same client id. */
  async hydrateState(state: string): Promise<HydrateOutcome> {
    return this.#calls.write({ call: 'hydrateState', state });
  }

  /** Returns the changes of the tree from now on, each with the item before and after. */
  changes(options?: Cancellable): Subscription<TreeChange> {
    return this.#calls.subscribe({ stream: 'changes' }, options);
  }

  /** Returns the events of synchronisation from now on: rejected edits, conflicts, pauses, stops. */
  events(options?: Cancellable): Subscription<SyncEvent> {
    return this.#calls.subscribe({ stream: 'events' }, options);
  }

  /** Returns the state of synchronisation, at first and after each change. */
  syncStates(options?: Cancellable): Subscription<SyncState> {
    return this.#calls.subscribe({ stream: 'syncState' }, options);
  }

  /** Returns the progress of syncs and downloads from now on. */
  progress(options?: Cancellable): Subscription<Progress> {
    return this.#calls.subscribe({ stream: 'progress' }, options);
  }

  /** Returns the children of a container, at first and after each change of them. */
  watchChildren(parent: string | null = null, options?: Cancellable): Subscription<Child[]> {
    return this.#calls.subscribe({ stream: 'children', parent }, options);
  }

  /** Returns the violated guardrails so far, in order. Each was added before its call failed. */
  violations(): Violation[] {
    return this.#violations(false);
  }

  /** Removes and returns the violated guardrails so far. */
  takeViolations(): Violation[] {
    return this.#violations(true);
  }

  #violations(take: boolean): Violation[] {
    const json = checked(() => this.#calls.native.violations(take));
    return (JSON.parse(json) as NativeFailure[]).map(violationOf);
  }

  /** Moves the clock of a client that was opened with `test`. */
  advanceClock(millis: number): void {
    if (!Number.isSafeInteger(millis)) throw invalid('`millis` is not a whole number');
    checked(() => this.#calls.native.advanceClock(millis));
  }

  /** Ends calls and streams, finishes edits and background work, and releases the replica. */
  async close(): Promise<void> {
    await settled(() => this.#calls.native.close());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Several edits that enter the queue together. Later ones may use items that earlier ones create. */
export class Batch {
  readonly #newId: () => string;
  #open = true;
  /** @internal */
  readonly edits: Edit[] = [];

  /** @internal */
  constructor(newId: () => string) {
    this.#newId = newId;
  }

  /** Creates an item; returns its id. */
  create(type: ObjectType, name: string, options: CreateOptions = {}): string {
    const id = options.id ?? this.#newId();
    this.#add(creation(type, name, { ...options, id }));
    return id;
  }

  /** Creates a folder; returns its id. */
  createFolder(name: string, options?: CreateOptions): string {
    return this.create('folder', name, options);
  }

  /** Creates a file without content; returns its id. */
  createFile(name: string, options?: CreateOptions): string {
    return this.create('file', name, options);
  }

  rename(item: string, name: string): this {
    return this.#add({ edit: 'rename', item, name });
  }

  move(item: string, parent: string | null): this {
    return this.#add({ edit: 'move', item, parent });
  }

  link(item: string, parent: string): this {
    return this.#add({ edit: 'link', item, parent });
  }

  unlink(item: string, parent: string): this {
    return this.#add({ edit: 'unlink', item, parent });
  }

  delete(item: string, options: { recursive?: boolean } = {}): this {
    return this.#add({ edit: 'delete', item, recursive: options.recursive ?? false });
  }

  setMetadata(item: string, metadata: Readonly<Record<string, Json>>): this {
    return this.#add({ edit: 'setMetadata', item, metadata });
  }

  touch(item: string, modifiedAt: Date | string): this {
    return this.#add({ edit: 'touch', item, modifiedAt: instant(modifiedAt) });
  }

  share(item: string, principal: Principal, level: AccessLevel): this {
    return this.#add({ edit: 'share', item, principal, level });
  }

  unshare(item: string, principal: Principal): this {
    return this.#add({ edit: 'unshare', item, principal });
  }

  /** Refuses further edits. @internal */
  end(): void {
    this.#open = false;
  }

  #add(edit: Edit): this {
    if (!this.#open) throw invalid('the transaction has ended: add edits before its function returns');
    this.edits.push(edit);
    return this;
  }
}

/** A handle of an item, for code that makes several calls about it. */
export class Item {
  readonly #client: Client;
  readonly id: string;

  /** @internal */
  constructor(client: Client, id: string) {
    this.#client = client;
    this.id = id;
  }

  /** Returns the item, or `null` if the replica does not show it. */
  node(): Node | null {
    return this.#client.node(this.id);
  }

  children(): Child[] {
    return this.#client.children(this.id);
  }

  path(): string {
    return this.#client.pathOf(this.id);
  }

  rename(name: string): Promise<void> {
    return this.#client.rename(this.id, name);
  }

  move(parent: string | null): Promise<void> {
    return this.#client.move(this.id, parent);
  }

  delete(options?: { recursive?: boolean }): Promise<number> {
    return this.#client.delete(this.id, options);
  }

  put(bytes: Bytes, options?: PutOptions): Promise<StoredContent> {
    return this.#client.contents.put(this.id, bytes, options);
  }

  read(options?: ReadOptions): Promise<Content> {
    return this.#client.contents.read(this.id, options);
  }

  share(principal: Principal, level: AccessLevel): Promise<void> {
    return this.#client.sharing.share(this.id, principal, level);
  }

  unshare(principal: Principal): Promise<void> {
    return this.#client.sharing.unshare(this.id, principal);
  }
}

/** The options of a new content. */
export interface PutOptions {
  /** The modification time of the bytes; by default the time when they are queued. */
  readonly modifiedAt?: Date | string | undefined;
}

/** The options of a read of a content. */
export interface ReadOptions extends Cancellable {
  /** The {@link Version.blobId} of an earlier version. */
  readonly version?: string | undefined;
}

/** The calls that store and read contents of items. */
export class Contents {
  readonly #calls: Calls;

  /** @internal */
  constructor(calls: Calls) {
    this.#calls = calls;
  }

  static #options(item: string, options: PutOptions = {}): string {
    const { modifiedAt } = options;
    return jsonOf({ item, ...(modifiedAt === undefined ? {} : { modifiedAt: instant(modifiedAt) }) });
  }

  /** Stores a content for an item, durably; the next sync uploads it. Text is stored as UTF-8. */
  async put(item: string, bytes: Bytes, options?: PutOptions): Promise<StoredContent> {
    const data = bytesOf(bytes);
    const json = await settled(async () => this.#calls.native.put(Contents.#options(item, options), data));
    return JSON.parse(json) as StoredContent;
  }

  /** Stores the content of a file, with the file's modification time. */
  async putFile(item: string, path: string): Promise<StoredContent> {
    return this.#calls.write({ call: 'putFile', item, path });
  }

  /** Stores the chunks of a stream, in bounded memory; a stream that fails leaves nothing. */
  async putStream(
    item: string,
    chunks: AsyncIterable<Bytes> | Iterable<Bytes>,
    options?: PutOptions,
  ): Promise<StoredContent> {
    await using writer = this.writer(item, options);
    for await (const chunk of chunks) await writer.write(chunk);
    return await writer.finish();
  }

  /** Opens a writer of a content for an item. */
  writer(item: string, options?: PutOptions): ContentWriter {
    return new ContentWriter(checked(() => this.#calls.native.writer(Contents.#options(item, options))));
  }

  /** Opens the content of an item; one that is not on this machine is downloaded first. */
  async read(item: string, options: ReadOptions = {}): Promise<Content> {
    const { signal, version } = options;
    // A page's client takes text for granted here.
    if (typeof item !== 'string') throw invalid('`item` is not an id');
    if (version !== undefined && typeof version !== 'string') throw invalid('`version` is not an id');
    const reader = await cancellable(signal, (cancel) => this.#calls.native.reader(item, version, cancel));
    return new Content(reader, signal);
  }

  /** Downloads the contents of items that are not on this machine. */
  async fetch(items: readonly string[], options?: Cancellable): Promise<{ downloaded: number }> {
    return this.#calls.run({ call: 'fetch', items }, options);
  }

  /** Lists the present and earlier contents of a file that the server keeps, the newest first. */
  async versions(item: string, options?: Cancellable): Promise<Version[]> {
    return this.#calls.run({ call: 'versions', item }, options);
  }

  /** Returns the size of the content cache. */
  usage(): CacheUsage {
    return this.#calls.read({ call: 'cacheUsage' });
  }
}

/** The calls about grants. */
export class Sharing {
  readonly #calls: Calls;

  /** @internal */
  constructor(calls: Calls) {
    this.#calls = calls;
  }

  /** Grants a principal a level on an item and on everything in it, now and later. */
  async share(item: string, principal: Principal, level: AccessLevel): Promise<void> {
    await this.#calls.edit({ edit: 'share', item, principal, level });
  }

  /** Removes a principal's grant on an item. */
  async unshare(item: string, principal: Principal): Promise<void> {
    await this.#calls.edit({ edit: 'unshare', item, principal });
  }

  /** Lists the grants on an item itself. */
  grants(item: string): Grant[] {
    return this.#calls.read({ call: 'grants', item });
  }

  /** Lists who may read an item. */
  audience(item: string): Reader[] {
    return this.#calls.read({ call: 'audience', item });
  }

  /** Returns whether this user may delete an item. */
  mayDelete(item: string): boolean {
    return this.#calls.read({ call: 'mayDelete', item });
  }

  /** Lists the other users who share something with this one. */
  owners(): string[] {
    return this.#calls.read({ call: 'sharedOwners' });
  }

  /** Lists what a user shares with this one. */
  by(owner: string): Child[] {
    return this.#calls.read({ call: 'sharedBy', owner });
  }

  /** Lists everything that others share with this user. */
  withMe(): Child[] {
    return this.#calls.read({ call: 'sharedWithMe' });
  }

  /** Removes the grant that names this user. */
  async decline(item: string): Promise<void> {
    await this.#calls.write({ call: 'decline', item });
  }
}

/** The calls about deleted items. */
export class Trash {
  readonly #calls: Calls;

  /** @internal */
  constructor(calls: Calls) {
    this.#calls = calls;
  }

  /** Lists the items that can be restored, including deletions that are still queued. */
  async list(options?: Cancellable): Promise<Trashed[]> {
    return this.#calls.run({ call: 'trash' }, options);
  }

  /** Lists the deletions that are still queued. */
  pending(): Trashed[] {
    return this.#calls.read({ call: 'pendingTrash' });
  }

  /** Brings an item back; returns the number of restored items. */
  async restore(item: string, options: { recursive?: boolean } & Cancellable = {}): Promise<number> {
    const { recursive = true, ...rest } = options;
    return this.#calls.run({ call: 'restore', item, recursive }, rest);
  }

  /** Removes an item for good; returns the number of purged items. */
  async purge(item: string, options: { recursive?: boolean } & Cancellable = {}): Promise<number> {
    const { recursive = true, ...rest } = options;
    return this.#calls.run({ call: 'purge', item, recursive }, rest);
  }

  /** Removes all deleted items of this user for good. */
  async empty(options?: Cancellable): Promise<{ purged: number; ofOthers: number }> {
    return this.#calls.run({ call: 'emptyTrash' }, options);
  }
}

/** The calls about edits and contents that wait for the server or were rejected by it. */
export class Queue {
  readonly #calls: Calls;

  /** @internal */
  constructor(calls: Calls) {
    this.#calls = calls;
  }

  /** Counts the work that is still to be sent, and the rejected work. */
  outstanding(): Outstanding {
    return this.#calls.read({ call: 'outstanding' });
  }

  /** Lists the queued operations, in order. */
  operations(options: { limit?: number } = {}): QueuedOperation[] {
    return this.#calls.read({ call: 'operations', ...options });
  }

  /** Lists the rejected operations, the oldest first. */
  rejected(options: { limit?: number } = {}): RejectedOperation[] {
    return this.#calls.read({ call: 'rejected', ...options });
  }

  /** Queues a rejected operation again; returns its new id. */
  async retry(opId: string): Promise<string> {
    return this.#calls.write({ call: 'retry', opId });
  }

  /** Removes a rejected operation for good. */
  async discard(opId: string): Promise<void> {
    await this.#calls.write({ call: 'discard', opId });
  }

  /** Lists the contents whose upload was rejected for good; their bytes are kept. */
  rejectedUploads(): HeldUpload[] {
    return this.#calls.read({ call: 'rejectedUploads' });
  }

  /** Lists the contents that the server could not take at the last attempt. */
  waitingUploads(): HeldUpload[] {
    return this.#calls.read({ call: 'waitingUploads' });
  }

  /** Uploads a rejected content again. */
  async retryUpload(blobId: string): Promise<void> {
    await this.#calls.write({ call: 'retryUpload', blobId });
  }

  /** Removes a rejected content and its bytes for good. */
  async discardUpload(blobId: string): Promise<void> {
    await this.#calls.write({ call: 'discardUpload', blobId });
  }
}

/** The calls about changes that a restored server lost. */
export class Lost {
  readonly #calls: Calls;

  /** @internal */
  constructor(calls: Calls) {
    this.#calls = calls;
  }

  /** Lists the changes after a number. */
  list(options: { after?: number; limit?: number } = {}): LostChange[] {
    return this.#calls.read({ call: 'lost', ...options });
  }

  /** Grants lost grants again, where this user may. */
  async grantAgain(): Promise<{ item: string; principal: Principal }[]> {
    return this.#calls.write({ call: 'grantAgain' });
  }

  /** Removes changes from the list. */
  async discard(numbers: readonly number[]): Promise<void> {
    await this.#calls.write({ call: 'discardLost', numbers });
  }
}
