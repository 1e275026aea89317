-- Who besides its owner sees an item: looked up by the item.
DROP TABLE access;
CREATE TABLE access (
    item_id TEXT NOT NULL,
    uid     INTEGER NOT NULL,
    level   INTEGER NOT NULL,
    PRIMARY KEY (item_id, uid)
) STRICT, WITHOUT ROWID;

CREATE INDEX grants_by_principal ON grants (kind, principal_id) WHERE level IS NOT NULL;
