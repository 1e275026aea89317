//! Sessions of the operator's console: a token that was pasted once, kept sealed until the session
//! ends.
//!
//! The browser has a secret, the database the token, sealed under a key that follows from the secret.
//! Neither alone is of any use: who reads the database has no token, and who reads the browser's
//! cookie has no bearer token. Every call opens the token and verifies it again, so a session ends
//! with its token, whatever ends that.

use crate::time::Timestamp;

/// The seconds for which a session lasts, unless its token expires before.
pub const SESSION_SECONDS: u32 = 3_600;

/// The number of sessions that a database keeps. Beyond it the oldest one ends.
pub const MAX_SESSIONS: u32 = 100;

/// A session of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleSession {
    /// The id, which follows from the browser's secret.
    pub id: String,
    /// The pseudonym of the operator.
    pub by: String,
    /// The token, sealed under a key that follows from the browser's secret.
    pub sealed: Vec<u8>,
    /// The time of the sign-in.
    pub made_at: Timestamp,
    /// The time from which the session is rejected.
    pub expires_at: Timestamp,
}

impl ConsoleSession {
    /// Returns whether the session counts at `now`.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }

    /// Returns the end of a session that begins at `now` with a token that expires at
    /// `token_expires_at`.
    #[must_use]
    pub fn end(now: Timestamp, token_expires_at: Option<Timestamp>) -> Timestamp {
        let end = now.plus_millis(i64::from(SESSION_SECONDS) * 1_000);
        token_expires_at.map_or(end, |at| at.min(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lasts_an_hour_or_as_long_as_its_token() {
        let at = |second: i64| Timestamp::from_millis(second * 1_000).unwrap();
        assert_eq!(ConsoleSession::end(at(0), None), at(3_600));
        assert_eq!(ConsoleSession::end(at(0), Some(at(7_200))), at(3_600));
        assert_eq!(ConsoleSession::end(at(0), Some(at(60))), at(60));
        let session = ConsoleSession {
            id: "i".into(),
            by: "b".into(),
            sealed: Vec::new(),
            made_at: at(0),
            expires_at: at(60),
        };
        assert!(session.is_open(at(59)));
        assert!(!session.is_open(at(60)));
    }
}
