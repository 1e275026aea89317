//! Identifiers: valid by construction, cheap to clone, ordered by their bytes.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The longest an id may be, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 128;

/// A reason why a string is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The id is empty.
    #[error("must not be empty")]
    Empty,
    /// The id is longer than [`MAX_ID_BYTES`].
    #[error("must be at most {MAX_ID_BYTES} bytes")]
    TooLong,
    /// The id begins or ends with white space.
    #[error("must not begin or end with white space")]
    Untrimmed,
    /// The id has a control character.
    #[error("must not contain control characters")]
    Control,
    /// The id has a character that separates ids in stored keys.
    #[error("must not contain ':'")]
    Separator,
}

fn check(text: &str, separator_allowed: bool) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if text.len() > MAX_ID_BYTES {
        return Err(InvalidId::TooLong);
    }
    // Nearly all are of visible ASCII, which takes one look at each byte.
    if text.bytes().all(|byte| byte.is_ascii_graphic() && (byte != b':' || separator_allowed)) {
        return Ok(());
    }
    if text.trim().len() != text.len() {
        return Err(InvalidId::Untrimmed);
    }
    if text.chars().any(char::is_control) {
        return Err(InvalidId::Control);
    }
    if !separator_allowed && text.contains(':') {
        return Err(InvalidId::Separator);
    }
    Ok(())
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, separator_allowed: $allowed:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Creates an id from a valid `text`.
            ///
            /// # Errors
            /// [`InvalidId`] names the rule that `text` breaks.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                let text = text.as_ref();
                check(text, $allowed)?;
                Ok(Self(Arc::from(text)))
            }

            /// Returns the id as a string.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), &*self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct IdVisitor;
                impl Visitor<'_> for IdVisitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "an id of 1 to {MAX_ID_BYTES} bytes")
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::new(text).map_err(|reason| E::custom(format_args!("the id {reason}")))
                    }
                }
                deserializer.deserialize_str(IdVisitor)
            }
        }
    )*};
}

ids! {
    /// The id of a user: the claim `sub` of the bearer token.
    UserId, separator_allowed: true;
    /// The id of an item in a tree.
    ItemId, separator_allowed: true;
    /// The id of an operation, chosen at random by its author.
    OpId, separator_allowed: true;
    /// The id of a client installation of one user, `clientId` and `replicaId` alike. It has no
    /// `:`, which separates the name space from the id in stored keys.
    ReplicaId, separator_allowed: false;
    /// The id by which a grant names a user, a group or an organization.
    PrincipalId, separator_allowed: true;
    /// The id of a content's bytes, used once and for ever.
    BlobId, separator_allowed: true;
    /// The id of an upload until it is attached to an item.
    StagingId, separator_allowed: true;
    /// The id of an attachment of a blob to an item, made by the server.
    RefId, separator_allowed: true;
    /// The part of a [`crate::cursor::Cursor`] that distinguishes entries of one instant.
    ChangeId, separator_allowed: true;
}

impl ReplicaId {
    /// Returns the id that stands for the replicas of deleted users.
    #[must_use]
    pub fn nameless() -> Self {
        Self(Arc::from("deleted"))
    }
}

/// Returns the form of an id as one step of a URL's path, before percent-encoding.
///
/// Libraries and proxies drop the steps `.` and `..` from a path, percent-encoded or not. These two
/// ids get a space in front, which no id begins with.
#[must_use]
pub fn to_path_step(id: &str) -> &str {
    match id {
        "." => " .",
        ".." => " ..",
        id => id,
    }
}

/// Returns the text of the id that a step of a URL's path stands for, after percent-decoding: the
/// opposite of [`to_path_step`].
#[must_use]
pub fn of_path_step(step: &str) -> &str {
    match step {
        " ." => ".",
        " .." => "..",
        step => step,
    }
}

/// A replica's own counter of its operations: from 1 to 2^53 − 1, so that a JSON number holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct WriteId(u64);

impl WriteId {
    /// The greatest write id.
    pub const MAX: Self = Self((1 << 53) - 1);
    /// The first write id of a replica.
    pub const FIRST: Self = Self(1);

    /// Takes `value` as a write id, if it is from 1 to 2^53 − 1.
    #[must_use]
    pub const fn new(value: u64) -> Option<Self> {
        if value >= 1 && value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// Returns the counter as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The write id after this one; `None` once the counter is used up.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for WriteId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(deserializer)?;
        Self::new(value)
            .ok_or_else(|| de::Error::custom("a write id must be an integer from 1 to 2^53 - 1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_refused_with_the_rule_that_it_breaks() {
        assert_eq!(ItemId::new(""), Err(InvalidId::Empty));
        assert_eq!(ItemId::new("x".repeat(129)), Err(InvalidId::TooLong));
        assert_eq!(ItemId::new(" a"), Err(InvalidId::Untrimmed));
        assert_eq!(ItemId::new("a\0b"), Err(InvalidId::Control));
        assert_eq!(ReplicaId::new("a:b"), Err(InvalidId::Separator));
        assert!(ItemId::new("a:b").is_ok());
        assert!(ItemId::new("é".repeat(64)).is_ok());
        assert_eq!(ItemId::new("é".repeat(65)), Err(InvalidId::TooLong));
    }

    #[test]
    fn every_id_has_one_step_of_a_path_which_no_url_library_drops() {
        for id in [".", "..", "...", "a", ".a", "%2E", "a b", ". ."] {
            let step = to_path_step(id);
            assert!(!matches!(step, "." | ".."), "{id}");
            assert_eq!(of_path_step(step), id);
        }
        for step in [" ", " a", " ...", "  .", " . "] {
            assert!(ItemId::new(of_path_step(step)).is_err(), "{step:?}");
        }
    }

    #[test]
    fn a_write_id_is_a_positive_integer_that_json_can_hold() {
        assert_eq!(WriteId::new(0), None);
        assert_eq!(WriteId::new(1 << 53), None);
        assert_eq!(WriteId::MAX.next(), None);
        for bad in ["0", "-1", "1.5", "9007199254740992", "\"1\"", "null"] {
            assert!(serde_json::from_str::<WriteId>(bad).is_err(), "{bad}");
        }
    }
}
