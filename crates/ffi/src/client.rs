//! A client with its replica.

mod calls;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vfs_sync_client::core::id::{ReplicaId, UserId};
use vfs_sync_client::core::time::Timestamp;
use vfs_sync_client::{
    ClientBuilder, ClientConfig, HttpConfig, HttpTransport, Query, SyncClient, TokenProvider,
    Transport,
};

use crate::call::{self, Read, Remote, Stream, Write};
use crate::content::{ContentReader, ContentWriter, PutOptions};
use crate::environment::CountedEnvironment;
use crate::runtime::{Cancellation, blocking, detached, forked, guarded, spawned, turn};
use crate::stream::{Feeds, Subscription, Violations};
use crate::transport::{Adapter, ForeignTransport};
use crate::{Error, Result};

/// The way in which a client comes to its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Opens the replica in the directory, or creates it.
    #[default]
    OpenOrCreate,
    /// Opens the replica in the directory.
    Open,
    /// Creates a replica in the directory.
    Create,
    /// Creates a replica in memory, which ends with the client.
    Memory,
}

/// A clock that stands still and ids that count, for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestOptions {
    /// The seed of the ids: two clients of one seed and one history make the same ids.
    pub seed: u64,
    /// The time of the clock.
    pub now: Timestamp,
}

/// The options of a client. Only the user, and a directory or [`Mode::Memory`], have no default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientOptions {
    /// The user that the replica belongs to; an existing replica knows it.
    pub user: Option<UserId>,
    /// The directory of the replica.
    pub directory: Option<PathBuf>,
    /// The way in which the client comes to its replica.
    #[serde(default)]
    pub mode: Mode,
    /// The address of the server: `http://` or `https://`.
    pub server: Option<String>,
    /// The client id of a new replica, for an exported state.
    pub client_id: Option<ReplicaId>,
    /// The name of the device in the names of conflicted copies.
    pub device: Option<String>,
    /// The value of [`ClientConfig::rematerialise`].
    pub rematerialise: Option<bool>,
    /// The value of [`ClientConfig::page_limit`].
    pub page_limit: Option<u32>,
    /// The value of [`ClientConfig::transfers`].
    pub transfers: Option<usize>,
    /// The value of [`ClientConfig::cache_size`].
    pub cache_size: Option<u64>,
    /// The value of [`ClientConfig::interval`], in milliseconds.
    pub interval_ms: Option<u64>,
    /// The value of [`ClientConfig::live`].
    pub live: Option<bool>,
    /// The value of [`ClientConfig::live_interval`], in milliseconds.
    pub live_interval_ms: Option<u64>,
    /// The value of [`HttpConfig::insecure_http`].
    #[serde(default)]
    pub insecure_http: bool,
    /// A clock and ids for tests.
    pub test: Option<TestOptions>,
    /// The page's way to the network, for [`Server::Http`] and [`Server::Around`].
    #[cfg(target_family = "wasm")]
    #[serde(skip)]
    pub fetch: Option<vfs_sync_client::transport::PageFetch>,
}

impl ClientOptions {
    /// Parses options from JSON.
    ///
    /// # Errors
    /// [`crate::ErrorCode::Invalid`], with the field and the reason.
    pub fn parse(json: &str) -> Result<Self> {
        call::parse(json)
    }

    fn config(&self, environment: Option<Arc<CountedEnvironment>>) -> ClientConfig {
        let mut config = ClientConfig::default();
        config.device.clone_from(&self.device);
        config.cache_size = self.cache_size;
        config.rematerialise = self.rematerialise.unwrap_or(config.rematerialise);
        config.page_limit = self.page_limit.unwrap_or(config.page_limit);
        config.transfers = self.transfers.unwrap_or(config.transfers);
        config.live = self.live.unwrap_or(config.live);
        config.interval = self.interval_ms.map_or(config.interval, Duration::from_millis);
        config.live_interval =
            self.live_interval_ms.map_or(config.live_interval, Duration::from_millis);
        if let Some(environment) = environment {
            config.environment = environment;
        }
        config
    }
}

/// The connection of a client.
pub enum Server {
    /// The server at [`ClientOptions::server`], with tokens from the application.
    Http(Box<dyn TokenProvider>),
    /// A transport of the host language.
    Foreign(Arc<dyn ForeignTransport>),
    /// The server at [`ClientOptions::server`], behind a transport of the host language: it gets
    /// each call and may forward it.
    Around(Box<dyn TokenProvider>, Arc<dyn ForeignTransport>),
}

/// Lets a boxed provider of tokens be used as one.
struct Tokens(Box<dyn TokenProvider>);

#[async_trait::async_trait]
impl TokenProvider for Tokens {
    async fn token(&self, refresh: bool) -> std::result::Result<String, String> {
        self.0.token(refresh).await
    }
}

/// A client with its replica. Clones share it; it ends with [`Client::close`] or with the last clone, reader and
/// writer.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    client: Mutex<Option<SyncClient>>,
    feeds: Feeds,
    environment: Option<Arc<CountedEnvironment>>,
    /// Held by each write in turn, in the order of the calls.
    writes: Arc<tokio::sync::Mutex<()>>,
    calls: TaskTracker,
    closed: CancellationToken,
    /// Held by the call that closes the client.
    closing: tokio::sync::Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if forked() {
            std::mem::forget(lock(&self.client).take());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// Opens or creates a client, as `options` say.
    ///
    /// # Errors
    /// Those of the replica, and [`crate::ErrorCode::Invalid`] for options that do not fit.
    pub fn open(
        options: ClientOptions,
        server: Server,
    ) -> impl Future<Output = Result<Self>> + Send + use<> {
        spawned(blocking(move || Self::open_now(&options, server)))
    }

    fn open_now(options: &ClientOptions, server: Server) -> Result<Self> {
        let environment =
            options.test.map(|test| Arc::new(CountedEnvironment::new(test.seed, test.now)));
        let address = || {
            let missing = || Error::invalid("`server` is missing: name the server's address");
            options.server.clone().ok_or_else(missing)
        };
        let http = |tokens| {
            let mut config = HttpConfig::new(address()?);
            config.insecure_http = options.insecure_http;
            #[cfg(target_family = "wasm")]
            config.fetch.clone_from(&options.fetch);
            let made = HttpTransport::new(config, Tokens(tokens));
            Ok::<Arc<dyn Transport>, Error>(Arc::new(made?))
        };
        let transport: Arc<dyn Transport> = match server {
            Server::Http(tokens) => http(tokens)?,
            Server::Foreign(transport) => Arc::new(Adapter::new(transport, None)),
            Server::Around(tokens, transport) => {
                Arc::new(Adapter::new(transport, Some(http(tokens)?)))
            }
        };
        let builder = || {
            let config = options.config(environment.clone());
            let mut builder = SyncClient::builder(Arc::clone(&transport)).config(config);
            builder = builder.server(options.server.as_deref().unwrap_or("custom"));
            match &options.client_id {
                Some(id) => builder.client_id(id.clone()),
                None => builder,
            }
        };
        let client = open_replica(options, builder)?;
        let feeds = Feeds::of(&client);
        Ok(Self {
            inner: Arc::new(Inner {
                client: Mutex::new(Some(client)),
                feeds,
                environment,
                writes: Arc::default(),
                calls: TaskTracker::new(),
                closed: CancellationToken::new(),
                closing: tokio::sync::Mutex::default(),
            }),
        })
    }

    /// Returns the client, unless it is closed.
    pub(crate) fn client(&self) -> Result<SyncClient> {
        lock(&self.inner.client).clone().ok_or_else(Error::closed)
    }

    /// Runs `work` as a call that [`Client::close`] ends and waits for.
    fn tracked<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
        &self,
        cancel: Option<Cancellation>,
        work: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F> {
        let closed = self.inner.closed.clone();
        let cancel = cancel.unwrap_or_default();
        spawned(self.inner.calls.track_future(async move {
            tokio::select! {
                biased;
                () = closed.cancelled() => Err(Error::closed()),
                done = cancel.over(work) => done,
            }
        }))
    }

    /// Makes a call that reads the replica; JSON goes in and comes out.
    ///
    /// # Errors
    /// Those of the call.
    pub fn read(&self, json: &str) -> Result<String> {
        self.read_call(call::parse(json)?)
    }

    fn read_call(&self, call: Read) -> Result<String> {
        guarded(|| calls::read(&self.client()?, call))
    }

    /// Makes a call that writes the replica; JSON goes in and comes out. Writes happen in the order
    /// in which this is called, and finish even if the future is dropped.
    ///
    /// # Errors
    /// Those of the call.
    pub fn write(&self, json: &str) -> impl Future<Output = Result<String>> + Send + use<> {
        let write = |call: Write| self.in_turn(|client| calls::write(&client, call));
        let done = call::parse(json).map(write);
        async move { Ok(done?.await?.to_string()) }
    }

    /// Runs blocking work after all writes before it.
    pub(crate) fn in_turn<
        T: Send + 'static,
        F: FnOnce(SyncClient) -> Result<T> + Send + 'static,
    >(
        &self,
        work: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F> {
        let client = self.client();
        let turn = turn(&self.inner.writes);
        // The tracker has `close` wait for a write that nobody waits for any more.
        to_the_end(self.inner.calls.track_future(async move {
            let client = client?;
            let _turn = turn.await;
            blocking(move || work(client)).await
        }))
    }

    /// Makes a call that may need the server; JSON goes in and comes out.
    ///
    /// # Errors
    /// Those of the call, and [`crate::ErrorCode::Cancelled`].
    pub fn run(
        &self,
        json: &str,
        cancel: Option<Cancellation>,
    ) -> impl Future<Output = Result<String>> + Send + use<> {
        let client = self.client();
        let run =
            |call: Remote| self.tracked(cancel, async move { calls::run(client?, call).await });
        let done = call::parse(json).map(run);
        async move { done?.await }
    }

    /// Opens a stream; its JSON names it.
    ///
    /// # Errors
    /// [`crate::ErrorCode::Invalid`], [`crate::ErrorCode::Closed`], and those of its first read.
    pub fn subscribe(&self, json: &str) -> Result<Subscription> {
        self.subscribe_to(call::parse(json)?)
    }

    /// Opens a stream, which ends when the client is closed.
    ///
    /// # Errors
    /// [`crate::ErrorCode::Closed`], and those of its first read.
    pub fn subscribe_to(&self, stream: Stream) -> Result<Subscription> {
        let client = self.client()?;
        guarded(|| {
            let weak = Arc::downgrade(&self.inner);
            let read = move |read: Read| {
                let inner = weak.upgrade().ok_or_else(Error::closed)?;
                Self { inner }.read_call(read)
            };
            let weak = Arc::downgrade(&self.inner);
            let find = move |query: &Query| {
                let inner = weak.upgrade().ok_or_else(Error::closed)?;
                Ok(Self { inner }.client()?.find(query)?)
            };
            let closed = self.inner.closed.child_token();
            self.inner.feeds.subscribe(&client, stream, (Box::new(read), Arc::new(find)), closed)
        })
    }

    /// Returns the violations that the client has emitted.
    #[must_use]
    pub fn violations(&self) -> Violations {
        self.inner.feeds.violations()
    }

    /// Stores a content of bytes for an item.
    ///
    /// # Errors
    /// Those of `Contents::put`.
    pub fn put(
        &self,
        options: PutOptions,
        bytes: Vec<u8>,
    ) -> impl Future<Output = Result<Value>> + Send + use<> {
        self.in_turn(move |client| {
            let taken = client.contents().take(&bytes)?;
            crate::content::queue(&client, options, taken)
        })
    }

    /// Opens a writer of a content of an item.
    ///
    /// # Errors
    /// [`crate::ErrorCode::UnknownItem`], [`crate::ErrorCode::Closed`].
    pub fn writer(&self, options: PutOptions) -> Result<ContentWriter> {
        guarded(|| ContentWriter::open(self.clone(), options))
    }

    /// Opens the content of an item, or an earlier version of it; a content that is not here is
    /// downloaded first.
    ///
    /// # Errors
    /// Those of `Contents::read`, and [`crate::ErrorCode::Cancelled`].
    pub fn reader(
        &self,
        item: String,
        version: Option<String>,
        cancel: Option<Cancellation>,
    ) -> impl Future<Output = Result<ContentReader>> + Send + use<> {
        let client = self.client();
        self.tracked(cancel, async move { ContentReader::open(client?, item, version).await })
    }

    /// Moves the clock of [`ClientOptions::test`] by some milliseconds.
    ///
    /// # Errors
    /// [`crate::ErrorCode::Invalid`] for a client that has the machine's clock.
    pub fn advance_clock(&self, millis: i64) -> Result<()> {
        let environment = self.inner.environment.as_ref();
        let environment = environment
            .ok_or_else(|| Error::invalid("the client has the machine's clock: set `test`"))?;
        environment.advance(millis);
        Ok(())
    }

    /// Closes the client: ends calls and streams, finishes writes and background work, and releases
    /// the replica, even if the future is dropped. Each of several calls returns after that.
    ///
    /// # Errors
    /// None at present but a panic.
    pub fn close(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let inner = Arc::clone(&self.inner);
        to_the_end(async move {
            let _turn = inner.closing.lock().await;
            let client = lock(&inner.client).take();
            inner.closed.cancel();
            inner.calls.close();
            inner.calls.wait().await;
            if let Some(client) = client {
                client.stop_background().await;
                let released = client.released();
                // The last clone closes the replica's file.
                blocking(move || {
                    drop(client);
                    Ok(())
                })
                .await?;
                released.await;
            }
            Ok(())
        })
    }
}

/// Runs `work` now and to its end, whether or not anybody waits for the result.
fn to_the_end<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
    work: F,
) -> impl Future<Output = Result<T>> + Send + use<T, F> {
    let (done, result) = tokio::sync::oneshot::channel();
    let begun = detached(async move {
        // Nobody may wait any more.
        let _ = done.send(work.await);
    });
    async move {
        begun?;
        let lost = |_| Error::new(crate::ErrorCode::Panicked, "the call panicked");
        result.await.map_err(lost)?
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

#[cfg(target_family = "wasm")]
fn open_replica(
    options: &ClientOptions,
    builder: impl Fn() -> ClientBuilder,
) -> Result<SyncClient> {
    let missing = || Error::invalid("`user` is missing: a new replica belongs to a user");
    if options.mode != Mode::Memory || options.directory.is_some() {
        let reason = "a page has no directory for a replica: set `mode` to `memory`";
        return Err(Error::invalid(reason));
    }
    Ok(builder().in_memory(options.user.clone().ok_or_else(missing)?)?)
}

#[cfg(not(target_family = "wasm"))]
fn open_replica(
    options: &ClientOptions,
    builder: impl Fn() -> ClientBuilder,
) -> Result<SyncClient> {
    let user = || {
        let missing = || Error::invalid("`user` is missing: a new replica belongs to a user");
        options.user.clone().ok_or_else(missing)
    };
    if options.mode == Mode::Memory {
        return Ok(builder().in_memory(user()?)?);
    }
    let missing = || Error::invalid("`directory` is missing: name one, or set `mode` to `memory`");
    let directory = options.directory.as_ref().ok_or_else(missing)?;
    let opened = match options.mode {
        Mode::Create => return Ok(builder().create(directory, user()?)?),
        _ => builder().open(directory),
    };
    let client = match opened {
        Err(vfs_sync_client::ClientError::NoReplica(_)) if options.mode == Mode::OpenOrCreate => {
            return Ok(builder().create(directory, user()?)?);
        }
        opened => opened?,
    };
    match &options.user {
        Some(user) if client.user() != *user => Err(Error::invalid(format!(
            "the replica in {} belongs to {}, not to {user}",
            directory.display(),
            client.user()
        ))),
        _ => Ok(client),
    }
}
