-- `reserved` is what counts against the owner's quota; at `reclaim_at` the sweeper looks at what is
-- left of the blob in the object store. Statuses: live, deleting (its bytes are to go), deleted.
ALTER TABLE blobs ADD COLUMN reserved BIGINT NOT NULL DEFAULT 0;
ALTER TABLE blobs ADD COLUMN reclaim_at BIGINT;
CREATE INDEX blobs_to_reclaim ON blobs (reclaim_at) WHERE reclaim_at IS NOT NULL;
UPDATE blobs SET reserved = size WHERE size IS NOT NULL AND status = 'live';
UPDATE blobs SET status = 'deleting', reclaim_at = 0 WHERE status = 'abandoned';

CREATE INDEX blob_stages_by_blob ON blob_stages (blob_id);

-- An upload in parts that is under way. `lease` is who writes to it.
CREATE TABLE blob_uploads (
    staging_id TEXT COLLATE "C" PRIMARY KEY,
    handle     TEXT,
    lease      TEXT NOT NULL,
    length     BIGINT,
    metadata   TEXT,
    received   BIGINT NOT NULL,
    parts      BIGINT NOT NULL,
    tail       TEXT NOT NULL,
    hash       BYTEA NOT NULL
);
CREATE TABLE blob_parts (
    staging_id TEXT COLLATE "C" NOT NULL,
    part       BIGINT NOT NULL,
    tag        TEXT NOT NULL,
    PRIMARY KEY (staging_id, part)
);

-- What a user's blobs come to, kept incrementally. Locked after everything else.
CREATE TABLE blob_usage (
    owner       TEXT COLLATE "C" PRIMARY KEY,
    stored      BIGINT NOT NULL,
    staged      BIGINT NOT NULL,
    open_stages BIGINT NOT NULL
) WITH (fillfactor = 50);
INSERT INTO blob_usage (owner, stored, staged, open_stages)
SELECT b.owner, sum(b.reserved)::bigint,
       coalesce(sum(b.reserved) FILTER (WHERE s.status = 'blob-stage:staged'), 0)::bigint,
       count(*) FILTER (WHERE s.status = 'blob-stage:staged')
FROM blobs b JOIN blob_stages s USING (blob_id) GROUP BY b.owner;

-- `surplus_since` is since when a version is none of the last ones that are kept in any case.
ALTER TABLE blob_refs ADD COLUMN surplus_since BIGINT;
CREATE INDEX blob_refs_surplus ON blob_refs (surplus_since) WHERE surplus_since IS NOT NULL;
CREATE INDEX blob_refs_versions ON blob_refs (item_id, kind, attached_at, ref_id);
