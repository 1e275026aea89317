//! The pseudonyms by which logs name users.

use std::sync::OnceLock;

use vfs_sync_core::id::UserId;
use vfs_sync_store::{MetadataStore, StoreError, pseudonym};

/// The secret of the pseudonyms, which belongs to the database: all its servers name a user alike,
/// and nobody else can tell which name is whose.
#[derive(Default)]
pub(crate) struct Pseudonyms(OnceLock<String>);

impl Pseudonyms {
    /// Reads the secret from the database, unless it is known.
    pub(crate) async fn load(&self, store: &dyn MetadataStore) -> Result<(), StoreError> {
        if self.0.get().is_none() {
            let secret = store.identity().await?.pseudonym_secret;
            self.0.get_or_init(|| secret);
        }
        Ok(())
    }

    /// Returns the pseudonym of a user; `-` before the secret was read.
    pub(crate) fn of(&self, user: &UserId) -> String {
        self.0.get().map_or_else(|| "-".to_owned(), |secret| pseudonym(secret, user))
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
        assert_eq!(one.of(&alice).len(), 16);
        assert_ne!(one.of(&alice), one.of(&UserId::new("bob").unwrap()));
    }
}
