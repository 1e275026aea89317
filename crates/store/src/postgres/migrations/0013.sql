-- Credentials of devices: one of a replica, with digests of its secrets; see the rules for
-- credentials.
CREATE TABLE credentials (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    user_id    TEXT COLLATE "C" NOT NULL,
    client     TEXT COLLATE "C" NOT NULL,
    generation BIGINT NOT NULL,
    current    BYTEA NOT NULL,
    previous   BYTEA,
    made_at    BIGINT NOT NULL,
    used_at    BIGINT NOT NULL,
    ended_at   BIGINT
);
CREATE UNIQUE INDEX credentials_by_device ON credentials (user_id, client);
CREATE INDEX credentials_by_use ON credentials (user_id, used_at);
-- The keys that sign access tokens, for all servers of the database.
CREATE TABLE signing_keys (
    id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    secret  BYTEA NOT NULL,
    made_at BIGINT NOT NULL
);
CREATE INDEX signing_keys_by_time ON signing_keys (made_at);
