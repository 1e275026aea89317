//! The replica that a command works on: its directory, its settings, its client.

pub(crate) mod crossing;
pub(crate) mod handoff;
pub(crate) mod live_state;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use vfs_sync_client::sign_in::{CredentialFile, CredentialState};
use vfs_sync_client::transport::token_subject;
use vfs_sync_client::{
    ClientConfig, ClientError, HttpConfig, HttpTransport, HydrateOutcome, SyncClient,
    TokenProvider, Transport, TransportError,
};
use vfs_sync_core::id::{ItemId, ReplicaId, UserId};
use vfs_sync_folder::marker::Marker;

use crate::args::{Global, Init, TOKEN_VARIABLE};
use crate::error::{Failure, Kind, Result};

const SETTINGS_FILE: &str = "settings.json";
const SETTINGS_VERSION: u32 = 1;

/// The file in a replica's directory with the credential that `login` got.
const CREDENTIAL_FILE: &str = "credential.json";

/// The greatest number of links that are allowed in one live folder.
pub(crate) const MAX_ALLOWED_LINKS: usize = 100;
/// The greatest number of folders that are excluded from one live folder.
pub(crate) const MAX_EXCLUDED: usize = 200;

/// The greatest size of a settings or token file.
const MAX_SMALL_FILE_BYTES: u64 = 64 * 1024;

/// The greatest number of digests of rules that were written on this device.
const MAX_OWN_RULES: usize = 256;

/// The settings that `init` writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    version: u32,
    pub(crate) server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// The file of the device's credential, which counts before the token's file wherever it exists;
    /// `None` if another token was named.
    #[serde(skip)]
    credential: Option<PathBuf>,
    /// The cache's limit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache_size: Option<u64>,
    /// The device's name in conflicted copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    /// The user of the replica; earlier versions did not save it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<UserId>,
    /// Calls the server without encryption, wherever it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) insecure_http: bool,
    /// The directories that `up` keeps in step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) folders: Vec<LiveFolder>,
    /// The digests of `.vfsignore` files that were written on this device in others' trees.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) own_rules: BTreeSet<String>,
}

/// A directory that `up` keeps in step with a folder of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LiveFolder {
    /// The absolute path of the directory.
    pub(crate) directory: PathBuf,
    /// The folder; `None` is the top of the user's own tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) item: Option<ItemId>,
    /// True once both sides were joined: from then on what is missing counts as deleted.
    #[serde(default)]
    pub(crate) joined: bool,
    /// The marker of the directory; earlier versions wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) marker: Option<Marker>,
    /// True while the user has paused the folder: it is neither imported nor exported.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) paused: bool,
    /// The last scan that the user asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scan: Option<ScanRequest>,
    /// True if the rules of `.vfsignore` files count although others wrote them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) trust_ignore: bool,
    /// The links to targets outside of the directory that are made although others may have
    /// written them, with the digests of their targets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) allowed_links: BTreeMap<ItemId, String>,
    /// The links to targets outside of the directory that others may have written when they were first
    /// seen, with the digests of their targets: they stay refused when the others lose their access.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) refused_links: BTreeMap<ItemId, String>,
    /// The folders of the tree that are not on this device.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) excluded: BTreeSet<ItemId>,
}

/// A scan of a live folder that the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScanRequest {
    /// The number of the request; a later one has a greater number.
    pub(crate) number: u64,
    /// True to read the contents of all files.
    #[serde(default)]
    pub(crate) checksum: bool,
}

impl LiveFolder {
    /// Creates a live folder whose sides are not joined yet.
    pub(crate) fn new(directory: PathBuf, item: Option<ItemId>) -> Self {
        Self {
            directory,
            item,
            joined: false,
            marker: None,
            paused: false,
            scan: None,
            trust_ignore: false,
            allowed_links: BTreeMap::new(),
            refused_links: BTreeMap::new(),
            excluded: BTreeSet::new(),
        }
    }

    /// Returns whether both tie the same directory to the same folder.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.directory, &self.item) == (&other.directory, &other.item)
    }
}

/// The place that a token was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenPlace {
    /// The environment variable [`TOKEN_VARIABLE`].
    Variable,
    File(PathBuf),
    /// The file of the device's credential.
    Credential(PathBuf),
}

impl Settings {
    /// Reads the token, from the environment, the device's credential, or its file.
    pub(crate) fn token(&self) -> Result<(String, TokenPlace), String> {
        Tokens::of(self).read_from()
    }

    /// Returns the file of the device's credential, if the device is signed in.
    pub(crate) fn signed_in(&self) -> Option<&Path> {
        self.credential.as_deref().filter(|file| file.exists())
    }

    /// Returns the device's credential in `directory`, whether or not there is one.
    pub(crate) fn credential_in(&self, directory: &Path) -> Result<CredentialFile> {
        let file = directory.join(CREDENTIAL_FILE);
        let config = self.http_config();
        CredentialFile::new(file, config, self.device.clone().or_else(host_name))
            .map_err(|error| self.wrong_address(&error))
    }

    /// Returns the configuration of calls to the server.
    pub(crate) fn http_config(&self) -> HttpConfig {
        HttpConfig { insecure_http: self.insecure_http, ..HttpConfig::new(&self.server) }
    }

    fn wrong_address(&self, error: &TransportError) -> Failure {
        Failure::usage(format!("{}: {error}", self.server)).hint(
            "a server's address looks like https://files.example.org, or http://127.0.0.1:7070 on \
             this machine; in a network where nobody else listens, add --insecure-http",
        )
    }

    pub(crate) fn new(server: &str, token_file: Option<PathBuf>) -> Self {
        let version = SETTINGS_VERSION;
        Self {
            version,
            server: server.to_owned(),
            token_file,
            credential: None,
            cache_size: None,
            device: None,
            user: None,
            insecure_http: false,
            folders: Vec::new(),
            own_rules: BTreeSet::new(),
        }
    }

    /// Writes the settings into a replica's directory, completely or not at all.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let what = || format!("cannot write {}", directory.join(SETTINGS_FILE).display());
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(Failure::io(what()))?;
        let json = serde_json::to_vec_pretty(self).map_err(|e| Failure::failed(e.to_string()))?;
        if json.len() as u64 > MAX_SMALL_FILE_BYTES {
            let text = format!("{}: more than {MAX_SMALL_FILE_BYTES} bytes", what());
            return Err(Failure::failed(text).hint("keep fewer directories in step"));
        }
        file.write_all(&json).map_err(Failure::io(what()))?;
        file.as_file().sync_all().map_err(Failure::io(what()))?;
        file.persist(directory.join(SETTINGS_FILE))
            .map_err(|error| Failure::io(what())(error.error))?;
        // Without it a power failure may bring the earlier settings back.
        let opened = std::fs::File::open(directory);
        opened.and_then(|directory| directory.sync_all()).map_err(Failure::io(what()))
    }
}

/// Returns the directory of the replica, which may not exist yet.
pub(crate) fn directory(global: &Global) -> Result<PathBuf> {
    if let Some(given) = &global.replica {
        if given.as_os_str().is_empty() {
            return Err(Failure::usage("the replica's directory is empty: see --replica"));
        }
        return Ok(given.clone());
    }
    let base = match std::env::var_os("XDG_DATA_HOME").map(PathBuf::from) {
        // The specification says to ignore what is not absolute.
        Some(base) if base.is_absolute() => base,
        _ => std::env::home_dir()
            .filter(|home| home.is_absolute())
            .map(|home| home.join(".local/share"))
            .ok_or_else(|| {
                Failure::usage("there is no home directory for the replica")
                    .hint("name a directory with --replica or VFS_SYNC_REPLICA")
            })?,
    };
    Ok(base.join("vfs-sync/replica"))
}

/// Opens the replica; the user's options take precedence over `config`. If `up` has it open, waits
/// until it gives it away.
pub(crate) fn open(global: &Global, config: ClientConfig) -> Result<SyncClient> {
    handoff::open(&directory(global)?, opener(global, config)?)
}

/// Returns a function that opens the replica, unless another process has it open.
pub(crate) fn opener(
    global: &Global,
    config: ClientConfig,
) -> Result<impl Fn() -> Result<SyncClient, ClientError>> {
    let directory = directory(global)?;
    let mut settings = read_settings(&directory)?;
    settings.insecure_http |= global.insecure_http;
    let transport = transport(&settings)?;
    let config = ClientConfig {
        transfers: global.transfers.map_or(config.transfers, usize::from),
        cache_size: match global.cache_size.or(settings.cache_size) {
            Some(u64::MAX) => None,
            chosen => chosen.or(config.cache_size),
        },
        device: config.device.or(settings.device).or_else(host_name),
        report: config.report && !global.no_report,
        ..config
    };
    Ok(move || SyncClient::builder(transport.clone()).config(config.clone()).open(&directory))
}

/// Returns the user of the replica. Its settings name the user, so that this works while another
/// command uses the replica.
pub(crate) fn owner(global: &Global) -> Result<UserId> {
    match read_settings(&directory(global)?)?.user {
        Some(user) => Ok(user),
        None => Ok(open(global, config())?.user()),
    }
}

/// Returns the client configuration of all commands.
pub(crate) fn config() -> ClientConfig {
    ClientConfig { rematerialise: true, ..ClientConfig::default() }
}

/// The replica that `init` is to create.
struct Plan {
    directory: PathBuf,
    settings: Settings,
    user: UserId,
    transport: Arc<dyn Transport>,
}

fn plan(global: &Global, init: &Init) -> Result<Plan> {
    let directory = directory(global)?;
    let token_file = match &init.token_file {
        Some(file) => Some(std::path::absolute(file).map_err(Failure::io("--token-file"))?),
        None => None,
    };
    if let (Some(file), Some(token)) = (&token_file, token_variable()) {
        let what = format!("--token-file: cannot read {}", file.display());
        if read_bounded(file).map_err(Failure::io(what))?.trim() != token.trim() {
            let text = format!("{TOKEN_VARIABLE} is set to another token than --token-file names");
            return Err(Failure::usage(text).hint(format!(
                "the variable goes before the file: `unset {TOKEN_VARIABLE}`, or leave out --token-file"
            )));
        }
    }
    let mut settings = Settings::new(init.server.trim_end_matches('/'), token_file);
    settings.cache_size = global.cache_size;
    settings.insecure_http = global.insecure_http;
    settings.device = init.device.clone().or_else(host_name);
    let user = user(init, &settings)?;
    settings.user = Some(user.clone());
    let transport = transport(&settings)?;
    Ok(Plan { directory, settings, user, transport })
}

/// Returns the text of [`TOKEN_VARIABLE`]; without one in it the variable counts as not set.
fn token_variable() -> Option<String> {
    std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.trim().is_empty())
}

/// Creates a replica as `init` requests, with a new client id.
pub(crate) fn create(global: &Global, init: &Init) -> Result<SyncClient> {
    let Plan { directory, settings, user, transport } = plan(global, init)?;
    let server = &settings.server;
    let client =
        SyncClient::builder(transport).server(server).config(config()).create(&directory, user)?;
    settings.write(&directory)?;
    Ok(client)
}

/// Creates a replica for a device that has signed in, with the client id of its credential.
pub(crate) fn create_signed_in(
    directory: &Path,
    settings: &Settings,
    client_id: ReplicaId,
    user: UserId,
) -> Result<()> {
    let settings = Settings { user: Some(user.clone()), ..settings.clone() };
    let transport = transport(&settings)?;
    let builder = SyncClient::builder(transport).server(&settings.server).config(config());
    let _client = builder.client_id(client_id).create(directory, user)?;
    settings.write(directory)
}

/// Creates a replica from an exported state as `init` requests, or leaves the directory unchanged.
pub(crate) fn hydrate(
    global: &Global,
    init: &Init,
    client_id: ReplicaId,
    state: impl Read,
) -> Result<HydrateOutcome> {
    let Plan { directory, settings, user, transport } = plan(global, init)?;
    let (_client, outcome) = SyncClient::builder(transport)
        .server(&settings.server)
        .config(config())
        .client_id(client_id)
        .hydrate(&directory, user, state)?;
    settings.write(&directory)?;
    Ok(outcome)
}

/// Returns the name of this machine, without its domain.
pub(crate) fn host_name() -> Option<String> {
    let system = rustix::system::uname();
    let name = system.nodename().to_str().ok()?;
    let name = name.split('.').next().unwrap_or(name).trim();
    (!name.is_empty()).then(|| name.to_owned())
}

fn user(init: &Init, settings: &Settings) -> Result<UserId> {
    let named = match &init.user {
        Some(user) => user.clone(),
        None => {
            let token = Tokens::of(settings).read().map_err(|reason| {
                Failure::new(Kind::Usage, format!("cannot determine the user: {reason}")).hint(format!(
                    "set {TOKEN_VARIABLE}, or name the token's file with --token-file, or the user \
                     with --user"
                ))
            })?;
            token_subject(&token).ok_or_else(|| {
                Failure::new(Kind::Auth, "the token is not a JWT with a subject")
                    .hint("create one with `vfs-sync token`, or name the user with --user")
            })?
        }
    };
    UserId::new(&named).map_err(|reason| Failure::usage(format!("the user's name {reason}")))
}

fn transport(settings: &Settings) -> Result<Arc<dyn Transport>> {
    Ok(Arc::new(http(settings, HttpConfig::new(&settings.server))?))
}

/// Creates a transport to the server of the settings, with their token.
pub(crate) fn http(settings: &Settings, mut config: HttpConfig) -> Result<HttpTransport> {
    config.insecure_http = settings.insecure_http;
    let credential = match &settings.credential {
        Some(file) => {
            let device = settings.device.clone().or_else(host_name);
            let opened = CredentialFile::new(file, config.clone(), device);
            Some(opened.map_err(|error| settings.wrong_address(&error))?)
        }
        None => None,
    };
    HttpTransport::new(config, Bearer { tokens: Tokens::of(settings), credential })
        .map_err(|error| settings.wrong_address(&error))
}

/// Connects to a server for calls that need no replica: the named one, or the replica's.
pub(crate) fn server(
    global: &Global,
    url: Option<&str>,
    token_file: Option<PathBuf>,
    patience: Option<Duration>,
) -> Result<HttpTransport> {
    let settings = match url {
        Some(url) => Settings::new(url.trim_end_matches('/'), token_file),
        None => {
            let settings = read_settings(&directory(global)?).map_err(|failure| {
                failure.hint("name the server with --server, or a replica with --replica")
            })?;
            match token_file {
                Some(named) => Settings { token_file: Some(named), credential: None, ..settings },
                None => settings,
            }
        }
    };
    let mut settings = settings;
    settings.insecure_http |= global.insecure_http;
    let mut config = HttpConfig::new(&settings.server);
    if let Some(patience) = patience {
        (config.connect_timeout, config.request_timeout) = (patience, patience);
    }
    http(&settings, config)
}

fn no_replica(directory: &Path) -> Failure {
    Failure::new(Kind::NotFound, format!("there is no replica in {}", directory.display())).hint(
        "create one with `vfs-sync init --server URL`, or name another directory with --replica",
    )
}

/// Reads the settings of the replica in `directory`.
pub(crate) fn read_settings(directory: &Path) -> Result<Settings> {
    let path = directory.join(SETTINGS_FILE);
    let text = match read_bounded(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(no_replica(directory));
        }
        Err(error) => return Err(Failure::io(format!("cannot read {}", path.display()))(error)),
    };
    let corrupt = |reason: String| {
        Failure::new(Kind::Corrupt, format!("{}: {reason}", path.display()))
            .hint("repair the file: {\"version\":1,\"server\":\"http://…\",\"tokenFile\":\"…\"}")
    };
    let mut settings: Settings =
        serde_json::from_str(&text).map_err(|error| corrupt(error.to_string()))?;
    if settings.version != SETTINGS_VERSION {
        return Err(corrupt(format!("version {} is unknown", settings.version))
            .hint("use a newer vfs-sync"));
    }
    settings.credential = Some(directory.join(CREDENTIAL_FILE));
    Ok(settings)
}

/// Returns the folders of the tree that are excluded from `directory`.
pub(crate) fn excluded_from(replica: &Path, directory: &Path) -> Result<BTreeSet<ItemId>> {
    let settings = read_settings(replica)?;
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let of_it = settings.folders.into_iter().filter(|one| one.directory == directory);
    Ok(of_it.flat_map(|one| one.excluded).collect())
}

/// Adds the digest of rules that were written on this device to the replica's settings. The set is
/// bounded: the greatest digests go first, and their rules have to be saved again to count.
fn remember_rules(directory: &Path, digest: &str) -> Result<()> {
    let mut settings = read_settings(directory)?;
    while settings.own_rules.len() >= MAX_OWN_RULES {
        settings.own_rules.pop_last();
    }
    settings.own_rules.insert(digest.to_owned());
    settings.write(directory)
}

/// Reads a small file, at most [`MAX_SMALL_FILE_BYTES`], without waiting for a writer.
pub(crate) fn read_bounded(path: &Path) -> std::io::Result<String> {
    let meta = std::fs::metadata(path)?;
    if meta.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_SMALL_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_SMALL_FILE_BYTES {
        return Err(std::io::Error::other(format!(
            "it has more than {MAX_SMALL_FILE_BYTES} bytes"
        )));
    }
    Ok(text)
}

/// The token from the environment, the device's credential, or its file, each read again for each
/// call.
struct Tokens {
    file: Option<PathBuf>,
    credential: Option<PathBuf>,
}

impl Tokens {
    fn of(settings: &Settings) -> Self {
        let (file, credential) = (settings.token_file.clone(), settings.credential.clone());
        Self { file, credential }
    }

    /// Returns whether the device's credential is the place of the token.
    fn is_of_credential(&self) -> bool {
        token_variable().is_none() && self.credential.as_ref().is_some_and(|file| file.exists())
    }

    fn read(&self) -> Result<String, String> {
        self.read_from().map(|(token, _)| token)
    }

    fn read_from(&self) -> Result<(String, TokenPlace), String> {
        let credential = self.credential.as_ref().filter(|_| self.is_of_credential());
        let (token, place) = match token_variable() {
            Some(token) => (token, TokenPlace::Variable),
            _ if let Some(file) = credential => {
                (CredentialState::read(file)?.access_token, TokenPlace::Credential(file.clone()))
            }
            _ => match &self.file {
                Some(file) => {
                    let text = read_bounded(file)
                        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
                    (text, TokenPlace::File(file.clone()))
                }
                None => {
                    return Err(format!(
                        "no token: {TOKEN_VARIABLE} is not set, and this device is not signed in"
                    ));
                }
            },
        };
        let token = token.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            let place = match &place {
                TokenPlace::Variable => TOKEN_VARIABLE.to_owned(),
                TokenPlace::File(file) | TokenPlace::Credential(file) => file.display().to_string(),
            };
            return Err(format!("{place} has no token in it"));
        }
        Ok((token.to_owned(), place))
    }
}

/// The source of the tokens of a transport.
struct Bearer {
    tokens: Tokens,
    credential: Option<CredentialFile>,
}

#[async_trait]
impl TokenProvider for Bearer {
    async fn token(&self, refresh: bool) -> Result<String, String> {
        self.provide(refresh).await.map_err(|error| error.to_string())
    }

    async fn provide(&self, refresh: bool) -> Result<String, TransportError> {
        match &self.credential {
            Some(credential) if self.tokens.is_of_credential() => credential.provide(refresh).await,
            _ => self.tokens.read().map_err(TransportError::Unauthorized),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_without_an_end_is_refused() {
        for endless in ["/dev/zero", "/dev"] {
            let tokens = Tokens { file: Some(endless.into()), credential: None };
            assert!(tokens.read().unwrap_err().starts_with("cannot read /dev"), "{endless}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge");
        std::fs::write(&path, "x".repeat(MAX_SMALL_FILE_BYTES as usize + 1)).unwrap();
        let reason = Tokens { file: Some(path), credential: None }.read().unwrap_err();
        assert!(reason.contains("more than"), "{reason}");
    }

    #[test]
    fn settings_of_earlier_versions_open_and_too_many_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SETTINGS_FILE);
        let text =
            r#"{"version":1,"server":"http://s","folders":[{"directory":"/d","joined":true}]}"#;
        std::fs::write(&path, text).unwrap();
        let mut settings = read_settings(dir.path()).unwrap();
        let joined = LiveFolder { joined: true, ..LiveFolder::new("/d".into(), None) };
        assert_eq!(settings.folders, [joined]);
        let long = format!("/{}", "x".repeat(4_000));
        settings.folders = vec![LiveFolder::new(long.into(), None); 20];
        assert!(settings.write(dir.path()).unwrap_err().message.contains("more than"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "they stay as they are");
    }

    #[test]
    fn settings_are_checked_field_by_field() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_settings(dir.path()).unwrap_err().kind, Kind::NotFound);
        let path = dir.path().join(SETTINGS_FILE);
        for (text, named) in [
            ("", "EOF"),
            ("{}", "version"),
            (r#"{"version":1}"#, "server"),
            (r#"{"version":9,"server":"http://x"}"#, "version 9"),
        ] {
            std::fs::write(&path, text).unwrap();
            let failure = read_settings(dir.path()).unwrap_err();
            assert_eq!(failure.kind, Kind::Corrupt);
            assert!(failure.message.contains(named), "{}", failure.message);
        }
        let settings = Settings::new("http://h", Some("/t".into()));
        settings.write(dir.path()).unwrap();
        let credential = Some(dir.path().join(CREDENTIAL_FILE));
        assert_eq!(read_settings(dir.path()).unwrap(), Settings { credential, ..settings });
    }
}
