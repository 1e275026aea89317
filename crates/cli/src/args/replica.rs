//! The arguments of commands on the replica itself.

use std::path::PathBuf;

use clap::{Args, Subcommand};

pub(super) const INIT: &str = "\
The user is read from the token (VFS_SYNC_TOKEN, or the file of --token-file), without the server.
The token's file is read again whenever a token is needed, so that another program may renew it.

Examples:
  vfs-sync init --server https://files.example.org --token-file ~/.config/vfs-sync/token
  VFS_SYNC_TOKEN=… vfs-sync --replica ./laptop init --server http://127.0.0.1:7070";

pub(super) const SYNC: &str = "\
Pushes queued operations, pulls the changes of others, uploads contents. With --watch it continues
until Ctrl-C, backs off while the server is unreachable, and prints changes (with --json a document on
each line). A guardrail violation stops it at once, with exit code 3.

Examples:
  vfs-sync sync
  vfs-sync sync --watch
  vfs-sync --json sync | jq .pulled";

pub(super) const STATE: &str = "\
Examples:
  vfs-sync state export > state.json
  vfs-sync state export --redact > report.json     # names as digests, for a bug report
  vfs-sync --replica ./fresh state hydrate state.json --server http://127.0.0.1:7070";

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The server's address: http:// or https://, host and port
    #[arg(long, value_name = "URL")]
    pub(crate) server: String,
    /// The file with the token, which is read again whenever a token is needed
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Your user name, if there is no token yet to read it from
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// The device's name in conflicted copies [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Sync {
    /// Keep synchronising until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
    /// Stop if the server requires rematerialisation, instead of rematerialising
    #[arg(long)]
    pub(crate) no_rematerialise: bool,
    /// The interval at which --watch polls the server, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, requires = "watch",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) interval: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Query the server for its state of this replica
    #[arg(long)]
    pub(crate) server: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Limit {
    /// The greatest number of entries to list
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Rejected {
    #[command(subcommand)]
    pub(crate) action: Option<RejectedAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RejectedAction {
    /// List rejected operations and contents, oldest first
    List(Limit),
    /// Queue rejected operations and contents again under new ids
    Retry(Which),
    /// Discard rejected operations and contents for good, with their bytes
    Discard(Discard),
}

#[derive(Debug, Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Confirm that --all discards all of them
    #[arg(long, requires = "all")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Recover {
    /// Restore the lost grants; the next `sync` sends them
    #[arg(long)]
    pub(crate) grants: bool,
    #[command(subcommand)]
    pub(crate) action: Option<RecoverAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecoverAction {
    /// List the lost changes, oldest first
    #[command(after_help = "Examples:\n  vfs-sync recover list")]
    List(Limit),
    /// Discard lost changes, with the bytes that are kept for them
    #[command(
        after_help = "Examples:\n  vfs-sync recover discard 3\n  vfs-sync recover discard --all"
    )]
    Discard {
        /// The numbers of the entries
        #[arg(value_name = "NUMBER", required_unless_present = "all", conflicts_with = "all")]
        numbers: Vec<i64>,
        /// Select all listed entries
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The ids of operations, or the blob ids of contents
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ids: Vec<String>,
    /// Select all listed entries
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum State {
    /// Export the whole state of the replica except the contents, as canonical JSON
    #[command(
        after_help = "Examples:\n  vfs-sync state export > state.json\n  vfs-sync state export --redact > report.json"
    )]
    Export {
        /// The output file; standard output without it
        file: Option<PathBuf>,
        /// Replace names and metadata by digests. The result cannot be hydrated
        #[arg(long)]
        redact: bool,
    },
    /// Create a replica from an exported state, with the same client id
    #[command(
        after_help = "Two replicas with one client id must never run at the same time.\n\nExamples:\n  vfs-sync --replica ./fresh state hydrate state.json --server http://127.0.0.1:7070 --token-file token"
    )]
    Hydrate {
        /// The path of the file
        file: PathBuf,
        #[command(flatten)]
        init: Init,
    },
}
