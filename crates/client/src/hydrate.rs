//! A new replica from an exported state: all of it, or none.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use vfs_sync_core::id::{ReplicaId, UserId};

use crate::client::{ClientConfig, SyncClient};
use crate::error::ClientError;
use crate::read::HydrateOutcome;
use crate::store::remove_store;
use crate::transport::Transport;

impl SyncClient {
    /// Makes a replica in `dir` with the client id of an exported state and takes the state over.
    /// If it is refused, `dir` is as it was.
    ///
    /// # Errors
    /// As [`Self::create_replica`] and [`Self::hydrate_state`].
    pub fn create_hydrated(
        dir: &Path,
        user: UserId,
        server: &str,
        client_id: ReplicaId,
        transport: Arc<dyn Transport>,
        config: ClientConfig,
        reader: impl Read,
    ) -> Result<(Self, HydrateOutcome), ClientError> {
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let made: Vec<&Path> = dir.ancestors().take_while(missing).collect();
        let client =
            Self::create_replica_for_hydrate(dir, user, server, client_id, transport, config)?;
        match client.hydrate_state(reader) {
            Ok(outcome) => Ok((client, outcome)),
            Err(error) => {
                // What is left behind, if the disk fails here, is a pristine replica; why there is
                // none of use is told either way. It is locked until it is gone.
                let _ = remove_store(dir);
                drop(client);
                let _ = made.into_iter().try_for_each(std::fs::remove_dir);
                Err(error)
            }
        }
    }
}
