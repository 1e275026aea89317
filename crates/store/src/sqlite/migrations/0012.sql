-- Devices: replicas that say who they are. `body` is JSON; see the rules for devices.
CREATE TABLE devices (
    user_id    TEXT NOT NULL,
    client     TEXT NOT NULL,
    last_seen  INTEGER NOT NULL,
    revoked_at INTEGER,
    body       TEXT NOT NULL,
    PRIMARY KEY (user_id, client)
) STRICT, WITHOUT ROWID;
CREATE INDEX devices_by_time ON devices (last_seen);
CREATE INDEX devices_by_activity ON devices (user_id, last_seen) WHERE revoked_at IS NULL;
-- What operators decided about users: since when one is disabled, and the limits of one's own, as
-- JSON.
ALTER TABLE realms ADD COLUMN disabled_at INTEGER;
ALTER TABLE realms ADD COLUMN limits TEXT;
-- The secret of the pseudonyms by which logs name users.
INSERT INTO identity (name, value) VALUES ('pseudonyms', lower(hex(randomblob(32))));
