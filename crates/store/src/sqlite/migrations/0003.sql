-- `reserved` is what counts against the owner's quota; at `reclaim_at` the sweeper looks at what is
-- left of the blob in the object store. Statuses: live, deleting (its bytes are to go), deleted.
ALTER TABLE blobs ADD COLUMN reserved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blobs ADD COLUMN reclaim_at INTEGER;
CREATE INDEX blobs_to_reclaim ON blobs (reclaim_at) WHERE reclaim_at IS NOT NULL;
UPDATE blobs SET reserved = size WHERE size IS NOT NULL AND status = 'live';
UPDATE blobs SET status = 'deleting', reclaim_at = 0 WHERE status = 'abandoned';

CREATE INDEX blob_stages_by_blob ON blob_stages (blob_id);

-- An upload in parts that is under way. `lease` is who writes to it.
CREATE TABLE blob_uploads (
    staging_id TEXT PRIMARY KEY,
    handle     TEXT,
    lease      TEXT NOT NULL,
    length     INTEGER,
    metadata   TEXT,
    received   INTEGER NOT NULL,
    parts      INTEGER NOT NULL,
    tail       TEXT NOT NULL,
    hash       BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE blob_parts (
    staging_id TEXT NOT NULL,
    part       INTEGER NOT NULL,
    tag        TEXT NOT NULL,
    PRIMARY KEY (staging_id, part)
) STRICT, WITHOUT ROWID;

-- What a user's blobs come to, kept incrementally.
CREATE TABLE blob_usage (
    owner       INTEGER PRIMARY KEY,
    stored      INTEGER NOT NULL,
    staged      INTEGER NOT NULL,
    open_stages INTEGER NOT NULL
) STRICT;
INSERT INTO blob_usage (owner, stored, staged, open_stages)
SELECT b.owner, sum(b.reserved),
       sum(CASE WHEN s.status = 'blob-stage:staged' THEN b.reserved ELSE 0 END),
       sum(s.status = 'blob-stage:staged')
FROM blobs b JOIN blob_stages s USING (blob_id) GROUP BY b.owner;

-- `surplus_since` is since when a version is none of the last ones that are kept in any case.
ALTER TABLE blob_refs ADD COLUMN surplus_since INTEGER;
CREATE INDEX blob_refs_surplus ON blob_refs (surplus_since) WHERE surplus_since IS NOT NULL;
CREATE INDEX blob_refs_versions ON blob_refs (item_id, kind, attached_at, ref_id);
