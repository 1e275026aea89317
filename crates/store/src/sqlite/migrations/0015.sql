-- Sessions of the operator's console; see the rules for sessions.
CREATE TABLE console_sessions (
    id         TEXT NOT NULL PRIMARY KEY,
    made_by    TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    made_at    INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX console_sessions_by_time ON console_sessions (made_at);
CREATE INDEX console_sessions_by_end ON console_sessions (expires_at);
