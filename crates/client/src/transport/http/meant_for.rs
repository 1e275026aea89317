//! The user that a transport is bound to, and the user that a token belongs to.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use vfs_sync_core::id::UserId;
use vfs_sync_core::wire::{user_header, user_of_header};

use crate::transport::error::{Result, TransportError};

/// The user that a transport is bound to, if it belongs to a replica. It determines the user that
/// requests name, and the answers that the client may accept. Custom transports may use it too.
#[derive(Debug, Default)]
pub struct MeantFor {
    user: OnceLock<UserId>,
    /// True if the server named the user in its last relevant answer: such a server rejects a
    /// mismatch by itself.
    named: AtomicBool,
}

impl MeantFor {
    /// Binds the transport to a user, as [`crate::Transport::bind_user`] describes.
    ///
    /// # Errors
    /// The user to which it is already bound, if it is another.
    pub fn bind(&self, user: &UserId) -> Result<(), UserId> {
        let bound = self.user.get_or_init(|| user.clone());
        if bound == user { Ok(()) } else { Err(bound.clone()) }
    }

    /// Returns the user that the transport is bound to.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        self.user.get()
    }

    /// Returns the value of [`USER_HEADER`](vfs_sync_core::wire::USER_HEADER) for every request;
    /// `None` while the transport is bound to no user.
    #[must_use]
    pub fn header(&self) -> Option<String> {
        self.user.get().map(user_header)
    }

    /// Checks that an answer is for the user. `named` is its header `vfs-sync-user`; `owner` is the
    /// token's user, which counts if the server names none. An answer that was made before the
    /// server knew the token's user, or by a proxy, passes: the client takes no data from it.
    ///
    /// # Errors
    /// [`TransportError::WrongUser`].
    pub fn check(&self, status: u16, named: Option<&str>, owner: Option<&UserId>) -> Result<()> {
        let Some(expected) = self.user.get() else { return Ok(()) };
        if status >= 500 || matches!(status, 401 | 408 | 426 | 429) {
            return Ok(());
        }
        self.named.store(named.is_some(), Ordering::Relaxed);
        let actual = match named {
            Some(named) => user_of_header(named),
            None => owner.cloned(),
        };
        if actual.as_ref() == Some(expected) {
            return Ok(());
        }
        Err(TransportError::WrongUser { expected: expected.clone(), actual })
    }

    /// Returns true if a request with a token of `owner` may send data to the server: the token is
    /// the user's, or the server rejects a mismatch.
    pub(super) fn may_give(&self, owner: Option<&UserId>) -> bool {
        self.user.get().is_none_or(|user| owner == Some(user)) || self.named.load(Ordering::Relaxed)
    }
}

/// Reads the `sub` of a token, if it is a JWT that has one. The token is not verified: the result
/// is for display, and for servers that do not name a token's user.
#[must_use]
pub fn token_subject(token: &str) -> Option<String> {
    let payload = token.split('.').nth(1)?;
    let json = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&json).ok()?;
    Some(claims.get("sub")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is() {
        let token = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(r#"{"sub":"ålice"}"#));
        assert_eq!(token_subject(&token).as_deref(), Some("ålice"));
        for bad in ["", "a", "a.b.c", "a.!.c", "..", "e30.e30.x"] {
            assert_eq!(token_subject(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_answer_is_for_the_user_by_the_servers_word_or_else_by_the_tokens() {
        let user = |name: &str| UserId::new(name).unwrap();
        let (carol, dave) = (user("cårol d"), user("dave"));
        let named = user_header(&carol);
        assert_eq!(named, "c%C3%A5rol%20d");
        let actual = |named: Option<&str>, owner: Option<&UserId>| {
            let meant_for = MeantFor::default();
            meant_for.bind(&carol).unwrap();
            let checked = meant_for.check(200, named, owner);
            checked.err().map(|error| match error {
                TransportError::WrongUser { actual, .. } => actual,
                other => panic!("{other}"),
            })
        };
        assert_eq!(actual(Some(&named), None), None);
        assert_eq!(actual(Some(&named), Some(&dave)), None, "a gateway changed the token");
        assert_eq!(actual(None, Some(&carol)), None);
        assert_eq!(actual(Some("dave"), Some(&carol)), Some(Some(dave.clone())));
        assert_eq!(actual(None, Some(&dave)), Some(Some(dave)));
        assert_eq!(actual(None, None), Some(None));
        assert_eq!(actual(Some("%zz"), Some(&carol)), Some(None), "no user is not the right one");
    }

    #[test]
    fn data_is_given_to_a_server_that_checks_or_with_a_token_that_says_it_is_the_users() {
        let user = |name: &str| UserId::new(name).unwrap();
        let (carol, dave) = (user("carol"), user("dave"));
        let meant_for = MeantFor::default();
        meant_for.bind(&carol).unwrap();
        assert_eq!(meant_for.bind(&dave), Err(carol.clone()));
        assert!(meant_for.may_give(Some(&carol)));
        assert!(!meant_for.may_give(Some(&dave)) && !meant_for.may_give(None));
        meant_for.check(503, None, None).unwrap();
        assert!(!meant_for.may_give(None), "an answer of nobody says nothing");
        meant_for.check(200, Some("carol"), None).unwrap();
        assert!(meant_for.may_give(None));
        meant_for.check(200, None, Some(&carol)).unwrap();
        assert!(!meant_for.may_give(None), "another server answers, which does not check");
    }
}
