-- The first entry that a feed got in an epoch. The epoch of a feed's head is that of its last entry.
CREATE TABLE feed_epochs (
    user_id       TEXT COLLATE "C" NOT NULL,
    epoch         BIGINT NOT NULL,
    first_counter BIGINT NOT NULL,
    PRIMARY KEY (user_id, epoch)
);
INSERT INTO feed_epochs (user_id, epoch, first_counter)
SELECT user_id, epoch, 1 FROM feed_head WHERE counter > 0;

-- What tells this database from others: its `id`, made once; on PostgreSQL the `place` too where
-- its epoch began.
CREATE TABLE identity (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
