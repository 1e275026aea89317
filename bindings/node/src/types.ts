import type { Details, GuardrailSignature } from './errors.js';

/** The type of an item, fixed at its creation. */
export type ObjectType =
  | 'file'
  | 'folder'
  | 'photo'
  | 'audio'
  | 'video'
  | 'contact'
  | 'note'
  | 'email'
  | 'playlist'
  | 'album'
  | 'contactGroup'
  | 'emailFolder'
  | 'tag';

/** A user's level of access to an item: `read < write < admin`. */
export type AccessLevel = 'read' | 'write' | 'admin';

/** A user, group or organization that a grant names. */
export interface Principal {
  readonly kind: 'user' | 'group' | 'organization';
  readonly id: string;
}

/** A place in the result of a query: the item after which the next page begins. */
export interface QueryCursor {
  readonly name: string;
  readonly modifiedAt: string;
  readonly id: string;
}

/** A query of all items that the replica shows. Every condition that is given must hold. */
export interface Query {
  /** The whole name, as it was set. */
  readonly name?: string;
  /** The beginning of the name; it excludes `name`. */
  readonly namePrefix?: string;
  readonly type?: ObjectType;
  readonly owner?: string;
  /** A metadata key, and the value that the item must have. */
  readonly metadata?: { readonly key: string; readonly value: Json };
  /** The earliest time of the item, RFC 3339. */
  readonly modifiedSince?: string;
  /** `name` (the default) or `modifiedAt`. */
  readonly sortBy?: 'name' | 'modifiedAt';
  readonly descending?: boolean;
  /** {@link Found.next} of the page before. */
  readonly after?: QueryCursor | null;
  /** The greatest number of items: at most 1,000, which is the default. */
  readonly limit?: number;
}

/** A page of the result of a query. */
export interface Found {
  readonly items: readonly Node[];
  /** The place after which the next page begins; `null` after an empty one, which is the last. */
  readonly next: QueryCursor | null;
}

/** The difference between two results of a query. */
export interface ResultChange {
  readonly added: readonly Node[];
  /** Items that changed, and are still in the result. */
  readonly changed: readonly Node[];
  readonly removed: readonly string[];
  /** All items of the result, in order. */
  readonly order: readonly string[];
}

/** A value of JSON. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** The metadata of an item: each key is a register of its own. */
export type Metadata = Readonly<Record<string, Json>>;

/** The content of an item. */
export interface NodeContent {
  readonly blobId: string;
  /** The size in bytes. */
  readonly size: number;
  /** The SHA-256 digest of the bytes, as 64 hex digits. */
  readonly digest: string;
  readonly contentType: string | null;
}

/** An item as this replica shows it: the confirmed state with the queued edits on top. */
export interface Node {
  readonly id: string;
  /** The user who owns the item. */
  readonly owner: string;
  readonly type: ObjectType;
  /** The name as it was set; siblings may share it. */
  readonly name: string | null;
  readonly metadata: Metadata;
  /** The encrypted form, if the item has one. */
  readonly encrypted: Details | null;
  /** RFC 3339, in UTC. */
  readonly createdAt: string;
  /** The time to show: that of the content, else that of the creation. */
  readonly modifiedAt: string;
  /** The level of access that this user has. */
  readonly accessLevel: AccessLevel;
  readonly content: NodeContent | null;
  /** True if the server does not have all edits and contents of the item yet. */
  readonly pending: boolean;
}

/** An item under a container. */
export interface Child extends Node {
  /** The name to show: unique among the siblings, and the same on every replica. */
  readonly shownName: string;
  /** True if the item is in another owner's tree than the container, which only links to it. */
  readonly shortcut: boolean;
}

/** An item that a walk visits. */
export interface TreeEntry extends Node {
  /** The names from the start of the walk, separated by `/`, without a leading one. */
  readonly path: string;
  /** The number of containers between the start of the walk and the item. */
  readonly depth: number;
  /** The container on this path; `null` at the top. */
  readonly parent: string | null;
  readonly shortcut: boolean;
  /** The path on which the walk descended into this container before, if it did. */
  readonly linkedAgain: string | null;
}

/** An item with its place, in a change of the tree. */
export interface ShownItem extends Node {
  /** The path by the names as they were set; siblings of one name share it. */
  readonly path: string;
  /** The visible containers of the item, by id. */
  readonly parents: readonly string[];
}

/** A change of the tree, by an edit of this replica (`local`) or by a pull. */
export type TreeChange =
  | {
      readonly type: 'appeared';
      readonly id: string;
      readonly local: boolean;
      readonly before: null;
      readonly after: ShownItem;
    }
  | {
      readonly type: 'changed';
      readonly id: string;
      readonly local: boolean;
      readonly before: ShownItem;
      readonly after: ShownItem;
    }
  | {
      readonly type: 'went';
      readonly id: string;
      readonly local: boolean;
      readonly before: ShownItem;
      readonly after: null;
    }
  /** The whole tree may have changed: read it again. */
  | { readonly type: 'rebuilt' }
  | Missed;

/** The reader was too slow, and missed so many values: read the tree again. */
export interface Missed {
  readonly type: 'missed';
  readonly count: number;
}

/** The reason for a rejected or outdated edit. */
export type PushReason =
  | 'superseded'
  | 'unseen'
  | 'cycle'
  | 'malformed'
  | 'notPermitted'
  | 'unknownItem'
  | 'tooManyGrants'
  | 'tooManyConsequences';

/** The reason why background work stopped or pauses. */
export interface StopReason {
  /** The `stage:code` of a violation, or the code of a fatal answer. */
  readonly signature: GuardrailSignature | (string & {});
  readonly message: string;
  readonly details: Details | null;
  /** The oldest position that the server can serve, if rematerialising would help. */
  readonly oldestAvailable: string | null;
}

/** Changes that a restored server had lost, by kind. */
export interface Offered {
  readonly revocations: number;
  readonly deletions: number;
  readonly items: number;
  readonly links: number;
  readonly contents: number;
  /** Changes that could not be offered and are in the list of lost changes. */
  readonly listed: number;
}

/** Work that is still to be sent, and work that was rejected. */
export interface Outstanding {
  /** Edits to push. */
  readonly pending: number;
  /** Contents to upload. */
  readonly uploads: number;
  /** The server's reason for the first content that it cannot take at present. */
  readonly waiting: string | null;
  readonly rejected: number;
  readonly rejectedUploads: number;
  /** The reason for the first rejection. */
  readonly refused: string | null;
  /** Changes that a restored server lost and that could not be offered again. */
  readonly lost: number;
}

/** The state of synchronisation, for an application to show. */
export interface SyncState extends Outstanding {
  readonly connection: 'unknown' | 'online' | 'live' | 'polling' | 'offline';
  /** The time of the first call without an answer, while offline. */
  readonly offlineSince: string | null;
  readonly pollingReason: 'unsupported' | 'heldBack' | 'refused' | null;
  /** The last time at which the replica had everything, and nothing was left to send. */
  readonly lastInStepAt: string | null;
  /** True while background work is running. */
  readonly running: boolean;
  readonly stopped: StopReason | null;
  readonly paused: StopReason | null;
}

/** An event of synchronisation. */
export type SyncEvent =
  | { readonly type: 'revoked' | 'kept' | 'notMoved'; readonly item: string }
  | { readonly type: 'shared'; readonly item: string; readonly owner: string; readonly level: AccessLevel }
  | {
      readonly type: 'rejected' | 'outdated';
      readonly opId: string;
      readonly item: string;
      readonly reason: PushReason | null;
    }
  | { readonly type: 'conflictedCopy'; readonly item: string; readonly copy: string }
  | { readonly type: 'uploadRejected'; readonly item: string; readonly reason: string }
  | { readonly type: 'paused' | 'stopped'; readonly reason: StopReason }
  | { readonly type: 'resumed' }
  | { readonly type: 'outstanding'; readonly outstanding: Outstanding }
  | { readonly type: 'offered'; readonly offered: Offered }
  | Missed;

/** The progress of the present sync and of the downloads. */
export interface Progress {
  readonly pushed: number;
  readonly toPush: number;
  readonly pulled: number;
  readonly uploaded: number;
  readonly toUpload: number;
  readonly uploadedBytes: number;
  readonly downloaded: number;
  readonly toDownload: number;
  readonly downloadedBytes: number;
  readonly toDownloadBytes: number;
}

/** The result of a sync. */
export interface SyncReport {
  /** Edits that were applied, now or before. */
  readonly applied: number;
  /** Edits that were superseded by a newer write. */
  readonly outdated: number;
  readonly rejected: number;
  /** Feed entries that were applied. */
  readonly pulled: number;
  readonly uploaded: number;
  /** Contents that the server cannot take at present; they stay in the queue. */
  readonly waiting: number;
  readonly uploadedBytes: number;
  readonly pushes: number;
  readonly pages: number;
  readonly rematerialised: boolean;
  readonly offered: Offered;
}

/** The write id of each replica. */
export type WriteIds = Readonly<Record<string, number>>;

/** The state of a replica, for people and for triage. */
export interface Status {
  readonly clientId: string;
  readonly user: string;
  readonly server: string;
  /** The position up to which the feed is applied. */
  readonly cursor: string | null;
  readonly lastReconciledWriteIds: WriteIds;
  readonly pending: number;
  readonly acknowledged: number;
  readonly rejected: number;
  readonly uploads: number;
  readonly rejectedUploads: number;
  readonly lost: number;
  readonly items: number;
  readonly stopped: StopReason | null;
  readonly paused: StopReason | null;
  readonly running: boolean;
}

/** The server's state of this client. */
export interface ServerState {
  readonly clientId: string;
  readonly reconcileState: {
    readonly cursor: string;
    readonly lastReconciledWriteIds: WriteIds;
  } | null;
  readonly feedHead: string | null;
  readonly lastWriteIds: WriteIds;
}

/** A grant on an item. */
export interface Grant {
  readonly principal: Principal;
  readonly level: AccessLevel;
  /** True until the server has acknowledged the grant. */
  readonly pending: boolean;
}

/** A principal that may read an item. */
export interface Reader {
  readonly principal: Principal;
  readonly level: AccessLevel;
  /** The item with the grant: the item itself, or a container above it. */
  readonly through: string;
}

/** An operation on the wire. */
export type Operation = Details & { readonly opId: string; readonly itemId: string };

/** An operation in the queue. */
export interface QueuedOperation {
  readonly operation: Operation;
  readonly state: 'pending' | 'acknowledged' | 'held';
}

/** An operation that the server rejected for good. */
export interface RejectedOperation {
  readonly opId: string;
  readonly item: string;
  readonly operation: Operation;
  readonly reason: PushReason | null;
  readonly detail: string | null;
}

/** A content that waits for the server, or that it rejected. */
export interface HeldUpload {
  readonly item: string;
  readonly blobId: string;
  readonly size: number;
  readonly reason: string;
}

/** A change that a restored server lost and that was not offered again. */
export interface LostChange {
  readonly number: number;
  readonly item: string;
  readonly path: string;
  readonly change: Details;
  readonly reason: string;
  readonly authoredAt: string;
}

/** A deleted item that can be restored. */
export interface Trashed {
  readonly item: string;
  readonly type: ObjectType;
  readonly name: string | null;
  readonly owner: string;
  /** The names from the top of the tree down to the item. */
  readonly path: readonly string[];
  readonly deletedAt: string;
  readonly deletedBy: string;
  readonly size: number | null;
  /** The time at which the server purges the item. */
  readonly expiresAt: string | null;
  /** True until the server has acknowledged the deletion. */
  readonly pending: boolean;
}

/** A content of a file that the server keeps. */
export interface Version {
  readonly blobId: string;
  readonly size: number;
  readonly digest: string;
  readonly contentType: string | null;
  readonly attachedAt: string;
  readonly modifiedAt: string | null;
}

/** A content that the replica has stored. */
export interface StoredContent {
  readonly blobId: string;
  readonly size: number;
  readonly digest: string;
}

/** The size of the content cache. */
export interface CacheUsage {
  readonly bytes: number;
  readonly contents: number;
  readonly limit: number | null;
}

/** The result of an import of a state. */
export interface HydrateOutcome {
  readonly items: number;
  readonly queued: number;
}
