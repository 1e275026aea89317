-- Users who block an owner: what the owner grants gives them nothing.
CREATE TABLE blocks (
    owner   TEXT COLLATE "C" NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (owner, user_id)
);
CREATE INDEX blocks_by_user ON blocks (user_id, owner);
