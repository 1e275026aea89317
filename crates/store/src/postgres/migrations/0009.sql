-- Of each owner and each user that was granted something by name: how many present grants there
-- are, and whether the owner's grants have an effect: 0, they have; 1, the user's next call gives
-- them effect; 2, they show too much for one transaction.
CREATE TABLE grantees (
    owner   TEXT COLLATE "C" NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL,
    grants  BIGINT NOT NULL,
    awaited BIGINT NOT NULL,
    PRIMARY KEY (owner, user_id)
);
CREATE INDEX grantees_awaited ON grantees (user_id, owner) WHERE awaited = 1;
INSERT INTO grantees (owner, user_id, grants, awaited)
SELECT i.owner, g.principal_id, count(*), 0 FROM grants g JOIN items i USING (item_id)
WHERE g.kind = 1 AND g.level IS NOT NULL GROUP BY i.owner, g.principal_id;
