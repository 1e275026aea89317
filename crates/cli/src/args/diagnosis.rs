//! The arguments of commands that explain and diagnose.

use std::path::PathBuf;

use clap::Args;
use vfs_sync_core::id::UserId;

use super::Database;
use super::devices::user_id;

pub(super) const DOCTOR: &str = "\
Checks the replica, what waits in it, the token, each step of the way to the server, and the server's
state of this replica. It only reads: no file of the device and nothing at the server is changed. Each
check that finds something names the runbook's entry and the next command. Exit codes: 0 no problem,
1 problems.

--retry makes one attempt to synchronise, without rebuilding, renumbering or offering anything again, while
`up` pauses, and compares the exported state before and after it byte for byte. --fix synchronises once if
something waits or is stopped, and writes lost settings again; it removes nothing, and does nothing for a
token of another user or a server that the replica does not belong to. --bundle writes a tar.gz in which names,
contents, tokens and addresses are digests with a secret that is made for it and kept nowhere.

Examples:
  vfs-sync doctor
  vfs-sync doctor --fix
  vfs-sync doctor --retry --bundle bug-report.tar.gz
  vfs-sync --json doctor | jq '.checks[] | select(.outcome == \"problem\")'";

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// First retry once, with the state exported before and after, to find defects
    #[arg(long)]
    pub(crate) retry: bool,
    /// First clear a stop, retry what waits, and write again what can be derived
    #[arg(long)]
    pub(crate) fix: bool,
    /// Write an archive for a bug report, in which names and contents are digests
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: Option<PathBuf>,
}

pub(super) const ADMIN_DOCTOR: &str = "\
Checks the database, what is derived in it, the contents, the background work, devices, keys and
settings. Run it with the environment of the server, beside which it may run: it reads small pages, on
snapshots. It changes nothing, except that a probe is written to the store of contents and removed. Each
check that finds something names the runbook's entry and the next command. Exit codes: 0 no problem,
1 problems.

Without --user and --all it examines a sample of items, feeds and contents, from a random place on.
--fix derives again what differs from what it is derived from: levels of access, entries of feeds, and
the numbers that count against quotas. It removes no item, no content and nothing of a queue, begins an
epoch as a start of a server does, and logs what it does (target=audit).

Examples:
  vfs-sync admin doctor --data /var/lib/vfs-sync
  vfs-sync admin doctor --user alice --data /var/lib/vfs-sync
  VFS_SYNC_DATABASE_URL=postgres://vfs@db/vfs vfs-sync admin doctor --all --fix
  vfs-sync --json admin doctor | jq '.checks[] | select(.outcome == \"problem\")'";

#[derive(Debug, Args)]
pub(crate) struct AdminDoctor {
    #[command(flatten)]
    pub(crate) database: Database,
    /// Examine everything of this user: items, levels, feed, numbers, contents
    #[arg(long, value_name = "USER", value_parser = user_id, conflicts_with = "all")]
    pub(crate) user: Option<UserId>,
    /// Examine everything of all users, and every content
    #[arg(long)]
    pub(crate) all: bool,
    /// First derive again what differs from what it is derived from
    #[arg(long)]
    pub(crate) fix: bool,
    /// The URL at which clients reach the server, to make a request through whatever is between
    #[arg(long, value_name = "URL", env = "VFS_SYNC_PUBLIC_URL")]
    pub(crate) url: Option<String>,
    /// The directory of `backup create`, to see how old the newest backup is
    #[arg(long, value_name = "DIR")]
    pub(crate) backups: Option<PathBuf>,
}

pub(super) const EXPLAIN: &str = "\
Prints what the runbook says of it: the meaning, the action, the next command, and the section of the
documents. A whole error text is found too. Without arguments it lists everything that it knows.

Examples:
  vfs-sync explain pull:pullCursorRegression
  vfs-sync explain 409
  vfs-sync explain 409 Client reconcile state is behind required visibility
  vfs-sync --json explain storage_full | jq -r '.entries[].action'";

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The signature, code, status or error text
    #[arg(value_name = "SIGNATURE|CODE|STATUS", trailing_var_arg = true)]
    pub(crate) query: Vec<String>,
}
