-- Who besides its owner sees an item: looked up by the item.
DROP TABLE access;
CREATE TABLE access (
    item_id TEXT COLLATE "C" NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL,
    level   BIGINT NOT NULL,
    PRIMARY KEY (item_id, user_id)
);

CREATE INDEX grants_by_principal ON grants (kind, principal_id) WHERE level IS NOT NULL;

-- A group or an organization: what a grant to it and a change of its members lock.
CREATE TABLE groups (
    kind     BIGINT NOT NULL,
    group_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, group_id)
);
