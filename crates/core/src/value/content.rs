//! Contents of items: digest, relation to the item, attachment.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::id::{BlobId, ItemId, RefId};
use crate::time::Timestamp;

/// A SHA-256 digest; 64 lower-case hex digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

impl Sha256Digest {
    /// Reads 64 lower-case hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        if text.len() != 64 {
            return None;
        }
        let nibble = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(digest))
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Digest({self})")
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| de::Error::custom("a digest must be 64 lower-case hex digits"))
    }
}

/// The longest content type, in bytes; it is only a hint.
pub const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// The relation of an attached blob to its item.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum RelationKind {
    /// The item's content: the newest is current, older ones are its versions.
    #[default]
    File,
    /// A picture of the item.
    Photo,
    /// A part of an email.
    EmailAttachment,
    /// Any relation that has no variant of its own.
    Other,
}

/// Returns whether a content type is valid: 1 to 255 bytes of printable ASCII.
#[must_use]
pub fn is_content_type(text: &str) -> bool {
    (1..=MAX_CONTENT_TYPE_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// A blob attached to an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The item that the blob is attached to.
    pub item_id: ItemId,
    /// The blob with the bytes.
    pub blob_id: BlobId,
    /// The relation of the blob to the item.
    pub relation_kind: RelationKind,
    /// The size of the blob in bytes.
    pub size: u64,
    /// The SHA-256 digest of the bytes.
    pub digest: Sha256Digest,
    /// The content type that the uploader stated: a hint, never verified.
    pub content_type: Option<Arc<str>>,
    /// The attachment's own id.
    pub ref_id: RefId,
    /// The server's time of the attach.
    pub attached_at: Timestamp,
    /// The time of the bytes, as the attaching client stated it; older clients state none.
    pub modified_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_lower_case_hex_digits() {
        let digest = Sha256Digest([0xAB; 32]);
        assert_eq!(Sha256Digest::parse(&digest.to_string()), Some(digest));
        assert_eq!(Sha256Digest::parse(&"AB".repeat(32)), None);
        assert_eq!(Sha256Digest::parse(&"a".repeat(63)), None);
        assert_eq!(Sha256Digest::parse(&"é".repeat(32)), None);
    }
}
