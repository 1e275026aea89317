-- Users who block an owner: what the owner grants gives them nothing.
CREATE TABLE blocks (
    owner INTEGER NOT NULL,
    uid   INTEGER NOT NULL,
    PRIMARY KEY (owner, uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX blocks_by_user ON blocks (uid, owner);
