//! The arguments of commands that explain and diagnose.

use clap::Args;

pub(super) const DOCTOR: &str = "\
Checks the replica, what waits in it, the token, each step of the way to the server, and the server's
state of this replica. It only reads: no file of the device and nothing at the server is changed. Each
check that finds something names the runbook's entry and the next command. Exit codes: 0 no problem,
1 problems.

Examples:
  vfs-sync doctor
  vfs-sync --json doctor | jq '.checks[] | select(.outcome == \"problem\")'";

/// The arguments of `doctor`, besides the global ones.
#[derive(Debug, Args)]
pub(crate) struct Doctor {}

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
