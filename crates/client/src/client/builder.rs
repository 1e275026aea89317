//! Builds a client from a transport, a configuration, and a replica.

#[cfg(not(target_family = "wasm"))]
use std::io::Read;
#[cfg(not(target_family = "wasm"))]
use std::path::Path;
use std::sync::Arc;

use vfs_sync_core::id::{ReplicaId, UserId};

#[cfg(not(target_family = "wasm"))]
use crate::api::state::HydrateOutcome;
use crate::client::SyncClient;
use crate::config::ClientConfig;
use crate::content::cache::Cache;
use crate::error::{ClientError, Result};
use crate::replica::{Meta, memory_store};
#[cfg(not(target_family = "wasm"))]
use crate::replica::{create_store, open_store, remove_store};
use crate::transport::{HttpConfig, HttpTransport, TokenProvider, Transport, TransportError};

/// The builder of a [`SyncClient`]. It begins with the transport ([`SyncClient::http`] or
/// [`SyncClient::builder`]) and ends with the replica: [`create`](Self::create) makes a new one,
/// [`open`](Self::open) opens an existing one, [`in_memory`](Self::in_memory) makes one in memory.
#[must_use = "a builder does nothing until it is given a replica"]
pub struct ClientBuilder {
    transport: Arc<dyn Transport>,
    server: Option<String>,
    client_id: Option<ReplicaId>,
    config: ClientConfig,
}

impl SyncClient {
    /// Begins a client of the server at `address`, reached over HTTP with the tokens of `token`.
    ///
    /// # Errors
    /// [`TransportError::InvalidAddress`] if the address is no URL of `http` or `https`.
    pub fn http(
        address: impl Into<HttpConfig>,
        token: impl TokenProvider,
    ) -> Result<ClientBuilder, TransportError> {
        let config = address.into();
        let server = config.base_url.clone();
        let transport = Arc::new(HttpTransport::new(config, token)?);
        Ok(Self::builder(transport).server(server))
    }

    /// Begins a client over a custom transport.
    pub fn builder(transport: Arc<dyn Transport>) -> ClientBuilder {
        ClientBuilder { transport, server: None, client_id: None, config: ClientConfig::default() }
    }
}

impl ClientBuilder {
    /// Names the server, for [`Status::server`](crate::Status::server) of a new replica.
    /// [`SyncClient::http`] names it by its address.
    pub fn server(mut self, name: impl Into<String>) -> Self {
        self.server = Some(name.into());
        self
    }

    /// Sets the client's configuration.
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// Gives a new replica the client id of an exported state, for [`SyncClient::hydrate_state`];
    /// otherwise the replica gets a random one.
    pub fn client_id(mut self, client_id: ReplicaId) -> Self {
        self.client_id = Some(client_id);
        self
    }

    /// Creates a replica of `user` in the directory `dir`, which is created if it is missing.
    ///
    /// # Errors
    /// [`ClientError::ReplicaExists`] if there is one already, [`ClientError::Invalid`] if the
    /// configuration is out of bounds or the transport belongs to another user.
    #[cfg(not(target_family = "wasm"))]
    pub fn create(mut self, dir: impl AsRef<Path>, user: UserId) -> Result<SyncClient> {
        let dir = dir.as_ref();
        let meta = self.new_replica(user, "custom")?;
        let store = create_store(dir, self.config.vfs.as_deref(), meta)?;
        let cache = Cache::in_directory(dir, &self.config, || Ok(Vec::new()))?;
        Ok(SyncClient::over(store, cache, self.transport, self.config))
    }

    /// Opens the replica in `dir`.
    ///
    /// # Errors
    /// [`ClientError::NoReplica`], [`ClientError::InUse`], [`ClientError::NewerReplica`],
    /// [`ClientError::CorruptReplica`], and [`ClientError::Invalid`] as [`Self::create`].
    #[cfg(not(target_family = "wasm"))]
    pub fn open(self, dir: impl AsRef<Path>) -> Result<SyncClient> {
        let dir = dir.as_ref();
        self.config.check()?;
        let mut store = open_store(dir, self.config.vfs.as_deref())?;
        self.bind(&store.meta().user)?;
        let cache = Cache::in_directory(dir, &self.config, || store.blobs_to_keep())?;
        Ok(SyncClient::over(store, cache, self.transport, self.config))
    }

    /// Creates a replica of `user` in memory, which ends with the last clone of the client.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] as [`Self::create`].
    pub fn in_memory(mut self, user: UserId) -> Result<SyncClient> {
        let store = memory_store(self.new_replica(user, "memory")?);
        let cache = Cache::in_memory(&self.config);
        Ok(SyncClient::over(store, cache, self.transport, self.config))
    }

    /// Creates a replica of `user` in `dir` from an exported state, whose client id
    /// [`Self::client_id`] has set. If the state is rejected, `dir` stays unchanged.
    ///
    /// # Errors
    /// As [`Self::create`] and [`SyncClient::hydrate_state`].
    #[cfg(not(target_family = "wasm"))]
    pub fn hydrate(
        self,
        dir: impl AsRef<Path>,
        user: UserId,
        state: impl Read,
    ) -> Result<(SyncClient, HydrateOutcome)> {
        let dir = dir.as_ref();
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let made: Vec<&Path> = dir.ancestors().take_while(missing).collect();
        let client = self.create(dir, user)?;
        match client.hydrate_state(state) {
            Ok(outcome) => Ok((client, outcome)),
            Err(error) => {
                // If the disk fails here, a pristine replica is left behind; the caller gets the reason
                // either way. The replica stays locked until it is gone.
                let _ = remove_store(dir);
                drop(client);
                let _ = made.into_iter().try_for_each(std::fs::remove_dir);
                Err(error)
            }
        }
    }

    /// Returns the state of a new replica, with the transport bound to its user.
    fn new_replica(&mut self, user: UserId, unnamed: &str) -> Result<Meta> {
        self.config.check()?;
        self.bind(&user)?;
        let client_id = self.client_id.take();
        let client_id = client_id.unwrap_or_else(|| self.config.environment.new_replica_id());
        Ok(Meta::new(client_id, user, self.server.as_deref().unwrap_or(unnamed)))
    }

    /// Binds the transport to the replica's user: from the first call on it exchanges no data of
    /// other users.
    fn bind(&self, user: &UserId) -> Result<()> {
        self.transport.bind_user(user).map_err(|other| {
            ClientError::Invalid(format!(
                "the transport is for {other}: a replica of {user} takes one of its own"
            ))
        })
    }
}
