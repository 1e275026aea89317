-- What is deleted. State 0: since `at`, and can be restored; 1: a tombstone since `at` of which other
-- rows are left; 2: a tombstone with nothing else left.
CREATE TABLE trash (
    item_id    TEXT PRIMARY KEY,
    owner      INTEGER NOT NULL,
    state      INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    deleted_by INTEGER NOT NULL,
    replica_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX trash_by_owner ON trash (owner, at, item_id) WHERE state = 0;
CREATE INDEX trash_by_deleter ON trash (deleted_by, at, item_id) WHERE state = 0;
CREATE INDEX trash_by_time ON trash (state, at);

-- Who the blob counts against, if not who staged it: from the attach on, the item's owner.
ALTER TABLE blobs ADD COLUMN charged INTEGER;
UPDATE blobs SET charged = (
    SELECT i.owner FROM blob_refs r JOIN items i USING (item_id)
    WHERE r.blob_id = blobs.blob_id AND i.owner <> blobs.owner LIMIT 1
) WHERE status = 'live';
INSERT INTO blob_usage (owner, stored, staged, open_stages)
SELECT charged, 0, 0, 0 FROM blobs WHERE charged IS NOT NULL GROUP BY charged
ON CONFLICT (owner) DO NOTHING;
UPDATE blob_usage SET stored = stored + moved.delta FROM (
    SELECT who, sum(delta) AS delta FROM (
        SELECT charged AS who, reserved AS delta FROM blobs WHERE charged IS NOT NULL
        UNION ALL SELECT owner, -reserved FROM blobs WHERE charged IS NOT NULL
    ) AS parts GROUP BY who
) AS moved WHERE moved.who = blob_usage.owner;

-- The ids of deleted blobs go a year after their stages' ends.
UPDATE blobs SET reclaim_at = (
    SELECT s.expires_at + 31622400000 FROM blob_stages s WHERE s.blob_id = blobs.blob_id
) WHERE status = 'deleted' AND reclaim_at IS NULL;
