//! The file of a device's credential, and the source of tokens that it is.
//!
//! The file has the secrets of the credential, the newest first, and the next one before the server is
//! asked to take it. A call that is cut anywhere is repeated with what the file has. Processes of one
//! device renew one after the other, under a lock beside the file, and whoever waited takes what the
//! other one wrote.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::credential::{AccessGrant, RefreshSecret};

use super::{SignInError, random};
use crate::device::Device;
use crate::environment::{Environment as _, SystemEnvironment};
use crate::lock::lock;
use crate::transport::{
    HttpConfig, HttpTransport, NotRenewed, StaticToken, TokenProvider, TransportError,
};

const VERSION: u32 = 1;
/// The greatest size of the file in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Secrets that are kept: where the server's database went back, it takes one of the past.
const KEPT_SECRETS: usize = 48;
/// The time that a process waits for another one to renew.
const PATIENCE: Duration = Duration::from_secs(90);
const TRY_EVERY: Duration = Duration::from_millis(20);

/// The content of the file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    version: u32,
    /// The server that the secrets are for: no other one gets them.
    server: String,
    user_id: UserId,
    client_id: ReplicaId,
    /// The secrets, the newest first.
    secrets: Vec<String>,
    /// The secret that follows, once the server may know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    access_token: String,
    /// The time from which the access token is renewed.
    renew_at: Timestamp,
    /// The server's reason for which the sign-in has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
}

/// The facts about a sign-in that a user is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialState {
    /// The server that gave the credential.
    pub server: String,
    /// The user who signed in.
    pub user: UserId,
    /// The replica that the credential is good for.
    pub client: ReplicaId,
    /// The present access token.
    pub access_token: String,
    /// The reason for which the sign-in has ended, as the server said at the last renewal.
    pub ended: Option<String>,
}

/// The credential of a device in a file, as a source of tokens. It renews the access token before its
/// end, or once the server rejects it.
pub struct CredentialFile {
    path: PathBuf,
    server: String,
    transport: HttpTransport,
    name: Option<String>,
    memory: Mutex<Memory>,
}

/// The tokens that this process knows.
#[derive(Default)]
struct Memory {
    /// The token that was returned last.
    last: Option<String>,
    /// A token that could not be written to the file, and the time from which it is renewed.
    unwritten: Option<(String, Timestamp)>,
}

impl std::fmt::Debug for CredentialFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialFile").field("path", &self.path).finish_non_exhaustive()
    }
}

fn now() -> Timestamp {
    SystemEnvironment.now()
}

/// Returns the time from which a token of `seconds` is renewed: while it is good for a sixth of them.
fn renew_at(seconds: u64) -> Timestamp {
    let millis = i64::try_from(seconds.min(24 * 3_600) * 1_000 / 6 * 5).unwrap_or(0);
    now().plus_millis(millis)
}

fn read(path: &Path) -> Result<Stored, String> {
    let shown = path.display();
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("{shown} has more than {MAX_FILE_BYTES} bytes"));
    }
    let stored: Stored =
        serde_json::from_str(&text).map_err(|error| format!("{shown}: {error}"))?;
    match stored.version {
        VERSION => Ok(stored),
        other => Err(format!("{shown}: version {other} is unknown: use a newer vfs-sync")),
    }
}

impl CredentialState {
    /// Reads what a credential's file says of the sign-in.
    ///
    /// # Errors
    /// A sentence that says why it cannot be read.
    pub fn read(file: &Path) -> Result<Self, String> {
        let stored = read(file)?;
        Ok(Self {
            server: stored.server,
            user: stored.user_id,
            client: stored.client_id,
            access_token: stored.access_token,
            ended: stored.ended,
        })
    }
}

impl CredentialFile {
    /// Names the credential in the file `path`, for the server of `config`. `device` is the device's
    /// name, which renewals tell the server.
    ///
    /// # Errors
    /// [`TransportError::InvalidAddress`] as [`HttpTransport::new`].
    pub fn new(
        path: impl Into<PathBuf>,
        config: HttpConfig,
        device: Option<String>,
    ) -> Result<Self, TransportError> {
        let server = config.base_url.clone();
        // Its calls name their bearers themselves.
        let transport = HttpTransport::new(config, StaticToken::new("none"))?;
        let memory = Mutex::default();
        Ok(Self { path: path.into(), server, transport, name: device, memory })
    }

    /// Makes the first secret of a credential.
    ///
    /// # Errors
    /// [`SignInError::File`] if the system gives no random bytes.
    pub fn first_secret(&self) -> Result<RefreshSecret, SignInError> {
        let made = || Ok(RefreshSecret::first(random()?, random()?));
        made().map_err(|source| self.failed(source))
    }

    /// Writes the credential that the server has given for `first`, in place of any that was there.
    ///
    /// # Errors
    /// [`SignInError::File`]: the file is as it was.
    pub async fn create(
        &self,
        grant: &AccessGrant,
        first: &RefreshSecret,
    ) -> Result<(), SignInError> {
        let _locked = self.lock().await.map_err(|source| self.failed(source))?;
        let stored = Stored {
            version: VERSION,
            server: self.server.clone(),
            user_id: grant.user_id.clone(),
            client_id: grant.client_id.clone(),
            secrets: vec![first.text()],
            next: None,
            access_token: grant.access_token.clone(),
            renew_at: renew_at(grant.expires_in),
            ended: None,
        };
        self.write(&stored).map_err(|source| self.failed(source))
    }

    /// Gives the credential up: the server ends it, if it can be reached, and the file is removed in
    /// any case.
    ///
    /// # Errors
    /// [`SignInError::Transport`] if the server did not confirm the end, [`SignInError::File`] if the
    /// file is still there.
    pub async fn sign_out(&self) -> Result<(), SignInError> {
        let _locked = self.lock().await.map_err(|source| self.failed(source))?;
        let secret = self.read().and_then(|stored| {
            let newest = stored.secrets.first().and_then(|text| RefreshSecret::parse(text));
            newest.ok_or_else(|| "the file has no secret".to_owned())
        });
        let ended = match secret {
            Ok(secret) => self.transport.sign_out(&secret).await,
            Err(reason) => Err(TransportError::Unauthorized(reason)),
        };
        std::fs::remove_file(&self.path).map_err(|source| self.failed(source))?;
        Ok(ended?)
    }

    fn failed(&self, source: io::Error) -> SignInError {
        SignInError::File { path: self.path.clone(), source }
    }

    fn read(&self) -> Result<Stored, String> {
        let shown = self.path.display();
        let stored = read(&self.path)?;
        if stored.server != self.server {
            return Err(format!(
                "the sign-in in {shown} is for {}, and the server is {}",
                stored.server, self.server
            ));
        }
        Ok(stored)
    }

    /// Writes the file for its owner alone: durable, and completely or not at all.
    fn write(&self, stored: &Stored) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        // What a process left that was killed while it wrote.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = options.open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(stored)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        match self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => File::open(Path::new("."))?.sync_all(),
        }
    }

    /// Waits until no other process works on the file.
    async fn lock(&self) -> io::Result<File> {
        let path = self.path.with_extension("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        let end = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() >= end => {
                    return Err(io::Error::other("another process has been renewing it for long"));
                }
                Err(TryLockError::WouldBlock) => tokio::time::sleep(TRY_EVERY).await,
            }
        }
    }

    /// Returns a token that can be sent without asking the server.
    fn usable(&self, stored: &Stored, refresh: bool) -> Option<String> {
        let mut memory = lock(&self.memory);
        let (token, renew_at) = match &memory.unwritten {
            Some(unwritten) if unwritten.1 > stored.renew_at => unwritten.clone(),
            _ => (stored.access_token.clone(), stored.renew_at),
        };
        let is_rejected = refresh && memory.last.as_ref().is_none_or(|last| *last == token);
        if is_rejected || renew_at <= now() {
            return None;
        }
        memory.last = Some(token.clone());
        Some(token)
    }

    /// Renews the access token, under the lock.
    async fn renew(&self, mut stored: Stored) -> Result<String, TransportError> {
        let device = Device::new(stored.client_id.clone(), self.name.clone());
        let parsed: Vec<RefreshSecret> =
            stored.secrets.iter().filter_map(|text| RefreshSecret::parse(text)).collect();
        let unwritable = |error: io::Error| {
            TransportError::Unauthorized(format!("cannot write {}: {error}", self.path.display()))
        };
        let mut at = 0;
        let ended = loop {
            let Some(presented) = parsed.get(at) else {
                break "the server does not know the secrets of this device's sign-in".to_owned();
            };
            let kept = stored.next.as_ref().and_then(|text| RefreshSecret::parse(text));
            let follows = |next: &RefreshSecret| next.generation() == presented.generation() + 1;
            let next = match kept.filter(follows) {
                Some(next) => next,
                None => {
                    let next = presented.next(random().map_err(unwritable)?);
                    stored.next = Some(next.text());
                    // Before the server knows of it.
                    self.write(&stored).map_err(unwritable)?;
                    next
                }
            };
            match self.transport.renew(presented, &device, &next).await {
                Ok(grant) if grant.user_id == stored.user_id => {
                    stored.secrets.drain(..at);
                    stored.secrets.insert(0, next.text());
                    stored.secrets.truncate(KEPT_SECRETS);
                    return Ok(self.renewed(stored, grant));
                }
                Ok(grant) => {
                    return Err(TransportError::WrongUser {
                        expected: stored.user_id,
                        actual: Some(grant.user_id),
                    });
                }
                // The secret before, or the one that the server knows.
                Err(NotRenewed::Unknown { generation }) => {
                    at += 1;
                    while parsed.get(at).is_some_and(|older| older.generation() > generation) {
                        at += 1;
                    }
                }
                Err(NotRenewed::Ended(reason)) => break reason,
                Err(NotRenewed::Failed(error)) => return Err(error),
            }
        };
        stored.ended = Some(ended.clone());
        // For a doctor; if it cannot be written, the next call is told again.
        let _ = self.write(&stored);
        Err(TransportError::Unauthorized(ended))
    }

    fn renewed(&self, mut stored: Stored, grant: AccessGrant) -> String {
        let token = grant.access_token;
        stored.next = None;
        stored.access_token.clone_from(&token);
        stored.renew_at = renew_at(grant.expires_in);
        stored.ended = None;
        let mut memory = lock(&self.memory);
        memory.unwritten = match self.write(&stored) {
            Ok(()) => None,
            Err(error) => {
                // The secrets in the file stay good until the next one is used.
                tracing::warn!(%error, path = %self.path.display(), "cannot write the sign-in");
                Some((token.clone(), stored.renew_at))
            }
        };
        memory.last = Some(token.clone());
        token
    }
}

#[async_trait]
impl TokenProvider for CredentialFile {
    async fn token(&self, refresh: bool) -> Result<String, String> {
        self.provide(refresh).await.map_err(|error| error.to_string())
    }

    async fn provide(&self, refresh: bool) -> Result<String, TransportError> {
        let read = || self.read().map_err(TransportError::Unauthorized);
        if let Some(token) = self.usable(&read()?, refresh) {
            return Ok(token);
        }
        let locked = self.lock().await.map_err(|error| TransportError::network(error.to_string()));
        let _locked = locked?;
        // Another process may have renewed it since.
        let stored = read()?;
        match self.usable(&stored, refresh) {
            Some(token) => Ok(token),
            None => self.renew(stored).await,
        }
    }
}
