//! The arguments of `up` and `folder`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::replica::Init;

pub(super) const UP: &str = "\
Keeps DIR and PATH in step until Ctrl-C: a file that any program saves in DIR is sent once it is
quiet for half a second, and what other devices save appears in DIR. Works offline: changes are
queued and sent later. Without a replica --server is required, and one is created first. Without DIR
it keeps the directories in step that it was given before. Nothing saved is lost: if both sides
changed a file, both are kept, one as name (conflict DEVICE DATE).ext. An entry is deleted elsewhere
once it was missing for two seconds; if more than half of the entries (and at least 100, or all) are
gone, the deletions wait for your confirmation. What a .vfsignore in DIR names, in the syntax of
.gitignore, stays out. Other commands work on the replica meanwhile. With --json it prints a
document on each line. Ends with exit code 5 if something is left undone.

Examples:
  vfs-sync up ~/Documents --server https://files.example.org --token-file ~/.config/vfs-sync/token
  vfs-sync up ~/theirs shared:bob/photos
  vfs-sync up
  vfs-sync up --once                       # once, for a script or timer";

pub(super) const FOLDER: &str = "\
Examples:
  vfs-sync folder add ~/Pictures /photos
  vfs-sync folder list
  vfs-sync folder remove ~/Pictures";

#[derive(Debug, Default, Args)]
pub(crate) struct Up {
    /// The directory to keep in step, created if needed
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The folder of the tree to keep it in step with, created if needed
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// The server's address, if there is no replica yet: http:// or https://, host and port
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// The file with the token, for a new replica; it is read again whenever a token is needed
    #[arg(long, value_name = "FILE", requires = "server")]
    pub(crate) token_file: Option<PathBuf>,
    /// Your user name, for a new replica, if there is no token yet to read it from
    #[arg(long, value_name = "NAME", requires = "server")]
    pub(crate) user: Option<String>,
    /// The device's name in conflicted copies, for a new replica [default: the host's name]
    #[arg(long, value_name = "NAME", requires = "server")]
    pub(crate) device: Option<String>,
    /// The interval at which the server is asked for changes, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) interval: u64,
    /// End once everything is in step, or cannot get there
    #[arg(long)]
    pub(crate) once: bool,
}

impl Up {
    /// Returns the arguments of the `init` that creates the replica; `None` without a server.
    pub(crate) fn init(&self) -> Option<Init> {
        Some(Init {
            server: self.server.clone()?,
            token_file: self.token_file.clone(),
            user: self.user.clone(),
            device: self.device.clone(),
        })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum FolderAction {
    /// Add a directory for `up` to keep in step; a running `up` begins at once
    #[command(after_help = "Examples:\n  vfs-sync folder add ~/Pictures /photos")]
    Add {
        /// The directory, created if needed
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The folder of the tree, created if needed
        #[arg(default_value = "/")]
        path: String,
    },
    /// List the directories that `up` keeps in step
    #[command(after_help = "Examples:\n  vfs-sync folder list\n  vfs-sync --json folder list")]
    List,
    /// Keep a folder of the tree off this device: what is as recorded is removed from the directory,
    /// and stays in the tree
    #[command(after_help = "Examples:\n  vfs-sync folder exclude ~/Documents films/raw")]
    Exclude {
        /// The directory, as `folder list` shows it
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The folder's path in the directory
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },
    /// Bring an excluded folder back to this device
    #[command(after_help = "Examples:\n  vfs-sync folder include ~/Documents films/raw")]
    Include {
        /// The directory, as `folder list` shows it
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The folder's path in the directory
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },
    /// Let a symbolic link that another user may have written, and that leads out of its directory,
    /// be made there
    #[command(after_help = "Examples:\n  vfs-sync folder allow ~/theirs/data")]
    Allow {
        /// The path of the link on this disk, as `up` reported it
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },
    /// Let the rules of `.vfsignore` files count in a directory of another owner's tree, although
    /// others may have written them
    #[command(after_help = "Examples:\n  vfs-sync folder trust-ignore ~/theirs")]
    TrustIgnore {
        /// The directory, as `folder list` shows it
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Stop keeping a directory in step; neither the directory nor the tree changes
    #[command(after_help = "Examples:\n  vfs-sync folder remove ~/Pictures")]
    Remove {
        /// The directory, as `folder list` shows it
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}
