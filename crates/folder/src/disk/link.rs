//! Symbolic links in the tree: files without content that have metadata `linkTarget`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use vfs_sync_client::{ClientError, MetadataChange, Node, SyncClient};
use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::ItemId;

use super::metadata::{OnDisk, on_disk};
use super::names;
use crate::error::Result;

const LINK_TARGET: &str = "linkTarget";
/// The greatest size of a target in the protocol.
const MAX_TARGET_BYTES: usize = 4_096;

/// Returns the target of an item that is a symbolic link.
pub fn target(node: &Node) -> Option<OsString> {
    if node.content.is_some() || on_disk(node.object_type) != OnDisk::File {
        return None;
    }
    let text = node.metadata.get(LINK_TARGET)?.as_str()?;
    if text.len() > MAX_TARGET_BYTES { None } else { names::target_to_disk(text) }
}

/// Returns the metadata of a link with this target; `None` if the target is too long.
pub(crate) fn change(target: &OsStr) -> Option<MetadataChange> {
    let text = names::target_to_protocol(target);
    let fits = text.len() <= MAX_TARGET_BYTES;
    fits.then(|| vec![(LINK_TARGET.to_owned(), Some(Value::from(text)))])
}

/// Returns the digest of a target, which no content has.
pub fn digest(target: &OsStr) -> Sha256Digest {
    let hasher = Sha256::new_with_prefix(b"vfs-sync symbolic link\0");
    Sha256Digest(hasher.chain_update(target.as_bytes()).finalize().into())
}

/// Returns the digest of an item's content, or of its target if it is a link.
pub(crate) fn digest_of(node: &Node) -> Option<Sha256Digest> {
    match &node.content {
        Some(content) => Some(content.digest),
        None => target(node).map(|target| digest(&target)),
    }
}

/// Returns whether the target of the link at `at` is outside of the directory that contains it.
fn leaves(at: &Path, target: &OsStr) -> bool {
    let mut depth = at.components().count().saturating_sub(1);
    for component in Path::new(target).components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return true,
        }
    }
    false
}

/// The greatest number of links of a directory that are remembered as refused; once there are as many,
/// all that lead outside are refused until they are allowed.
const MAX_REFUSED_LINKS: usize = 1_000;

/// The links to targets outside of their directory that are made although others may have written
/// them.
#[derive(Debug, Clone, Default)]
pub struct AllowedLinks {
    all: bool,
    /// The digests of allowed targets.
    links: BTreeMap<ItemId, String>,
    /// The digests of refused targets.
    refused: BTreeMap<ItemId, String>,
}

impl AllowedLinks {
    /// Allows the links of `allowed`, and remembers those of `refused`; each with the digest of its
    /// target.
    pub fn new(allowed: BTreeMap<ItemId, String>, refused: BTreeMap<ItemId, String>) -> Self {
        Self { all: false, links: allowed, refused }
    }

    /// Returns the links that were refused so far, with the digests of their targets.
    pub(crate) fn into_refused(self) -> BTreeMap<ItemId, String> {
        self.refused
    }

    /// Returns the same links, or all of them.
    pub fn or_all(self, all: bool) -> Self {
        Self { all, ..self }
    }

    /// Returns whether the link at `at` may be made: its target is in the directory, or no other
    /// user may have written it, or it is allowed. One that is refused stays so until it is allowed: who
    /// takes another's access away has not looked at that one's links.
    pub(crate) fn may_make(
        &mut self,
        client: &SyncClient,
        node: &Node,
        at: &Path,
        target: &OsStr,
    ) -> Result<bool, ClientError> {
        if self.all || !leaves(at, target) {
            return Ok(true);
        }
        let digest = digest(target).to_string();
        if self.links.get(&node.id) == Some(&digest) {
            return Ok(true);
        }
        let full = self.refused.len() >= MAX_REFUSED_LINKS;
        if full || self.refused.get(&node.id) == Some(&digest) {
            return Ok(false);
        }
        let user = client.user();
        let audience = client.sharing().audience(&node.id)?;
        // The first is the owner.
        let mut others = audience.iter().skip(1);
        let may = node.owner == user && others.all(|reader| reader.level < AccessLevel::Write);
        if !may {
            self.refused.insert(node.id.clone(), digest);
        }
        Ok(may)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_leaves_its_directory_by_its_names_alone() {
        for (at, target) in [
            ("l", "/etc"),
            ("l", ".."),
            ("d/l", "../.."),
            ("d/l", "../../d/f"),
            ("l", "a/../../b"),
            ("d/e/l", "./../../../x"),
        ] {
            assert!(leaves(Path::new(at), OsStr::new(target)), "{at} -> {target}");
        }
        for (at, target) in [
            ("l", "f"),
            ("l", "."),
            ("d/l", ".."),
            ("d/l", "../f"),
            ("l", "a/.."),
            ("d/e/l", "../../x"),
        ] {
            assert!(!leaves(Path::new(at), OsStr::new(target)), "{at} -> {target}");
        }
    }

    #[test]
    fn any_target_comes_back_and_a_long_one_is_refused() {
        let bytes: [&[u8]; 5] = [b"a/b", b"%raw%x", b"caf\xE9/\xFF", b"%raw%caf%E9", b"50%"];
        for bytes in bytes {
            let target = OsStr::from_bytes(bytes);
            let text = names::target_to_protocol(target);
            assert_eq!(names::target_to_disk(&text).as_deref(), Some(target), "{text}");
        }
        assert_eq!(names::target_to_protocol(OsStr::from_bytes(b"caf\xE9/x")), "%raw%caf%E9/x");
        for text in ["", "a\0b", "%raw%", "%raw%%zz", "%raw%%2", "%raw%plain"] {
            assert_eq!(names::target_to_disk(text), None, "{text:?}");
        }
        assert!(change(OsStr::new(&"x".repeat(4_096))).is_some());
        assert!(change(OsStr::new(&"x".repeat(4_097))).is_none());
    }
}
