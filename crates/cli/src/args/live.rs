//! The arguments of `up` and `folder`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::replica::Init;

pub(super) const UP: &str = "\
Keeps DIR and PATH in step until Ctrl-C: a file that any program saves in DIR is sent once it is quiet
for half a second, and what other devices save appears in DIR. Works offline: changes are queued and
sent later. Without a replica --server is required, and one is created first. Without DIR it keeps
the directories in step that it was given before. Nothing saved is lost: if both sides changed a file,
both are kept, one as name (conflict DEVICE DATE).ext. An entry is deleted elsewhere once it was missing
for two seconds; if more than half of the entries (and at least 100, or all) are gone, the deletions
wait for `folder confirm-deletions`. What a .vfsignore in DIR names, in the syntax of .gitignore, stays
out. Other commands work on the replica meanwhile. With --json it prints a document on each line. Ends with
exit code 5 if something is left undone. `vfs-sync service install` runs it from log-in on.

Examples:
  vfs-sync up ~/Documents --server https://files.example.org --token-file ~/.config/vfs-sync/token
  vfs-sync up ~/theirs shared:bob/photos
  vfs-sync up
  vfs-sync up --once                       # once, for a script or timer";

pub(super) const FOLDER: &str = "\
Examples:
  vfs-sync folder add ~/Pictures /photos
  vfs-sync folder list
  vfs-sync folder problems
  vfs-sync folder pause ~/Pictures
  vfs-sync folder remove ~/Pictures";

pub(super) const SERVICE: &str = "\
Examples:
  vfs-sync folder add ~/Documents
  vfs-sync service install
  vfs-sync service status
  vfs-sync service uninstall";

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
    /// List the directories that `up` keeps in step, with their state
    #[command(after_help = "\
The state is `in step`, `working` with its progress, or `waiting` with the reason. If `up` does not run,
it is the state at the end of the last one.

Examples:\n  vfs-sync folder list\n  vfs-sync --json folder list")]
    List,
    /// List what is left out of the directories, with the reason and your next step
    #[command(after_help = "\
Exit codes: 0 nothing is left out · 5 something is, or synchronising is stopped. At most 1,000 entries of a directory are listed,
all are counted.

Examples:\n  vfs-sync folder problems\n  vfs-sync folder problems ~/Documents\n  vfs-sync --json folder problems | jq '.folders[].problems.counts'")]
    Problems {
        /// The directory; all without it
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Pause a directory: nothing is taken from it or written to it until `folder resume`
    #[command(after_help = "\
The pause is durable: it outlives `up` and the machine. A running `up` takes it up at once. While a directory
is paused, not everything is in step: `up` and `status` say so, and exit with 5.

Examples:\n  vfs-sync folder pause ~/Pictures\n  vfs-sync folder pause              # all directories")]
    Pause {
        /// The directory; all without it
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// End a pause: what happened on both sides meanwhile joins, nothing is lost
    #[command(after_help = "\
Changes made during the pause count as if they had been made without a network: if both sides changed a
file, both are kept.

Examples:\n  vfs-sync folder resume ~/Pictures\n  vfs-sync folder resume             # all directories")]
    Resume {
        /// The directory; all without it
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Delete everywhere what went missing from a directory and is held because it is most of it
    #[command(after_help = "\
`up` holds deletions if more than half of the entries (and at least 100, or all) are gone: a disk may be
unmounted. This asks on a terminal, and needs --yes otherwise. It confirms exactly the entries that were gone
when it asked, with --yes those that `up` has held: if more is gone since, nothing is deleted.

Exit codes: 0 the deletions are queued, or none are held · 2 --yes is missing · 5 not all is as it was held.

Examples:\n  vfs-sync folder confirm-deletions ~/Documents\n  vfs-sync folder confirm-deletions ~/Documents --yes")]
    ConfirmDeletions {
        /// The directory; all without it
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Confirm without a question
        #[arg(long)]
        yes: bool,
    },
    /// Have a running `up` scan a directory now, and wait until it has
    #[command(after_help = "\
`up` notices changes by itself, and scans everything once an hour. This helps where changes are not noticed,
as on some network disks. --checksum reads all files, and finds changes that left size and times as they
were.

Exit codes: 0 it was scanned · 1 `up` is not running, or the directory is paused · 5 entries are left out.

Examples:\n  vfs-sync folder scan ~/Documents\n  vfs-sync folder scan ~/Documents --checksum")]
    Scan {
        /// The directory; all without it
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Read the contents of all files
        #[arg(long)]
        checksum: bool,
    },
    /// Keep a directory in step at its new path, after you have moved it
    #[command(after_help = "\
Move the directory first. It has to be the same one, on the same disk; a copy is not, and is refused: `folder
remove` and `folder add` join a copy. What was changed in it meanwhile is taken.

Examples:\n  mv ~/Pictures ~/Photos && vfs-sync folder move ~/Pictures ~/Photos")]
    Move {
        /// The path that the directory had
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// The path that it has now
        #[arg(value_name = "NEW")]
        new: PathBuf,
    },
    /// List or restore files of a directory that were deleted elsewhere
    #[command(subcommand)]
    Trash(FolderTrash),
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
    /// Delete in the tree what a `.vfsignore` ignores; the files on this and other disks stay
    #[command(after_help = "\
A rule deletes nothing: what was synchronised before stays in the tree. This deletes the ignored items at and
under PATH there, and nothing that is not ignored. The server's trash keeps them for 30 days.

Exit codes: 0 deleted · 1 nothing there is ignored, or may not be deleted: then nothing was.

Examples:\n  vfs-sync folder forget ~/Documents/project/build\n  vfs-sync folder forget ~/Documents/project --dry-run")]
    Forget {
        /// The path of the entry, of a folder around it or of the directory; it need not be there any more
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// List the items, and delete nothing
        #[arg(long)]
        dry_run: bool,
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

#[derive(Debug, Subcommand)]
pub(crate) enum FolderTrash {
    /// List the files that were deleted elsewhere and that the directory's trash still has
    #[command(after_help = "\
The trash is in .vfs-sync/trash of the directory. It keeps a file for 30 days, and all of them take at most
a tenth of the disk: the oldest go first. The server has a trash of its own: `vfs-sync trash`.

Examples:\n  vfs-sync folder trash list\n  vfs-sync folder trash list ~/Documents")]
    List {
        /// The directory; all without it
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Restore a file, or all files of a folder, to the place that they had
    #[command(after_help = "\
What is at that place now stays: the restored file then gets the name of a conflicted copy. A running `up`
takes it as a new file.

Examples:\n  vfs-sync folder trash restore ~/Documents notes/thesis.txt\n  vfs-sync folder trash restore ~/Documents notes --day 2024-05-01")]
    Restore {
        /// The directory, as `folder list` shows it
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The path of the file or folder in the directory
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// The day on which it was deleted [default: the latest]
        #[arg(long, value_name = "DAY")]
        day: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceAction {
    /// Write the unit, and start the service now and at each log-in
    #[command(after_help = "\
The unit is systemd/user/vfs-sync.service under $XDG_CONFIG_HOME or ~/.config. It runs this program on this
replica, with the global options given here. The replica needs a directory (`folder add`) and a token file:
a service does not have your VFS_SYNC_TOKEN. A unit that somebody else wrote is not replaced.

Exit codes: 0 started · 5 the unit is written, but systemd cannot be reached: the commands to run are printed.

Examples:\n  vfs-sync service install\n  vfs-sync service install --print    # shows the unit and changes nothing")]
    Install {
        /// Print the unit, and change nothing
        #[arg(long)]
        print: bool,
    },
    /// Show whether the service runs, and the state of its directories
    #[command(after_help = "\
Exit codes: 0 it runs and no directory has problems · 5 it does not, or one has.

Examples:\n  vfs-sync service status\n  vfs-sync --json service status | jq .active")]
    Status,
    /// Stop the service, and remove its unit if `service install` wrote it
    #[command(after_help = "\
The directories and the replica stay as they are.

Examples:\n  vfs-sync service uninstall")]
    Uninstall,
}
