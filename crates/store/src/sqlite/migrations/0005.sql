-- Who made the newest change that a row of a feed tells, if it was a replica of the feed's user:
-- `writer`. The position of that change is the row's own, or `kept` where the row moved since for
-- another reason; `other` is the position of the newest change by anybody else. In `feed_head` the
-- same of the whole feed.
CREATE TABLE writers (
    wid        INTEGER PRIMARY KEY,
    uid        INTEGER NOT NULL,
    replica_id TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX writers_by_id ON writers (uid, replica_id);
ALTER TABLE feed ADD COLUMN writer INTEGER;
ALTER TABLE feed ADD COLUMN kept INTEGER;
ALTER TABLE feed ADD COLUMN other INTEGER;
ALTER TABLE feed_head ADD COLUMN writer INTEGER;
ALTER TABLE feed_head ADD COLUMN other INTEGER;
