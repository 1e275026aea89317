//! Credentials of devices, the keys that sign their access tokens, and sessions of the console.

use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::server::credential::{Credential, SigningKey};
use vfs_sync_core::server::session::ConsoleSession;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::credential::CredentialId;

use crate::error::Result;
use crate::memory::transaction::MemoryTransaction;
use crate::topics::Credentials;

impl Credentials for MemoryTransaction<'_> {
    async fn credential(&mut self, id: &CredentialId) -> Result<Option<Credential>> {
        let mut all = self.state.credentials.rows().values();
        Ok(all.find(|one| one.id == *id).cloned())
    }

    async fn put_credential(&mut self, credential: &Credential, _new: bool) -> Result<()> {
        let key = (credential.user.clone(), credential.client.clone());
        self.state.credentials.put(key, credential.clone());
        Ok(())
    }

    async fn drop_credential(&mut self, user: &UserId, client: &ReplicaId) -> Result<bool> {
        Ok(self.state.credentials.remove(&(user.clone(), client.clone())))
    }

    async fn count_credentials(&mut self, user: &UserId, enough: u64) -> Result<u64> {
        let of_user = self.state.credentials.rows().keys().filter(|(owner, _)| owner == user);
        Ok((of_user.count() as u64).min(enough))
    }

    async fn drop_oldest_credential(&mut self, user: &UserId) -> Result<()> {
        let of_user = self.state.credentials.rows().iter().filter(|((owner, _), _)| owner == user);
        let oldest = of_user.min_by_key(|(_, one)| one.used_at).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.state.credentials.remove(&key);
        }
        Ok(())
    }

    async fn signing_keys(&mut self) -> Result<Vec<SigningKey>> {
        let mut keys: Vec<SigningKey> = self.state.signing_keys.rows().values().cloned().collect();
        keys.sort_by_key(|key| std::cmp::Reverse(key.made_at));
        Ok(keys)
    }

    async fn put_signing_key(&mut self, key: &SigningKey) -> Result<()> {
        self.state.signing_keys.put(key.id.clone(), key.clone());
        Ok(())
    }

    async fn drop_signing_key(&mut self, id: &str) -> Result<()> {
        self.state.signing_keys.remove(&id.to_owned());
        Ok(())
    }

    async fn session(&mut self, id: &str) -> Result<Option<ConsoleSession>> {
        Ok(self.state.sessions.get(&id.to_owned()).cloned())
    }

    async fn sessions(&mut self, at_most: u32) -> Result<Vec<ConsoleSession>> {
        let mut all: Vec<_> = self.state.sessions.rows().values().cloned().collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.made_at));
        all.truncate(usize::try_from(at_most).unwrap_or(usize::MAX));
        Ok(all)
    }

    async fn put_session(&mut self, session: &ConsoleSession) -> Result<()> {
        self.state.sessions.put(session.id.clone(), session.clone());
        Ok(())
    }

    async fn drop_session(&mut self, id: &str) -> Result<bool> {
        Ok(self.state.sessions.remove(&id.to_owned()))
    }

    async fn drop_ended_sessions(&mut self, now: Timestamp, at_most: u32) -> Result<u64> {
        let ended = self.state.sessions.rows().values().filter(|one| !one.is_open(now));
        let at_most = usize::try_from(at_most).unwrap_or(usize::MAX);
        let ended: Vec<String> = ended.take(at_most).map(|one| one.id.clone()).collect();
        for id in &ended {
            self.state.sessions.remove(id);
        }
        Ok(ended.len() as u64)
    }
}
