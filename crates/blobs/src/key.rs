//! The object name of a blob: `<prefix>/<escaped blob id>`.
//!
//! An object's name has only `a-z`, `0-9`, `-` and `_`, so that no id leaves the prefix, and no two
//! names collide in a store that ignores case. Every other byte is written `_xx` in hex; a UUID
//! stays unchanged. A name too long for a file system becomes `_h` and the SHA-256 of the id; no
//! escaped id has `_h`, because `h` is no hex digit.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::BlobId;

/// The greatest length of a name: file systems allow 255 bytes, and the directory store appends a
/// suffix while it writes.
const MAX_ESCAPED_BYTES: usize = 200;

/// Returns the name of a blob's object, under the prefix.
#[must_use]
pub fn object_name(id: &BlobId) -> String {
    let mut name = String::with_capacity(id.as_str().len());
    for byte in id.as_str().bytes() {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "_{byte:02x}");
        }
    }
    if name.len() > MAX_ESCAPED_BYTES {
        let digest = Sha256Digest(Sha256::digest(id.as_str()).into());
        return format!("_h{digest}");
    }
    name
}

/// The prefix of temporary objects: probes, and unfinished writes. No escaped id has `_t`, as `t`
/// is no hex digit.
pub(crate) const TEMPORARY: &str = "_t";

/// Returns a new name for a temporary object.
pub(crate) fn temporary_name() -> String {
    format!("{TEMPORARY}{}", uuid::Uuid::now_v7().simple())
}

/// Returns whether a name is temporary: one of ours, or one that the library left when it was
/// killed while writing a file (`<name>#<number>`).
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY) || name.contains('#')
}

/// Returns the id whose object has this name; `None` for other names and for hashed ones.
#[must_use]
pub fn blob_id(name: &str) -> Option<BlobId> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'_' {
            let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    let id = BlobId::new(String::from_utf8(bytes).ok()?).ok()?;
    (object_name(&id) == name).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn name(id: &str) -> String {
        object_name(&BlobId::new(id).unwrap())
    }

    #[test]
    fn an_id_is_escaped_so_that_it_stays_under_the_prefix() {
        assert_eq!(
            name("0190f3a1-7c1e-7000-8000-0123456789ab"),
            "0190f3a1-7c1e-7000-8000-0123456789ab"
        );
        assert_eq!(name(".."), "_2e_2e");
        assert_eq!(name("../../etc/passwd"), "_2e_2e_2f_2e_2e_2fetc_2fpasswd");
        assert_eq!(name("A_a"), "_41_5fa");
        assert_eq!(name("c:\\con"), "c_3a_5ccon");
    }

    #[test]
    fn a_name_that_is_too_long_is_folded() {
        let long = name(&"é".repeat(64));
        assert_eq!(long.len(), 66);
        assert!(long.starts_with("_h"));
        assert_ne!(long, name(&format!("{}è", "é".repeat(63))));
    }

    proptest! {
        #[test]
        fn a_name_is_harmless_whatever_the_id(id in "\\PC{1,128}") {
            if let Ok(id) = BlobId::new(id) {
                let name = object_name(&id);
                prop_assert!(name.len() <= MAX_ESCAPED_BYTES && !name.is_empty());
                prop_assert!(!is_temporary(&name));
                let folded = name.starts_with("_h");
                prop_assert_eq!(blob_id(&name), (!folded).then_some(id));
                prop_assert!(name.bytes().all(
                    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_'
                ));
            }
        }

        #[test]
        fn different_ids_have_different_names(ids in prop::collection::btree_set("[aA_h2eé./:-]{1,12}", 2..40)) {
            let mut seen = BTreeMap::new();
            for id in ids.iter().filter_map(|id| BlobId::new(id).ok()) {
                let other = seen.insert(object_name(&id), id.clone());
                prop_assert_eq!(other, None, "{}", id);
            }
        }
    }
}
