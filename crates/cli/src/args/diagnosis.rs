//! The arguments of commands that explain and diagnose.

use std::path::PathBuf;

use clap::Args;

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
