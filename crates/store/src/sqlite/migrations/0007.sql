-- The first entry that a feed got in an epoch. The epoch of a feed's head is that of its last entry.
CREATE TABLE feed_epochs (
    uid           INTEGER NOT NULL,
    epoch         INTEGER NOT NULL,
    first_counter INTEGER NOT NULL,
    PRIMARY KEY (uid, epoch)
) STRICT, WITHOUT ROWID;
INSERT INTO feed_epochs (uid, epoch, first_counter)
SELECT uid, epoch, 1 FROM feed_head WHERE counter > 0;

-- What tells this database from others: its `id`, made once; on PostgreSQL the `place` too where
-- its epoch began.
CREATE TABLE identity (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
