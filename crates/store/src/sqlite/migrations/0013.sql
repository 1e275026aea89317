-- Credentials of devices: one of a replica, with digests of its secrets; see the rules for
-- credentials.
CREATE TABLE credentials (
    id         TEXT NOT NULL PRIMARY KEY,
    user_id    TEXT NOT NULL,
    client     TEXT NOT NULL,
    generation INTEGER NOT NULL,
    current    BLOB NOT NULL,
    previous   BLOB,
    made_at    INTEGER NOT NULL,
    used_at    INTEGER NOT NULL,
    ended_at   INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX credentials_by_device ON credentials (user_id, client);
CREATE INDEX credentials_by_use ON credentials (user_id, used_at);
-- The keys that sign access tokens, for all servers of the database.
CREATE TABLE signing_keys (
    id      TEXT NOT NULL PRIMARY KEY,
    secret  BLOB NOT NULL,
    made_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX signing_keys_by_time ON signing_keys (made_at);
