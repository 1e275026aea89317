-- Who made the newest change that a row of a feed tells, if it was a replica of the feed's user:
-- `writer`. The position of that change is the row's own, or `kept` where the row moved since for
-- another reason; `other` is the position of the newest change by anybody else. In `feed_head` the
-- same of the whole feed.
ALTER TABLE feed ADD COLUMN writer TEXT;
ALTER TABLE feed ADD COLUMN kept BIGINT;
ALTER TABLE feed ADD COLUMN other BIGINT;
ALTER TABLE feed_head ADD COLUMN writer TEXT;
ALTER TABLE feed_head ADD COLUMN other BIGINT;
