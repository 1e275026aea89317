CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);

-- A user, and everything that the user owns: what a transaction locks.
CREATE TABLE realms (
    user_id TEXT COLLATE "C" PRIMARY KEY
);

CREATE TABLE items (
    item_id    TEXT COLLATE "C" PRIMARY KEY,
    owner      TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    fields     BYTEA NOT NULL
);

-- A stamp is (authored_at, author, replica_id, write_id).
CREATE TABLE links (
    parent      TEXT COLLATE "C" NOT NULL,
    child       TEXT COLLATE "C" NOT NULL,
    present     BOOLEAN NOT NULL,
    in_realm    BOOLEAN NOT NULL,
    authored_at BIGINT NOT NULL,
    author      TEXT COLLATE "C" NOT NULL,
    replica_id  TEXT COLLATE "C" NOT NULL,
    write_id    BIGINT NOT NULL,
    PRIMARY KEY (parent, child)
);
CREATE INDEX links_by_child ON links (child);

CREATE TABLE grants (
    item_id      TEXT COLLATE "C" NOT NULL,
    kind         BIGINT NOT NULL,
    principal_id TEXT COLLATE "C" NOT NULL,
    level        BIGINT,
    authored_at  BIGINT NOT NULL,
    author       TEXT COLLATE "C" NOT NULL,
    replica_id   TEXT COLLATE "C" NOT NULL,
    write_id     BIGINT NOT NULL,
    PRIMARY KEY (item_id, kind, principal_id)
);

CREATE TABLE moves (
    child       TEXT COLLATE "C" NOT NULL,
    realm       TEXT COLLATE "C" NOT NULL,
    parent      TEXT COLLATE "C" NOT NULL,
    authored_at BIGINT NOT NULL,
    author      TEXT COLLATE "C" NOT NULL,
    replica_id  TEXT COLLATE "C" NOT NULL,
    write_id    BIGINT NOT NULL,
    PRIMARY KEY (child, realm)
);

CREATE TABLE access (
    user_id TEXT COLLATE "C" NOT NULL,
    item_id TEXT COLLATE "C" NOT NULL,
    level   BIGINT NOT NULL,
    PRIMARY KEY (user_id, item_id)
);
CREATE INDEX access_by_item ON access (item_id);

CREATE TABLE feed (
    user_id    TEXT COLLATE "C" NOT NULL,
    counter    BIGINT NOT NULL,
    key        BYTEA NOT NULL,
    changed_at BIGINT NOT NULL,
    removal    BOOLEAN NOT NULL,
    json       TEXT NOT NULL,
    PRIMARY KEY (user_id, counter)
);
CREATE UNIQUE INDEX feed_by_key ON feed (user_id, key);
CREATE INDEX feed_removals ON feed (changed_at) WHERE removal;

CREATE TABLE feed_head (
    user_id           TEXT COLLATE "C" PRIMARY KEY,
    epoch             BIGINT NOT NULL,
    counter           BIGINT NOT NULL,
    changed_at        BIGINT NOT NULL,
    pruned_counter    BIGINT,
    pruned_changed_at BIGINT
) WITH (fillfactor = 50);

-- A replica has write id 0 until an operation of its is accepted. `accepted_from` is when the
-- oldest of its rows in accepted_ops was accepted.
CREATE TABLE replicas (
    user_id       TEXT COLLATE "C" NOT NULL,
    replica_id    TEXT COLLATE "C" NOT NULL,
    last_write_id BIGINT NOT NULL,
    last_seen     BIGINT NOT NULL,
    accepted_from BIGINT,
    PRIMARY KEY (user_id, replica_id)
) WITH (fillfactor = 50);
CREATE INDEX replicas_by_activity ON replicas (user_id, last_seen DESC) WHERE last_write_id > 0;
CREATE INDEX replicas_by_accepted ON replicas (accepted_from) WHERE accepted_from IS NOT NULL;

CREATE TABLE accepted_ops (
    user_id     TEXT COLLATE "C" NOT NULL,
    replica_id  TEXT COLLATE "C" NOT NULL,
    write_id    BIGINT NOT NULL,
    op_id       TEXT NOT NULL,
    digest      BYTEA NOT NULL,
    outcome     BIGINT NOT NULL,
    authored_at BIGINT,
    accepted_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, replica_id, write_id)
);

CREATE TABLE reconcile_state (
    user_id    TEXT COLLATE "C" NOT NULL,
    client     TEXT COLLATE "C" NOT NULL,
    changed_at BIGINT NOT NULL,
    change_id  TEXT NOT NULL,
    write_ids  TEXT NOT NULL,
    PRIMARY KEY (user_id, client)
);

-- A blob's row stays for ever, so that its id is not given to anybody again.
CREATE TABLE blobs (
    blob_id      TEXT COLLATE "C" PRIMARY KEY,
    owner        TEXT COLLATE "C" NOT NULL,
    status       TEXT NOT NULL,
    size         BIGINT,
    digest       BYTEA,
    content_type TEXT
);

CREATE TABLE blob_stages (
    staging_id    TEXT COLLATE "C" PRIMARY KEY,
    owner         TEXT COLLATE "C" NOT NULL,
    blob_id       TEXT COLLATE "C" NOT NULL,
    status        TEXT NOT NULL,
    staged_at     BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL,
    expiry_chosen BOOLEAN NOT NULL
);
CREATE INDEX blob_stages_by_expiry ON blob_stages (expires_at) WHERE status = 'blob-stage:staged';

-- `is_current` is false for what a newer content of a file replaced.
CREATE TABLE blob_refs (
    ref_id      TEXT COLLATE "C" PRIMARY KEY,
    item_id     TEXT COLLATE "C" NOT NULL,
    blob_id     TEXT COLLATE "C" NOT NULL,
    kind        TEXT NOT NULL,
    is_current  BOOLEAN NOT NULL,
    attached_at BIGINT NOT NULL
);
CREATE INDEX blob_refs_by_item ON blob_refs (item_id, is_current);
CREATE INDEX blob_refs_by_blob ON blob_refs (blob_id);

CREATE TABLE members (
    kind     BIGINT NOT NULL,
    group_id TEXT COLLATE "C" NOT NULL,
    user_id  TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, group_id, user_id)
);
CREATE INDEX members_by_user ON members (user_id);
