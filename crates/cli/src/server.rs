//! Builds a server from its environment and arguments.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt as _;
use tokio::net::{TcpListener, TcpSocket};
use vfs_sync_blobs::{BlobError, BlobStore, ObjectBlobs, S3Config, key};
use vfs_sync_core::time::Timestamp;
use vfs_sync_server::auth::{AuthConfig, AuthConfigError, Authenticator};
use vfs_sync_server::{Certificate, Environment as _, Server, ServerConfig, SystemEnvironment};
use vfs_sync_store::{Announcements, StoreError};

use crate::error::{Failure, Kind, Result};

const DATABASE_VARIABLE: &str = "VFS_SYNC_DATABASE_URL";
const DATABASE_FILE: &str = "metadata.sqlite3";
const BLOBS_DIRECTORY: &str = "blobs";

/// Returns the time of the machine's clock.
pub(crate) fn now() -> Timestamp {
    SystemEnvironment.now()
}

/// Reads the keys that sign and verify tokens from the environment.
pub(crate) fn auth() -> Result<AuthConfig> {
    AuthConfig::from_lookup(|name| std::env::var(name).ok()).map_err(auth_failure)
}

fn auth_failure(error: AuthConfigError) -> Failure {
    let hint = match &error {
        AuthConfigError::Missing => {
            Some("for a first try: export VFS_SYNC_JWT_SECRET=$(openssl rand -hex 32)")
        }
        _ => None,
    };
    let failure = Failure::usage(error.to_string());
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Returns the database that the environment names, or the file in the server's directory.
pub(crate) fn database(data: Option<&Path>) -> Result<String> {
    match (std::env::var(DATABASE_VARIABLE), data) {
        (Ok(url), _) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Ok(url)
        }
        (Ok(url), _) if !url.is_empty() => {
            Err(Failure::usage(format!("{DATABASE_VARIABLE} is not a postgres:// URL"))
                .hint("unset it to use SQLite in --data"))
        }
        (Err(std::env::VarError::NotUnicode(_)), _) => {
            Err(Failure::usage(format!("{DATABASE_VARIABLE} is not UTF-8")))
        }
        (_, Some(data)) => database_in(data),
        (_, None) => Err(Failure::usage("no database is configured").hint(format!(
            "name the server's directory with --data, or a PostgreSQL database with \
             {DATABASE_VARIABLE}"
        ))),
    }
}

/// Returns the path of the SQLite database in a server's directory.
pub(crate) fn database_in(data: &Path) -> Result<String> {
    let file = data.join(DATABASE_FILE);
    file.into_os_string()
        .into_string()
        .map_err(|_| Failure::usage("the server's directory has a name that is not UTF-8"))
}

/// Creates a directory that only its owner may enter; an existing one stays as it is.
pub(crate) fn make_directory(directory: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(Failure::io(format!("cannot create {}", directory.display())))
}

/// Converts a store error into a failure with a hint.
pub(crate) fn store_failure(error: StoreError) -> Failure {
    let message = error.to_string();
    match error {
        StoreError::Unavailable(_) | StoreError::Conflict | StoreError::TooMany => {
            Failure::new(Kind::Network, message)
                .hint(format!("is the database running? See {DATABASE_VARIABLE} and --data"))
        }
        StoreError::InvalidUrl(_) => Failure::usage(message)
            .hint(format!("put {DATABASE_VARIABLE} right: docs/install.md has its parameters")),
        StoreError::Full(_) => Failure::failed(message).hint("free space on the database's disk"),
        StoreError::NewerSchema { .. } => {
            Failure::new(Kind::Corrupt, message).hint("use a newer vfs-sync")
        }
        StoreError::MalformedRow { .. } | StoreError::MissingTable { .. } => {
            Failure::new(Kind::Corrupt, message)
                .hint("restore the database from a backup: see docs/backup.md")
        }
        StoreError::TooManyConsequences
        | StoreError::NoMemory
        | StoreError::UserDeleted
        | StoreError::OverQuota { .. } => Failure::failed(message),
        StoreError::WentBack | StoreError::Failed(_) => Failure::new(Kind::Corrupt, message)
            .hint("check that it is a vfs-sync database, and that this user may write to it"),
    }
}

/// The address, stores and configuration of a server.
pub(crate) struct Setup {
    pub(crate) auth: AuthConfig,
    pub(crate) database: String,
    pub(crate) data: PathBuf,
    /// True to accept an empty database beside the contents or the mark of another one.
    pub(crate) new: bool,
    pub(crate) listen: SocketAddr,
    pub(crate) admin_listen: Option<SocketAddr>,
    /// The files of the certificate and its key, if connections are encrypted.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) config: ServerConfig,
}

/// A server with its listeners, ready to serve.
pub(crate) struct Bound {
    pub(crate) server: Server,
    pub(crate) listener: TcpListener,
    pub(crate) admin: Option<TcpListener>,
    pub(crate) address: SocketAddr,
    pub(crate) admin_address: Option<SocketAddr>,
    pub(crate) hears: Hears,
}

/// The way in which the server hears of changes that other processes make.
pub(crate) struct Hears(Announcements);

impl Hears {
    /// Returns the name of the way.
    pub(crate) fn name(&self) -> &'static str {
        match self.0 {
            Announcements::Notified => "notified",
            Announcements::None | Announcements::Swallowed => "swept",
        }
    }

    /// Returns what an operator should know about it.
    pub(crate) fn note(&self) -> Option<&'static str> {
        (self.0 == Announcements::Swallowed).then_some(
            "PostgreSQL's notifications do not arrive, as behind a pooler in transaction mode: \
             changes made by other servers are seen within 5 s",
        )
    }
}

/// Opens the stores and binds the listeners.
pub(crate) async fn bind(setup: Setup) -> Result<Bound> {
    let s3 = s3()?;
    let config = setup.config.clone();
    let keys = Authenticator::load(&setup.auth).await.map_err(auth_failure)?;
    let certificate =
        setup.tls.clone().map(|(certificate, key)| Certificate::load(certificate, key));
    let certificate = certificate.transpose().map_err(|error| {
        Failure::usage(error.to_string()).hint(
            "--tls-cert and --tls-key name the PEM files of a certificate and its private key",
        )
    })?;
    // Bound before anything is created, so that a port in use changes nothing.
    let (listener, address) = listen(setup.listen)?;
    let (admin, admin_address) = match setup.admin_listen {
        Some(address) => {
            let (listener, address) = listen(address)?;
            (Some(listener), Some(address))
        }
        None => (None, None),
    };
    make_directory(&setup.data)?;
    let blobs = open_blobs(s3.as_ref(), &setup.data).await?;
    let missing = !is_postgres(&setup.database) && !Path::new(&setup.database).exists();
    if missing && !setup.new {
        // Checked before anything is created in its place.
        refuse_strangers(&setup, &*blobs, None).await?;
    }
    let opened = vfs_sync_store::open_within(&setup.database, now(), config.plan_memory).await;
    let store = opened.map_err(store_failure)?;
    let identity = store.identity().await.map_err(store_failure)?;
    if identity.is_empty && !setup.new {
        refuse_strangers(&setup, &*blobs, Some(&identity.id)).await?;
    }
    leave_mark(&setup.data, &identity.id)?;
    let hears = Hears(store.announce_heads().await);
    let database = match is_postgres(&setup.database) {
        true => "postgresql",
        false => "sqlite",
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        database,
        database_id = identity.id,
        contents = if s3.is_some() { "s3" } else { "directory" },
        keys = setup.auth.source(),
        listen = %address,
        admin_listen = admin_address.map(tracing::field::display),
        max_connections = config.max_connections,
        max_requests = config.max_requests,
        max_event_streams = config.max_event_streams,
        max_body_memory = config.max_body_memory,
        max_stored_bytes = config.max_stored_bytes,
        max_items = config.metadata.items,
        "starting",
    );
    let mut server = Server::builder(store, blobs, keys).config(config);
    if let Some(certificate) = certificate {
        server = server.certificate(certificate);
    }
    let server = server.build();
    Ok(Bound { server, listener, admin, address, admin_address, hears })
}

/// The file in a server's directory with the id of the database that was last served with it.
const MARK_FILE: &str = "database-id";

/// Rejects an empty database where another database left contents or its mark: the other one's disk
/// is not mounted, or its file is elsewhere. Every client would otherwise see all its items
/// removed.
async fn refuse_strangers(setup: &Setup, blobs: &dyn BlobStore, id: Option<&str>) -> Result<()> {
    let mark = setup.data.join(MARK_FILE);
    let marked = marked(&setup.data);
    let marked = marked.map_err(Failure::io(format!("cannot read {}", mark.display())))?;
    let mut found = Vec::new();
    if marked.is_some() && marked.as_deref() != id {
        found.push(format!("{} belongs to another database", mark.display()));
    }
    let mut listing = blobs.list();
    while let Some(object) = listing.next().await {
        let object = object
            .map_err(|error| Failure::failed(format!("cannot list the contents: {error}")))?;
        if !key::is_temporary(&object.name) {
            found.push("contents exist already".into());
            break;
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let which = if is_postgres(&setup.database) {
        format!("the database that {DATABASE_VARIABLE} names")
    } else {
        format!("the database {}", setup.database)
    };
    let state = if id.is_some() { "is empty" } else { "is missing" };
    let message = format!("{which} {state}, but {}: the server did not start", found.join(" and "));
    Err(Failure::new(Kind::Corrupt, message).hint(
        "check that its disk is mounted, and that --data is right; restore the database from a backup \
         (docs/backup.md). To start with an empty one, in which no client finds its files, add --new",
    ))
}

/// Returns the id of the database that was last served with a server's directory.
pub(crate) fn marked(data: &Path) -> std::io::Result<Option<String>> {
    match std::fs::read_to_string(data.join(MARK_FILE)) {
        Ok(marked) => Ok(Some(marked.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the database's id for the next start.
pub(crate) fn leave_mark(data: &Path, id: &str) -> Result<()> {
    let mark = data.join(MARK_FILE);
    if std::fs::read_to_string(&mark).is_ok_and(|marked| marked.trim() == id) {
        return Ok(());
    }
    std::fs::write(&mark, format!("{id}\n"))
        .map_err(Failure::io(format!("cannot write {}", mark.display())))
}

fn is_postgres(database: &str) -> bool {
    database.starts_with("postgres://") || database.starts_with("postgresql://")
}

/// Reads the S3 configuration from the environment, if there is one.
fn s3() -> Result<Option<S3Config>> {
    S3Config::from_lookup(|name| std::env::var(name).ok()).map_err(|error| {
        Failure::usage(error.to_string())
            .hint("see docs/blobs.md for the meaning of each VFS_BLOB_S3_* variable")
    })
}

/// Opens the object store of an existing server.
pub(crate) async fn existing_blobs(data: Option<&Path>) -> Result<Arc<dyn BlobStore>> {
    let s3 = s3()?;
    match (&s3, data) {
        (None, None) => Err(Failure::usage("no object store is configured").hint(
            "name the server's directory with --data, or the bucket with VFS_BLOB_S3_BUCKET",
        )),
        _ => open_blobs(s3.as_ref(), data.unwrap_or(Path::new(""))).await,
    }
}

/// Opens the object store of an existing server without a probe of it; returns its place in words.
pub(crate) fn unprobed_blobs(data: Option<&Path>) -> Result<Option<(String, ObjectBlobs)>> {
    let s3 = s3()?;
    let (place, made) = match (&s3, data) {
        (None, None) => return Ok(None),
        (s3, data) => make_blobs(s3.as_ref(), data.unwrap_or(Path::new(""))),
    };
    let unusable =
        |error: BlobError| Failure::failed(format!("cannot store contents in {place}: {error}"));
    let blobs = made.map_err(unusable)?;
    Ok(Some((place, blobs)))
}

fn make_blobs(
    s3: Option<&S3Config>,
    data: &Path,
) -> (String, std::result::Result<ObjectBlobs, BlobError>) {
    match s3 {
        Some(config) => (format!("the bucket {}", config.bucket), ObjectBlobs::s3(config)),
        None => (data.display().to_string(), ObjectBlobs::directory(data.join(BLOBS_DIRECTORY))),
    }
}

/// Opens the object store, S3 or a directory, and probes it, so that a wrong configuration fails at
/// once.
async fn open_blobs(s3: Option<&S3Config>, data: &Path) -> Result<Arc<dyn BlobStore>> {
    let (place, made) = make_blobs(s3, data);
    let unusable = |error: BlobError| {
        let hint = match (&*error.storage_code, s3.is_some()) {
            ("NoSuchBucket", _) => "check VFS_BLOB_S3_BUCKET and VFS_BLOB_S3_REGION",
            ("InvalidAccessKeyId" | "SignatureDoesNotMatch", _) => {
                "check VFS_BLOB_S3_ACCESS_KEY_ID and VFS_BLOB_S3_SECRET_ACCESS_KEY"
            }
            ("AccessDenied", true) => {
                "check that the key may write, read and delete under VFS_BLOB_S3_KEY_PREFIX; see docs/blobs.md"
            }
            ("ServiceUnavailable", true) => {
                "check VFS_BLOB_S3_ENDPOINT, and that the store is running"
            }
            (_, true) => "check the bucket, the region and the endpoint of VFS_BLOB_S3_*",
            (_, false) => "check that this user may write there, and that there is free space",
        };
        Failure::failed(format!("cannot store contents in {place}: {error}")).hint(hint)
    };
    let blobs = made.map_err(unusable)?;
    blobs.probe().await.map_err(unusable)?;
    Ok(Arc::new(blobs))
}

/// The connections that may wait to be accepted: with few, a flood of them delays everybody's by the
/// second in which a peer repeats its first packet. The system may allow fewer.
const BACKLOG: u32 = 4_096;

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // As `bind` does: a restart does not wait for connections of the former process to fade.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound().map_err(|error: std::io::Error| {
        Failure::failed(format!("cannot listen on {address}: {error}"))
            .hint("choose another address; port 0 picks a free one")
    })
}
