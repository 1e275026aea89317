//! The pseudonyms by which logs name users.

use std::sync::OnceLock;

use vfs_sync_core::id::UserId;
use vfs_sync_store::{MetadataStore, StoreError};

/// Hex digits of a pseudonym: 64 bits, so that no two of a million users share one.
const DIGITS: usize = 16;

/// The key of the pseudonyms, which belongs to the database: all its servers name a user alike, and
/// nobody else can tell which name is whose.
#[derive(Default)]
pub(crate) struct Pseudonyms(OnceLock<[u8; 32]>);

impl Pseudonyms {
    /// Reads the key from the database, unless it is known.
    pub(crate) async fn load(&self, store: &dyn MetadataStore) -> Result<(), StoreError> {
        if self.0.get().is_none() {
            let secret = store.identity().await?.pseudonym_secret;
            let key = blake3::derive_key("vfs-sync pseudonyms of users", secret.as_bytes());
            self.0.get_or_init(|| key);
        }
        Ok(())
    }

    /// Returns the pseudonym of a user; `-` before the key was read.
    pub(crate) fn of(&self, user: &UserId) -> String {
        match self.0.get() {
            None => "-".to_owned(),
            Some(key) => {
                let hash = blake3::keyed_hash(key, user.as_str().as_bytes());
                hash.to_hex().chars().take(DIGITS).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vfs_sync_core::time::Timestamp;
    use vfs_sync_store::memory::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn a_pseudonym_is_stable_and_says_nothing() {
        let store: Arc<dyn MetadataStore> = Arc::new(MemoryStore::new(Timestamp::MIN));
        let (one, other) = (Pseudonyms::default(), Pseudonyms::default());
        let alice = UserId::new("alice").unwrap();
        assert_eq!(one.of(&alice), "-");
        for pseudonyms in [&one, &other] {
            pseudonyms.load(&*store).await.unwrap();
        }
        assert_eq!(one.of(&alice), other.of(&alice));
        assert_eq!(one.of(&alice).len(), DIGITS);
        assert_ne!(one.of(&alice), one.of(&UserId::new("bob").unwrap()));
    }
}
