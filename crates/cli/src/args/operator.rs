//! The arguments of `serve`, `token`, `migrate`, `admin` and `blobs`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::limits::MAX_PUSH_OPERATIONS;

use super::devices::{AdminDevices, AdminUsers};
use super::diagnosis::AdminDoctor;
use super::limits::Limits;
use super::values::{Database, parse_bytes, parse_ttl};

pub(super) const SERVE: &str = "\
Configured by the environment (see docs/install.md): VFS_SYNC_JWT_SECRET, or its file in
VFS_SYNC_JWT_SECRET_FILE, or a public key or JWKS; VFS_SYNC_DATABASE_URL for PostgreSQL, else SQLite
in --data; VFS_SYNC_OIDC_ISSUER and VFS_SYNC_OIDC_CLIENT_ID for `vfs-sync login`. Port 0 picks a free port; the address is printed. SIGTERM and Ctrl-C stop the server
gracefully. With --json it prints a document on a line for each event, and logs as JSON.

Examples:
  export VFS_SYNC_JWT_SECRET=$(openssl rand -hex 32)
  vfs-sync serve --listen 127.0.0.1:7070 --data /var/lib/vfs-sync
  vfs-sync serve --listen 0.0.0.0:7070 --data ./data --admin-listen 127.0.0.1:7071
  vfs-sync serve --listen 0.0.0.0:443 --data ./data --tls-cert fullchain.pem --tls-key privkey.pem";

pub(super) const TOKEN: &str = "\
The secret is read from VFS_SYNC_JWT_SECRET or the file named by VFS_SYNC_JWT_SECRET_FILE, never
from an argument, which other users of the machine can read.

Examples:
  vfs-sync token --user alice > token && chmod 600 token
  vfs-sync token --user root --scope vfs:admin --ttl 15m";

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The address to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDR", env = "VFS_SYNC_LISTEN")]
    pub(crate) listen: SocketAddr,
    /// The directory of the server's database and contents
    #[arg(long, value_name = "DIR", env = "VFS_SYNC_DATA")]
    pub(crate) data: PathBuf,
    /// Start with an empty database beside the contents or the mark of another one
    #[arg(long)]
    pub(crate) new: bool,
    /// The address of the operator's listener, with metrics and the console; without it there is none
    #[arg(long, value_name = "ADDR", env = "VFS_SYNC_ADMIN_LISTEN")]
    pub(crate) admin_listen: Option<SocketAddr>,
    /// The collector of OpenTelemetry that gets traces, by OTLP over HTTP, under /v1/traces; without
    /// it there are none
    #[arg(long, value_name = "URL", env = "VFS_SYNC_OTLP_ENDPOINT", value_parser = parse_collector)]
    pub(crate) otlp_endpoint: Option<reqwest::Url>,
    /// The certificate that encrypts connections, with its chain, as a PEM file
    #[arg(long, value_name = "FILE", env = "VFS_SYNC_TLS_CERT", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of the certificate, as a PEM file
    #[arg(long, value_name = "FILE", env = "VFS_SYNC_TLS_KEY", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The URL at which clients reach the server behind a proxy: its path is prepended to every
    /// path
    #[arg(long, value_name = "URL", env = "VFS_SYNC_PUBLIC_URL", value_parser = parse_public_url)]
    pub(crate) public_url: Option<PublicPath>,
    /// The origins, separated by commas, whose pages may call the server from a browser
    #[arg(
        long,
        value_name = "ORIGINS",
        env = "VFS_SYNC_CORS_ORIGINS",
        value_delimiter = ',',
        value_parser = parse_origin
    )]
    pub(crate) cors_origins: Vec<String>,
    /// The names, separated by commas, at which the operator's console may be opened, besides
    /// addresses and localhost
    #[arg(
        long,
        value_name = "NAMES",
        env = "VFS_SYNC_ADMIN_HOSTS",
        value_delimiter = ',',
        value_parser = parse_host
    )]
    pub(crate) admin_hosts: Vec<String>,
    /// The greatest size of a user's contents in total
    #[arg(long, value_name = "BYTES", env = "VFS_SYNC_MAX_STORED_BYTES", value_parser = parse_bytes)]
    pub(crate) max_stored_bytes: Option<u64>,
    /// The greatest size of a user's contents that are uploaded and not yet attached
    #[arg(long, value_name = "BYTES", env = "VFS_SYNC_MAX_STAGED_BYTES", value_parser = parse_bytes)]
    pub(crate) max_staged_bytes: Option<u64>,
    /// The greatest number of open stages of a user
    #[arg(long, value_name = "N", env = "VFS_SYNC_MAX_OPEN_STAGES")]
    pub(crate) max_open_stages: Option<u64>,
    /// The greatest size of one content
    #[arg(long, value_name = "BYTES", env = "VFS_SYNC_MAX_BLOB_BYTES", value_parser = parse_bytes)]
    pub(crate) max_blob_bytes: Option<u64>,
    /// The greatest number of a user's items, deleted ones included
    #[arg(long, value_name = "N", env = "VFS_SYNC_MAX_ITEMS")]
    pub(crate) max_items: Option<u64>,
    /// The greatest number of links in a user's tree, removed ones included
    #[arg(long, value_name = "N", env = "VFS_SYNC_MAX_LINKS")]
    pub(crate) max_links: Option<u64>,
    /// The greatest number of grants on a user's items, removed ones included
    #[arg(long, value_name = "N", env = "VFS_SYNC_MAX_GRANTS")]
    pub(crate) max_grants: Option<u64>,
    /// The greatest size of the names, metadata and encrypted forms of a user's items in total
    #[arg(long, value_name = "BYTES", env = "VFS_SYNC_MAX_REGISTER_BYTES", value_parser = parse_bytes)]
    pub(crate) max_register_bytes: Option<u64>,
    /// The greatest number of a user's replicas
    #[arg(long, value_name = "N", env = "VFS_SYNC_MAX_REPLICAS")]
    pub(crate) max_replicas: Option<u64>,
    /// The number of a replica's latest operations whose results are kept for repetitions, at least
    /// those of one push
    #[arg(long, value_name = "N", env = "VFS_SYNC_KEEP_RESULTS",
        value_parser = clap::value_parser!(u64).range(MAX_PUSH_OPERATIONS as u64..))]
    pub(crate) keep_results: Option<u64>,
    /// The time for which earlier contents are kept beyond the latest ones: a number and s, m, h or
    /// d
    #[arg(long, value_name = "TIME", env = "VFS_SYNC_KEEP_VERSIONS", value_parser = parse_ttl)]
    pub(crate) keep_versions: Option<u64>,
    /// The time for which deleted items can be restored: a number and s, m, h or d
    #[arg(long, value_name = "TIME", env = "VFS_SYNC_KEEP_DELETED", value_parser = parse_ttl)]
    pub(crate) keep_deleted: Option<u64>,
    #[command(flatten)]
    pub(crate) limits: Limits,
}

/// The path of a public URL: empty, or segments with a leading slash each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicPath(pub(crate) String);

fn parse_public_url(text: &str) -> Result<PublicPath, String> {
    let wrong = || "must be http:// or https://, a host, and an optional path".to_owned();
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let (host, path) = rest.ok_or_else(wrong)?.split_once('/').unwrap_or((rest.unwrap_or(""), ""));
    let path = path.trim_end_matches('/');
    let plain = |segment: &str| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
    };
    if host.is_empty() || !(path.is_empty() || path.split('/').all(plain)) {
        return Err(wrong());
    }
    Ok(PublicPath(if path.is_empty() { String::new() } else { format!("/{path}") }))
}

fn parse_origin(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b);
    match rest {
        Some(rest) if !rest.is_empty() && rest.bytes().all(host) => Ok(text.to_owned()),
        _ => Err("must be http:// or https:// and a host, without a path".to_owned()),
    }
}

fn parse_collector(text: &str) -> Result<reqwest::Url, String> {
    let url = reqwest::Url::parse(text).ok();
    let is_base = |url: &reqwest::Url| {
        matches!(url.scheme(), "http" | "https") && url.query().or(url.fragment()).is_none()
    };
    url.filter(is_base).ok_or_else(|| {
        "must be http:// or https://, a host, a port, and an optional path".to_owned()
    })
}

fn parse_host(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
    match !text.is_empty() && text.len() <= 253 && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("must be the name of a host, without a port".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Token {
    /// The user of the token: its `sub`
    #[arg(long, value_name = "NAME")]
    pub(crate) user: String,
    /// The scopes of the token, separated by spaces
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Option<String>,
    /// The lifetime of the token: a number and s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_ttl)]
    pub(crate) ttl: u64,
}

#[derive(Debug, Args)]
pub(crate) struct NewEpoch {
    #[command(flatten)]
    pub(crate) database: Database,
    /// Begin an epoch after this one, which clients have seen
    #[arg(long, value_name = "EPOCH", value_parser = parse_epoch)]
    pub(crate) after: Option<Epoch>,
}

fn parse_epoch(text: &str) -> Result<Epoch, String> {
    let wrong = || "must be the number of an epoch, as in error messages".to_owned();
    text.parse().ok().and_then(Epoch::from_u64).ok_or_else(wrong)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Begin a new epoch, as a part of restoring a server from a backup
    #[command(
        after_help = "Each start of a server begins an epoch by itself, so this is needed only where a database was\nrestored under running servers. See docs/backup.md.\n\nExamples:\n  vfs-sync admin new-epoch --data /var/lib/vfs-sync"
    )]
    NewEpoch(NewEpoch),
    /// Replace the keys that sign the access tokens of devices, as after a leak of the database
    #[command(
        after_help = "A key is replaced every 30 days by itself. Whoever has read the database or a backup can make access\ntokens until then: this ends it within seconds on every server of the database, which may keep\nrunning. Devices that have signed in renew by themselves.\n\nExamples:\n  vfs-sync admin new-signing-key --data /var/lib/vfs-sync"
    )]
    NewSigningKey(Database),
    /// List users, limit, disable, enable, delete or export one
    #[command(after_help = super::devices::ADMIN_USERS)]
    Users(AdminUsers),
    /// List devices of all users or revoke one, over the server's API
    #[command(after_help = super::devices::ADMIN_DEVICES)]
    Devices(AdminDevices),
    /// Examine the server: its database, contents, background work, devices, keys and settings
    #[command(after_help = super::diagnosis::ADMIN_DOCTOR)]
    Doctor(AdminDoctor),
    /// Repair rows that another program wrote into the database
    #[command(subcommand)]
    Repair(Repair),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Repair {
    /// Remove malformed reconcile states: their clients store them again
    #[command(
        after_help = "A malformed row of `reconcile_state` is answered with 500 malformed_row, and an attach that depends\non it with 500 Failed to attach staged blob. These rows hold no user data: a client whose\nrow is removed reports again what it has applied, and its waiting uploads succeed. The server may\nkeep running. Lists the removed rows; --dry-run only lists them. See docs/en/vfs-sync-runbook.md.\n\nExamples:\n  vfs-sync admin repair reconcile-state --data /var/lib/vfs-sync --dry-run\n  vfs-sync admin repair reconcile-state --data /var/lib/vfs-sync --user alice"
    )]
    ReconcileState(RepairReconcileState),
}

#[derive(Debug, Args)]
pub(crate) struct RepairReconcileState {
    #[command(flatten)]
    pub(crate) database: Database,
    /// Repair only the states of this user, instead of those of all users
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// List malformed states and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Blobs {
    /// Compare the registry of contents with the object store, and repair differences
    #[command(
        after_help = "Lists registered contents that are not in the object store, and objects that are not\nregistered. The server may keep running. Exits with 5 if something remains to be repaired.\nThe object store is that of VFS_BLOB_S3_*, or the directory --data. See\ndocs/en/vfs-blob-persistence.md.\n\nExamples:\n  vfs-sync blobs check --data /var/lib/vfs-sync\n  vfs-sync --json blobs check --data /var/lib/vfs-sync --repair"
    )]
    Check(BlobsCheck),
}

#[derive(Debug, Args)]
pub(crate) struct BlobsCheck {
    #[command(flatten)]
    pub(crate) database: Database,
    /// Remove unregistered objects, and end stages and old versions without bytes
    #[arg(long)]
    pub(crate) repair: bool,
    /// Read every content and compare its bytes with its digest, which finds corrupted ones
    #[arg(long)]
    pub(crate) digests: bool,
    /// Skip objects that were written more recently: a number and s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_age)]
    pub(crate) older_than: u64,
}

/// Parses an age into seconds, which may be 0.
fn parse_age(text: &str) -> Result<u64, String> {
    if matches!(text, "0" | "0s") { Ok(0) } else { parse_ttl(text) }
}
