/** Makes the wire form of a cursor. */
export function cursor(changedAt: string, changeId: string): string {
  return Buffer.from(JSON.stringify({ version: 1, changedAt, changeId })).toString('base64url');
}

/** An entry of a feed, as in docs/protocol.md. */
export type FeedEntry = Record<string, unknown> & { opId: string; occurredAt: string };

/** A page of a feed, valid or not. */
export interface Page {
  items: FeedEntry[];
  nextCursor: string | null;
  hasMore: boolean;
  lastReconciledWriteIds: Record<string, number>;
}

/** Makes the entry of an item of alice's that appeared; it is named after its id. */
export function itemEntry(
  occurredAt: string,
  opId: string,
  item: string,
  fields: Record<string, unknown> = {},
): FeedEntry {
  return {
    opId,
    occurredAt,
    opType: 'item_upsert',
    itemId: item,
    objectType: 'folder',
    name: item,
    metadata: {},
    ownerId: 'alice',
    createdAt: '1970-01-01T00:00:00.000Z',
    accessLevel: 'admin',
    authoredAt: occurredAt,
    ...fields,
  };
}

/** Makes a page; without arguments, an empty one that settles the pull. */
export function page(fields: Partial<Page> = {}): Page {
  const items = fields.items ?? [];
  const last = items.at(-1);
  const hasMore = fields.hasMore ?? false;
  const tail = hasMore && last !== undefined ? cursor(last.occurredAt, last.opId) : null;
  return { items, nextCursor: tail, hasMore, lastReconciledWriteIds: {}, ...fields };
}
