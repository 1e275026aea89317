//! The fields of an item: type, name, metadata and encrypted form.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

use crate::limits;

/// The type of an item, fixed at its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
#[allow(missing_docs)]
pub enum ObjectType {
    File,
    Folder,
    Photo,
    Audio,
    Video,
    Contact,
    Note,
    Email,
    Playlist,
    Album,
    ContactGroup,
    EmailFolder,
    Tag,
}

impl ObjectType {
    /// Returns the type's name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The name of an item: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(Arc<str>);

/// A reason why a string is not a valid name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The name is empty.
    #[error("must not be empty")]
    Empty,
    /// The name is too long.
    #[error("must be at most {} bytes", limits::MAX_NAME_BYTES)]
    TooLong,
    /// The name has a `/`, which separates names in a path.
    #[error("must not contain '/'")]
    Slash,
    /// The name has a NUL.
    #[error("must not contain NUL")]
    Nul,
    /// The name is `.` or `..`, which denote a folder itself and its parent.
    #[error("must not be '.' or '..'")]
    Dots,
}

impl Name {
    /// Creates a name from a valid `text`.
    ///
    /// # Errors
    /// [`InvalidName`] names the rule that `text` breaks.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
        let text = text.as_ref();
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if text.len() > limits::MAX_NAME_BYTES {
            return Err(InvalidName::TooLong);
        }
        if text.contains('/') {
            return Err(InvalidName::Slash);
        }
        if text.contains('\0') {
            return Err(InvalidName::Nul);
        }
        if matches!(text, "." | "..") {
            return Err(InvalidName::Dots);
        }
        Ok(Self(Arc::from(text)))
    }

    /// Returns the name as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        Self::new(&*text).map_err(|reason| de::Error::custom(format_args!("the name {reason}")))
    }
}

/// The metadata of an item: each key is a separate register.
pub type Metadata = BTreeMap<Arc<str>, serde_json::Value>;

/// The longest metadata key, in bytes.
pub const MAX_METADATA_KEY_BYTES: usize = 255;

/// Returns the size of `metadata` in bytes, as the limit counts it: its keys and the JSON text of
/// its values.
#[must_use]
pub fn metadata_bytes<'a>(
    metadata: impl IntoIterator<Item = (&'a Arc<str>, &'a serde_json::Value)>,
) -> usize {
    metadata.into_iter().map(|(key, value)| key.len() + json_bytes(value)).sum()
}

/// Returns the first rule of the protocol that an item's whole metadata breaks.
#[must_use]
pub fn metadata_problem<'a>(
    metadata: impl Iterator<Item = (&'a Arc<str>, &'a serde_json::Value)> + Clone,
) -> Option<&'static str> {
    if metadata.clone().count() > limits::MAX_METADATA_KEYS {
        Some("has more than 64 keys")
    } else if metadata.clone().any(|(key, _)| key.len() > MAX_METADATA_KEY_BYTES) {
        Some("has a key of more than 255 bytes")
    } else if metadata_bytes(metadata) > limits::MAX_METADATA_BYTES {
        Some("is more than 16384 bytes")
    } else {
        None
    }
}

/// The length of a value's JSON text, computed without building the text.
fn json_bytes(value: &serde_json::Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).expect("counting does not fail");
    count.0
}

/// Data that a client encrypted. The server stores it and never reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encrypted {
    /// The encrypted payload, in base64.
    pub payload: Arc<str>,
    /// The number of the key, from 1.
    pub key_epoch: u64,
    /// The nonce of the encryption, in base64.
    pub nonce: Option<Arc<str>>,
    /// The additional authenticated data, in base64.
    pub aad: Option<Arc<str>>,
    /// The signature of the payload, in base64.
    pub signature: Option<Arc<str>>,
}

/// The encrypted form as five separate fields: `encryptedPayload`, `keyEpoch`, `encryptionNonce`,
/// `encryptionAad`, `encryptionSignature`.
///
/// Each wire form lists the five itself: serde's `flatten` would read the whole object into a
/// buffer of untyped values first, for every operation and entry.
pub(crate) type EncryptedFields =
    (Option<Arc<str>>, Option<u64>, Option<Arc<str>>, Option<Arc<str>>, Option<Arc<str>>);

impl Encrypted {
    /// Reads the fields; fails with the first field that breaks a rule, and the rule.
    pub(crate) fn from_fields(
        fields: EncryptedFields,
    ) -> Result<Option<Self>, (&'static str, &'static str)> {
        let (payload, key_epoch, nonce, aad, signature) = fields;
        let Some(payload) = payload else {
            // A part of an encrypted form is invalid: ignoring it would drop what the client wrote.
            let left = [
                ("keyEpoch", key_epoch.is_some()),
                ("encryptionNonce", nonce.is_some()),
                ("encryptionAad", aad.is_some()),
                ("encryptionSignature", signature.is_some()),
            ];
            return match left.into_iter().find(|(_, is_there)| *is_there) {
                Some((field, _)) => Err((field, "comes with an encryptedPayload only")),
                None => Ok(None),
            };
        };
        let key_epoch = key_epoch.ok_or(("keyEpoch", "is missing"))?;
        let encrypted = Self { payload, key_epoch, nonce, aad, signature };
        match encrypted.problem() {
            Some(problem) => Err(problem),
            None => Ok(Some(encrypted)),
        }
    }

    pub(crate) fn to_fields(encrypted: Option<&Self>) -> EncryptedFields {
        let Some(encrypted) = encrypted.cloned() else { return EncryptedFields::default() };
        let Self { payload, key_epoch, nonce, aad, signature } = encrypted;
        (Some(payload), Some(key_epoch), nonce, aad, signature)
    }

    /// The first field that breaks a rule, with the rule; `None` if all are valid.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        if self.key_epoch == 0 || self.key_epoch > crate::id::WriteId::MAX.get() {
            return Some(("keyEpoch", "must be a positive integer"));
        }
        let parts = [
            ("encryptedPayload", Some(&self.payload)),
            ("encryptionNonce", self.nonce.as_ref()),
            ("encryptionAad", self.aad.as_ref()),
            ("encryptionSignature", self.signature.as_ref()),
        ];
        for (field, text) in parts {
            let Some(text) = text else { continue };
            if text.len() > limits::MAX_ENCRYPTED_BYTES {
                return Some((field, "must be at most 65536 bytes"));
            }
            if STANDARD.decode(&**text).is_err() {
                return Some((field, "must be base64"));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_step_of_a_path() {
        assert_eq!(Name::new(""), Err(InvalidName::Empty));
        assert_eq!(Name::new("a/b"), Err(InvalidName::Slash));
        assert_eq!(Name::new("a\0"), Err(InvalidName::Nul));
        assert_eq!(Name::new(".."), Err(InvalidName::Dots));
        assert_eq!(Name::new("é".repeat(128)), Err(InvalidName::TooLong));
        assert!(Name::new("...").is_ok());
        assert!(Name::new(" a\n").is_ok(), "file systems have such names");
    }

    #[test]
    fn an_object_type_is_spelt_as_on_the_wire() {
        assert_eq!(serde_json::to_string(&ObjectType::ContactGroup).unwrap(), "\"contactGroup\"");
        assert!(serde_json::from_str::<ObjectType>("\"socket\"").is_err());
    }

    #[test]
    fn metadata_is_counted_as_its_json_text() {
        let metadata: Metadata = [(Arc::from("ab"), serde_json::json!({"c": "\u{1}"}))].into();
        assert_eq!(metadata_bytes(&metadata), 2 + r#"{"c":"\u0001"}"#.len());
    }
}
