//! The command line and its help texts.

mod sharing;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use vfs_sync_core::cursor::Epoch;

pub(crate) use sharing::{
    Block, Group, GroupAction, Share, Shares, SharesAction, Unblock, Unshare,
};

const TOP: &str = "\
A first try in one command (a server, two replicas, edits on both sides, identical in the end):
  vfs-sync demo ~/some/folder

By hand:
  export VFS_SYNC_JWT_SECRET=$(openssl rand -hex 32)
  vfs-sync serve --listen 127.0.0.1:7070 --data ./server &
  vfs-sync token --user alice --ttl 30d > token && chmod 600 token
  vfs-sync init --server http://127.0.0.1:7070 --token-file token
  vfs-sync import ~/some/folder && vfs-sync sync

Exit codes: 0 done · 1 failed · 2 wrong usage · 3 stopped by a guardrail · 4 the server cannot be
reached or rejects the token · 5 done except for reported problems · 130 interrupted";

/// A local-first virtual file system: replicas that are read and edited offline, and converge
/// through a server.
#[derive(Debug, Parser)]
#[command(name = "vfs-sync", version, after_help = TOP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The replica's directory [default: vfs-sync/replica in the XDG data directory]
    #[arg(
        long,
        global = true,
        env = "VFS_SYNC_REPLICA",
        value_name = "DIR",
        hide_env_values = true
    )]
    pub(crate) replica: Option<PathBuf>,
    /// Print results as JSON: one document, or a document on each line where the help says so
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print only the requested result, and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// The number of contents that are uploaded, or downloaded, at a time: 1 to 64 [default: 4]
    #[arg(
        long,
        global = true,
        env = "VFS_SYNC_TRANSFERS",
        value_name = "N",
        hide_env_values = true,
        value_parser = clap::value_parser!(u8).range(1..=64)
    )]
    pub(crate) transfers: Option<u8>,
    /// The limit of the content cache on this machine, such as 500MiB or unlimited; `init` saves it
    /// for the replica [default: 10GiB]
    #[arg(
        long,
        global = true,
        env = "VFS_SYNC_CACHE_SIZE",
        value_name = "SIZE",
        hide_env_values = true,
        value_parser = parse_size
    )]
    pub(crate) cache_size: Option<u64>,
}

/// Parses a size in bytes; the greatest number means no limit.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "must be a number with B, KiB, MiB, GiB or TiB, or unlimited".to_owned();
    if text == "unlimited" {
        return Ok(u64::MAX);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match text[digits..].trim() {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(|| "is too large: use unlimited".to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a vfs-sync server
    #[command(after_help = SERVE)]
    Serve(Serve),
    /// Create a token with the server's secret, for a first try or a script
    #[command(after_help = TOKEN)]
    Token(Token),
    /// Create a replica of a user's tree on this machine
    #[command(after_help = INIT)]
    Init(Init),
    /// Import a directory into the replica; again, only its changes
    #[command(after_help = IMPORT)]
    Import(Import),
    /// Write the replica's tree to a directory
    #[command(after_help = EXPORT)]
    Export(Export),
    /// List the entries of a folder
    #[command(
        after_help = "A path of your own tree begins with `/`. Items of others have paths of their own: `shared:` lists the users who\nshare something, `shared:alice` what alice shares.\n\nExamples:\n  vfs-sync ls\n  vfs-sync ls shared:\n  vfs-sync ls -l /photos/2024\n  vfs-sync --json ls / | jq -r '.entries[].name'"
    )]
    Ls(Ls),
    /// Show the items under a folder
    #[command(
        after_help = "Examples:\n  vfs-sync tree --depth 2\n  vfs-sync tree /photos\n  vfs-sync tree shared:alice"
    )]
    Tree(Tree),
    /// Show all properties of one item
    #[command(
        after_help = "Examples:\n  vfs-sync stat /photos/beach.jpg\n  vfs-sync --json stat /photos | jq .id"
    )]
    Stat(OnePath),
    /// Print a file's content
    #[command(
        after_help = "On a terminal, control characters are shown as escapes; --raw prints the bytes unescaped.\n\nExamples:\n  vfs-sync cat /notes/todo.txt\n  vfs-sync cat /photos/beach.jpg > beach.jpg"
    )]
    Cat(Cat),
    /// Put a local file into the tree
    #[command(
        after_help = "Examples:\n  vfs-sync put report.pdf /documents/report.pdf\n  vfs-sync put report.pdf /documents        # into the folder\n  date | vfs-sync put - /notes/now.txt"
    )]
    Put(Put),
    /// Write a file of the tree to a local one
    #[command(
        after_help = "Examples:\n  vfs-sync get /documents/report.pdf\n  vfs-sync get /documents/report.pdf ./copy.pdf --force\n  vfs-sync get /notes/now.txt -\n  vfs-sync get /documents/report.pdf ./before.pdf --version 2"
    )]
    Get(Get),
    /// List the current and earlier contents of a file
    #[command(
        after_help = "Number 1 is the current content, 2 the one before it; the numbers shift with each new content,\nthe ids stay. Needs the server.\n\nExamples:\n  vfs-sync versions /documents/report.pdf\n  vfs-sync --json versions /documents/report.pdf | jq -r '.versions[].attachedAt'\n  vfs-sync get /documents/report.pdf ./before.pdf --version 2"
    )]
    Versions(OnePath),
    /// Create one or more folders
    #[command(
        after_help = "Examples:\n  vfs-sync mkdir /photos\n  vfs-sync mkdir -p /photos/2024/summer"
    )]
    Mkdir(Mkdir),
    /// Move or rename an item
    #[command(
        after_help = "Moves into TO if that is a folder, else to the path TO; nothing is replaced. Between the trees of two\nowners, as from your own to one that is shared with you, it copies and deletes, and says so; the copy\nhas the access of its new place.\n\nExamples:\n  vfs-sync mv /draft.txt /final.txt\n  vfs-sync mv /final.txt /documents"
    )]
    Mv(FromTo),
    /// Copy an item, a folder with all that is in it
    #[command(
        after_help = "Copies into TO if that is a folder, else to the path TO; nothing is replaced.\nContents that are not on this machine are downloaded first.\n\nExamples:\n  vfs-sync cp /photos/2024 /backup"
    )]
    Cp(FromTo),
    /// Delete items from the tree
    #[command(
        after_help = "A shortcut into another owner's tree is removed from its folder; its target stays.\nItems that another device changed, and this one has not seen, are kept: `sync` reports them. --force deletes\nthem too.\n\nExamples:\n  vfs-sync rm /notes/old.txt\n  vfs-sync rm -r /photos/2019"
    )]
    Rm(Rm),
    /// Add an item to one more folder
    #[command(
        after_help = "The item is then in both places; `rm` deletes it from both, `ln --remove` removes it from one. In a\nfolder of another owner's tree it is a shortcut, which gives nobody access.\n\nExamples:\n  vfs-sync ln /photos/beach.jpg /albums/best\n  vfs-sync ln --remove /photos/beach.jpg /albums/best"
    )]
    Ln(Ln),
    /// List deleted items, restore them, or remove them permanently
    #[command(
        after_help = "A deleted item stays in the trash for 30 days, or as long as the server is configured to, with its\ncontents; both count against the owner's quota. Needs the server.\n\nExamples:\n  vfs-sync trash\n  vfs-sync trash restore /documents/report.pdf\n  vfs-sync trash empty /documents/old --yes\n  vfs-sync trash empty --yes"
    )]
    Trash(Trash),
    /// Grant a user or group access to an item
    #[command(after_help = sharing::SHARE)]
    Share(Share),
    /// Revoke a grant on an item
    #[command(after_help = sharing::UNSHARE)]
    Unshare(Unshare),
    /// Show who has access to which items
    #[command(after_help = sharing::SHARES)]
    Shares(Shares),
    /// List the items that others share with you, with their paths
    #[command(
        after_help = "What alice shares is at `shared:alice/NAME`, not in your own tree. `vfs-sync shares decline PATH` leaves a\nshare; `vfs-sync ln PATH FOLDER` adds a shortcut to it in a folder of yours.\n\nExamples:\n  vfs-sync shared-with-me\n  vfs-sync --json shared-with-me | jq -r '.entries[].owner'"
    )]
    SharedWithMe,
    /// Hide everything that a user shares, or list blocked users
    #[command(after_help = sharing::BLOCK)]
    Block(Block),
    /// Show again what a blocked user shares
    #[command(after_help = sharing::BLOCK)]
    Unblock(Unblock),
    /// Manage groups and organizations, as an administrator
    #[command(after_help = sharing::GROUP)]
    Group(Group),
    /// Exchange changes with the server
    #[command(after_help = SYNC)]
    Sync(Sync),
    /// Show the state of the replica
    #[command(
        after_help = "Examples:\n  vfs-sync status\n  vfs-sync status --server        # and what the server knows of this replica\n  vfs-sync --json status | jq .pending"
    )]
    Status(Status),
    /// List the operations that wait for the server
    #[command(after_help = "Examples:\n  vfs-sync queue --limit 20")]
    Queue(Limit),
    /// List, retry or discard operations that the server rejected
    #[command(
        after_help = "Examples:\n  vfs-sync rejected\n  vfs-sync rejected retry 0193a1c2-…\n  vfs-sync rejected discard --all"
    )]
    Rejected(Rejected),
    /// List changes that a restored server lost and this replica could not offer again, or act on
    /// them
    #[command(
        after_help = "`sync` offers a restored server the changes that it lost. This lists the changes that `sync` cannot\noffer: grants, which only you can restore, and changes that this device may not write or has no\nbytes of. An entry disappears once another device has restored the change.\n\nExamples:\n  vfs-sync recover\n  vfs-sync recover --grants\n  vfs-sync recover discard --all"
    )]
    Recover(Recover),
    /// Export the replica's state to a file, or create a replica from one
    #[command(subcommand, after_help = STATE)]
    State(State),
    /// Rebuild the replica from the server's state; queued operations are kept
    #[command(
        after_help = "Needed where the server requires it (`sync` does it once by itself), and as a remedy.\n\nExamples:\n  vfs-sync rematerialise"
    )]
    Rematerialise,
    /// Maintain a server, as its operator
    #[command(subcommand)]
    Admin(Admin),
    /// Maintain the contents in a server's object store, as its operator
    #[command(subcommand)]
    Blobs(Blobs),
    /// Migrate a server's database to this version's schema (`serve` does it at start)
    #[command(
        after_help = "Examples:\n  vfs-sync migrate --data /var/lib/vfs-sync\n  VFS_SYNC_DATABASE_URL=postgres://vfs@localhost/vfs vfs-sync migrate"
    )]
    Migrate(Database),
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  vfs-sync completions bash > ~/.local/share/bash-completion/completions/vfs-sync\n  vfs-sync completions zsh > \"${fpath[1]}/_vfs-sync\""
    )]
    Completions(Completions),
    /// Demonstrate a server and two replicas: edits on both sides, identical in the end
    #[command(after_help = DEMO)]
    Demo(Demo),
}

const SERVE: &str = "\
Configured by the environment (see docs/install.md): VFS_SYNC_JWT_SECRET, or its file in
VFS_SYNC_JWT_SECRET_FILE, or a public key or JWKS; VFS_SYNC_DATABASE_URL for PostgreSQL, else SQLite
in --data. Port 0 picks a free port; the address is printed. SIGTERM and Ctrl-C stop the server
gracefully. With --json it prints a document on a line for each event, and logs as JSON.

Examples:
  export VFS_SYNC_JWT_SECRET=$(openssl rand -hex 32)
  vfs-sync serve --listen 127.0.0.1:7070 --data /var/lib/vfs-sync
  vfs-sync serve --listen 0.0.0.0:7070 --data ./data --admin-listen 127.0.0.1:7071";

const TOKEN: &str = "\
The secret is read from VFS_SYNC_JWT_SECRET or the file named by VFS_SYNC_JWT_SECRET_FILE, never
from an argument, which other users of the machine can read.

Examples:
  vfs-sync token --user alice > token && chmod 600 token
  vfs-sync token --user root --scope vfs:admin --ttl 15m";

const INIT: &str = "\
The user is read from the token (VFS_SYNC_TOKEN, or the file of --token-file), without the server.
The token's file is read again whenever a token is needed, so that another program may renew it.

Examples:
  vfs-sync init --server https://files.example.org --token-file ~/.config/vfs-sync/token
  VFS_SYNC_TOKEN=… vfs-sync --replica ./laptop init --server http://127.0.0.1:7070";

const IMPORT: &str = "\
Imports the changes in DIR since it was last imported or exported into PATH (the top by default;
created if needed). The replica keeps a record of DIR: size, times, inode and digest of each entry.
An entry that is as recorded is not read and not edited, whatever the tree has. A file that both sides
changed is kept twice: DIR's as name (conflict DEVICE DATE).ext. A file or folder that was moved in
DIR is moved in the tree. Without a record files are compared by content. Nothing is deleted without
--delete, and with it only entries that were recorded. Symbolic links, special files and unreadable
entries are reported, and the exit code is then 5. Names that are not UTF-8 are escaped as %raw%…,
which an export reverts. The result is in the replica; `vfs-sync sync` sends it. Ctrl-C is safe: the
same command resumes.

Examples:
  vfs-sync import ~/Documents
  vfs-sync import ~/Pictures /photos --delete
  vfs-sync import --dry-run ~/Documents";

const EXPORT: &str = "\
Files get their modification time and permission bits. A file that is as it was imported or exported
is replaced by the tree's; one that was changed or created in DIR since is left alone and reported, or
with --force kept beside the tree's as name (conflict DEVICE DATE).ext; the exit code is 5. Identical
files are not touched. No symbolic link under DIR is followed. Contents that are not on this machine
are downloaded. To synchronise a directory: import --delete, sync, export --force --delete. Ctrl-C is
safe: the same command resumes.

Examples:
  vfs-sync export ./tree
  vfs-sync export ./photos /photos --force
  vfs-sync export ./theirs shared:bob/photos
  vfs-sync export ./mirror --force --delete --dry-run";

const SYNC: &str = "\
Pushes queued operations, pulls the changes of others, uploads contents. With --watch it continues
until Ctrl-C, backs off while the server is unreachable, and prints changes (with --json a document on
each line). A guardrail violation stops it at once, with exit code 3.

Examples:
  vfs-sync sync
  vfs-sync sync --watch
  vfs-sync --json sync | jq .pulled";

const STATE: &str = "\
Examples:
  vfs-sync state export > state.json
  vfs-sync state export --redact > report.json     # names as digests, for a bug report
  vfs-sync --replica ./fresh state hydrate state.json --server http://127.0.0.1:7070";

const DEMO: &str = "\
Without DIR a tree is generated: thousands of files, deep, with unusual names. DIR is only read. With
--json it prints a document on a line for each step, the last one with `identical`. The exit code is
0 only if both exports are identical.

Examples:
  vfs-sync demo
  vfs-sync demo ~/.cargo/registry/src
  vfs-sync demo --keep           # the server keeps running; the next steps are printed";

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
    /// The address of the metrics listener; none without it
    #[arg(long, value_name = "ADDR", env = "VFS_SYNC_ADMIN_LISTEN")]
    pub(crate) admin_listen: Option<SocketAddr>,
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
    /// The time for which earlier contents are kept beyond the latest ones: a number and s, m, h or
    /// d
    #[arg(long, value_name = "TIME", env = "VFS_SYNC_KEEP_VERSIONS", value_parser = parse_ttl)]
    pub(crate) keep_versions: Option<u64>,
    /// The time for which deleted items can be restored: a number and s, m, h or d
    #[arg(long, value_name = "TIME", env = "VFS_SYNC_KEEP_DELETED", value_parser = parse_ttl)]
    pub(crate) keep_deleted: Option<u64>,
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

/// Parses a number of bytes, optionally with K, M, G or T (of 1024).
fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong =
        || "must be a number of bytes, optionally with K, M, G or T, such as 500G".to_owned();
    let (digits, shift) = match text.chars().last() {
        Some('K' | 'k') => (&text[..text.len() - 1], 10),
        Some('M' | 'm') => (&text[..text.len() - 1], 20),
        Some('G' | 'g') => (&text[..text.len() - 1], 30),
        Some('T' | 't') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes <= i64::MAX as u64).ok_or_else(wrong)
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

/// Parses a lifetime into seconds.
fn parse_ttl(text: &str) -> Result<u64, String> {
    let wrong = || "must be a number with s, m, h or d, such as 30d".to_owned();
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    match number.checked_mul(unit) {
        Some(seconds) if (1..=10 * 366 * 86_400).contains(&seconds) => Ok(seconds),
        _ => Err("must be from 1s to ten years".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The server's address: http:// or https://, host and port
    #[arg(long, value_name = "URL")]
    pub(crate) server: String,
    /// The file with the token, which is read again whenever a token is needed
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Your user name, where there is no token to read it from yet
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// The device's name in conflicted copies [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The directory to import
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The folder of the tree to import into, created if needed
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// Delete in PATH what was imported from DIR or exported to it, is gone there, and did not
    /// change in the tree since; and replace a file by a folder or a folder by a file
    #[arg(long)]
    pub(crate) delete: bool,
    /// Delete also where more than half is gone (and at least 100 entries, or all), or where DIR is
    /// another directory than before
    #[arg(long, short, requires = "delete")]
    pub(crate) yes: bool,
    /// Read and compare all contents, also of files whose size, times and inode are as recorded
    #[arg(long)]
    pub(crate) checksum: bool,
    /// Change nothing, and list the changes that would be made
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The directory to export to, created if needed
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The folder of the tree to export
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// Write the tree's files also where others have their names: those are kept beside them, as
    /// name (conflict DEVICE DATE).ext
    #[arg(long)]
    pub(crate) force: bool,
    /// Remove from DIR what the tree no longer has, where it is as it was imported or exported;
    /// entries that were changed or created there since stay
    #[arg(long)]
    pub(crate) delete: bool,
    /// Remove also where the replica was rebuilt since, and more than half would go
    #[arg(long, short, requires = "delete")]
    pub(crate) yes: bool,
    /// Read and compare all contents, also of files whose size, times and inode are as recorded
    #[arg(long)]
    pub(crate) checksum: bool,
    /// Change nothing, and list the changes that would be made
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// The folder to list, or one item
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// List type, size, time, permissions, owner and your access level too
    #[arg(long, short)]
    pub(crate) long: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Tree {
    /// The path of the folder
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// The greatest depth to show
    #[arg(long, value_name = "N")]
    pub(crate) depth: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct OnePath {
    /// The path of the item
    pub(crate) path: String,
}

#[derive(Debug, Args)]
pub(crate) struct Cat {
    /// The path of the file
    pub(crate) path: String,
    /// Print the bytes unescaped, to a terminal too
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Put {
    /// The local file, or - for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The folder or the name in the tree; an existing file gets a new content
    pub(crate) path: String,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The path of the file in the tree
    pub(crate) path: String,
    /// The local file, or - for standard output [default: its own name, here]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Replace FILE if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// An earlier content, by its number or id as in `vfs-sync versions`
    #[arg(long, value_name = "ID|N")]
    pub(crate) version: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Mkdir {
    /// The paths of the folders
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
    /// Create missing parent folders, and accept existing folders
    #[arg(long, short)]
    pub(crate) parents: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FromTo {
    /// The path of the item
    pub(crate) from: String,
    /// The folder or the new path
    pub(crate) to: String,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// The path of the item
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
    /// Delete folders with all that is in them
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// Delete also what another device changed since this one last synchronised
    #[arg(long, short)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ln {
    /// The path of the item
    pub(crate) path: String,
    /// The path of the folder
    pub(crate) folder: String,
    /// Remove the item from the folder
    #[arg(long)]
    pub(crate) remove: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Sync {
    /// Keep synchronising until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
    /// Stop where the server requires rematerialisation, instead of doing it
    #[arg(long)]
    pub(crate) no_rematerialise: bool,
    /// The interval at which --watch polls the server, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, requires = "watch",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) interval: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Query the server for what it knows of this replica
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
pub(crate) struct Trash {
    #[command(subcommand)]
    pub(crate) action: Option<TrashAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrashAction {
    /// List deleted items, the newest deletion first
    #[command(after_help = "Examples:\n  vfs-sync trash list\n  vfs-sync --json trash list")]
    List,
    /// Restore deleted items, folders with what was deleted with them
    #[command(after_help = "Examples:\n  vfs-sync trash restore /thesis.txt")]
    Restore(TrashRestore),
    /// Remove deleted items permanently: their contents are freed, and they cannot be restored
    #[command(
        after_help = "Examples:\n  vfs-sync trash empty /old.iso\n  vfs-sync trash empty --yes"
    )]
    Empty(TrashEmpty),
}

#[derive(Debug, Args)]
pub(crate) struct TrashRestore {
    /// Their former paths (the newest deletion there), or their ids
    #[arg(value_name = "PATH|ID", required = true)]
    pub(crate) items: Vec<String>,
    /// Restore only these, without what was deleted with them
    #[arg(long)]
    pub(crate) only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TrashEmpty {
    /// Its former path (the newest deletion there), or its id; without it, everything of yours
    #[arg(value_name = "PATH|ID")]
    pub(crate) item: Option<String>,
    /// Confirm the removal: without this nothing is removed
    #[arg(long)]
    pub(crate) yes: bool,
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
    /// Queue them again under new ids
    Retry(Which),
    /// Discard them: rejected changes are lost then, contents with their bytes
    Discard(Discard),
}

#[derive(Debug, Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Confirm --all: discard all of them
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
    /// Export all that the replica knows except the contents, as canonical JSON
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
    /// Repair what another program wrote into the database
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
    /// Repair only this user's; without it all users'
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

#[derive(Debug, Args)]
pub(crate) struct Database {
    /// The server's directory, unless VFS_SYNC_DATABASE_URL is set
    #[arg(long, value_name = "DIR", env = "VFS_SYNC_DATA")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell to complete for
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// The directory to synchronise; generated without it
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the server running and the replicas in place, and print the next steps
    #[arg(long)]
    pub(crate) keep: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_with_examples() {
        fn check(command: &clap::Command, way: &str) {
            let way = format!("{way} {}", command.get_name());
            assert!(command.get_about().is_some(), "{way} says nothing of itself");
            if command.get_subcommands().next().is_none() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Examples:"), "{way} has no examples");
            }
            command.get_subcommands().for_each(|inner| check(inner, &way));
        }
        // Those under these two are in their own help.
        let mut command = Cli::command();
        for own in ["rejected", "group"] {
            command = command.mut_subcommand(own, |c| {
                let help = c.get_after_help().cloned().unwrap();
                clap::Command::new(own).about("x").after_help(help)
            });
        }
        command.get_subcommands().for_each(|inner| check(inner, ""));
    }

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert_eq!(parse_size("512 M"), Ok(512 << 20));
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("unlimited"), Ok(u64::MAX));
        for bad in ["", "GiB", "-1", "1.5GiB", "10gb", "99999999999T", "1é"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_to_live_is_a_number_and_a_unit() {
        assert_eq!(parse_ttl("30d"), Ok(2_592_000));
        assert_eq!(parse_ttl("15m"), Ok(900));
        for bad in ["", "d", "30", "-1d", "1.5h", "9999999999999999d", "0s", "1é"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }
}
