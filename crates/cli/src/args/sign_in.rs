//! The arguments of `login`.

use clap::Args;

pub(super) const LOGIN: &str = "\
Shows an address and a code. Open the address in a browser, here or on a phone, compare the code, and
confirm it: the device then has a sign-in of its own, which renews itself and is good for this replica
only. It is kept in the replica's directory, readable by you alone. Without a replica one is created.
With --json it prints a document on a line for each step: `code`, then `signedIn`. Where the server has
no identity provider it says how a token is given by hand.

Examples:
  vfs-sync login --server https://files.example.org
  vfs-sync --replica ./laptop login
  vfs-sync --json login --server https://files.example.org | jq -r .verificationUriComplete";

pub(super) const LOGOUT: &str = "\
The server ends the sign-in, if it can be reached (exit code 5 if it did not confirm that), and this
device forgets it. The replica, its queue and its files stay; `vfs-sync login` signs in again.

Examples:
  vfs-sync logout";

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The server's address, if there is no replica yet: http:// or https://, host and port
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// The device's name, for a new replica [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,
}
