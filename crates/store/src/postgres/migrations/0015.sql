-- Sessions of the operator's console; see the rules for sessions.
CREATE TABLE console_sessions (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    made_by    TEXT COLLATE "C" NOT NULL,
    sealed     BYTEA NOT NULL,
    made_at    BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX console_sessions_by_time ON console_sessions (made_at);
CREATE INDEX console_sessions_by_end ON console_sessions (expires_at);
