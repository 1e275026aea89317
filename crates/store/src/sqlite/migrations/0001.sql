CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A user, and everything that the user owns. Rows elsewhere name it by its number.
CREATE TABLE realms (
    uid     INTEGER PRIMARY KEY,
    user_id TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE items (
    item_id    TEXT PRIMARY KEY,
    owner      INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    fields     BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- A stamp is (authored_at, author, write_id); `author` is a replica's rid.
CREATE TABLE links (
    parent      TEXT NOT NULL,
    child       TEXT NOT NULL,
    present     INTEGER NOT NULL,
    in_realm    INTEGER NOT NULL,
    authored_at INTEGER NOT NULL,
    author      INTEGER NOT NULL,
    write_id    INTEGER NOT NULL,
    PRIMARY KEY (parent, child)
) STRICT, WITHOUT ROWID;
CREATE INDEX links_by_child ON links (child);

CREATE TABLE grants (
    item_id      TEXT NOT NULL,
    kind         INTEGER NOT NULL,
    principal_id TEXT NOT NULL,
    level        INTEGER,
    authored_at  INTEGER NOT NULL,
    author       INTEGER NOT NULL,
    write_id     INTEGER NOT NULL,
    PRIMARY KEY (item_id, kind, principal_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE moves (
    child       TEXT NOT NULL,
    realm       INTEGER NOT NULL,
    parent      TEXT NOT NULL,
    authored_at INTEGER NOT NULL,
    author      INTEGER NOT NULL,
    write_id    INTEGER NOT NULL,
    PRIMARY KEY (child, realm)
) STRICT, WITHOUT ROWID;

CREATE TABLE access (
    uid     INTEGER NOT NULL,
    item_id TEXT NOT NULL,
    level   INTEGER NOT NULL,
    PRIMARY KEY (uid, item_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX access_by_item ON access (item_id);

-- `position` is the user's uid above 40 bits of counter: a feed is one range of rows.
CREATE TABLE feed (
    position   INTEGER PRIMARY KEY,
    uid        INTEGER NOT NULL,
    key        BLOB NOT NULL,
    changed_at INTEGER NOT NULL,
    removal    INTEGER NOT NULL,
    json       TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX feed_by_key ON feed (uid, key);
CREATE INDEX feed_removals ON feed (changed_at) WHERE removal = 1;

CREATE TABLE feed_head (
    uid               INTEGER PRIMARY KEY,
    epoch             INTEGER NOT NULL,
    counter           INTEGER NOT NULL,
    changed_at        INTEGER NOT NULL,
    pruned_counter    INTEGER,
    pruned_changed_at INTEGER
) STRICT;

-- `accepted_from` is when the oldest of the replica's rows in accepted_ops was accepted.
CREATE TABLE replicas (
    rid           INTEGER PRIMARY KEY,
    uid           INTEGER NOT NULL,
    replica_id    TEXT NOT NULL,
    last_write_id INTEGER NOT NULL,
    last_seen     INTEGER NOT NULL,
    accepted_from INTEGER
) STRICT;
CREATE UNIQUE INDEX replicas_by_id ON replicas (uid, replica_id);
CREATE INDEX replicas_by_activity ON replicas (uid, last_seen);
CREATE INDEX replicas_by_accepted ON replicas (accepted_from) WHERE accepted_from IS NOT NULL;

CREATE TABLE accepted_ops (
    rid         INTEGER NOT NULL,
    write_id    INTEGER NOT NULL,
    op_id       TEXT NOT NULL,
    digest      BLOB NOT NULL,
    outcome     INTEGER NOT NULL,
    authored_at INTEGER,
    accepted_at INTEGER NOT NULL,
    PRIMARY KEY (rid, write_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE reconcile_state (
    uid        INTEGER NOT NULL,
    client     TEXT NOT NULL,
    changed_at INTEGER NOT NULL,
    change_id  TEXT NOT NULL,
    write_ids  TEXT NOT NULL,
    PRIMARY KEY (uid, client)
) STRICT, WITHOUT ROWID;

-- A blob's row stays for ever, so that its id is not given to anybody again.
CREATE TABLE blobs (
    blob_id      TEXT PRIMARY KEY,
    owner        INTEGER NOT NULL,
    status       TEXT NOT NULL,
    size         INTEGER,
    digest       BLOB,
    content_type TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE blob_stages (
    staging_id    TEXT PRIMARY KEY,
    owner         INTEGER NOT NULL,
    blob_id       TEXT NOT NULL,
    status        TEXT NOT NULL,
    staged_at     INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL,
    expiry_chosen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_stages_by_expiry ON blob_stages (expires_at) WHERE status = 'blob-stage:staged';

-- `is_current` is 0 for what a newer content of a file replaced.
CREATE TABLE blob_refs (
    ref_id      TEXT PRIMARY KEY,
    item_id     TEXT NOT NULL,
    blob_id     TEXT NOT NULL,
    kind        TEXT NOT NULL,
    is_current  INTEGER NOT NULL,
    attached_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_refs_by_item ON blob_refs (item_id, is_current);
CREATE INDEX blob_refs_by_blob ON blob_refs (blob_id);

CREATE TABLE members (
    kind     INTEGER NOT NULL,
    group_id TEXT NOT NULL,
    uid      INTEGER NOT NULL,
    PRIMARY KEY (kind, group_id, uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_user ON members (uid);
