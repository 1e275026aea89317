//! The arguments of `share`, `unshare`, `shares` and `group`.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::id::{PrincipalId, UserId};

pub(super) const SHARE: &str = "\
WHO is a user: `alice`, or `user:alice`; a group: `group:eng`; or an organization:
`organization:acme`. LEVEL is `read`; `write`, to change the item and its children, and to delete
children; or `admin`, to delete the item itself and to grant access. A folder is shared with its
present and future contents. Sharing again replaces the level. The grant is queued like any edit; if
the server is reachable, it is asked whether it knows WHO (a user who has written something, a group
with members), to catch typing errors.

Examples:
  vfs-sync share /photos/2024 bob read
  vfs-sync share /projects/apollo group:eng write && vfs-sync sync
  vfs-sync --json share /projects organization:acme read | jq .known";

pub(super) const UNSHARE: &str = "\
Revokes the grant to WHO on PATH itself. Access by other grants (on a folder above, to a group) stays;
`vfs-sync shares PATH` lists them. To leave what others share with you by name, use
`vfs-sync shares decline PATH`. Revoking removes the data from WHO's devices when they next
synchronise; it cannot undo that WHO has read it.

Examples:
  vfs-sync unshare /photos/2024 bob
  vfs-sync unshare /projects/apollo group:eng";

pub(super) const SHARES: &str = "\
With PATH: everybody who may read it, and by which grant, as far as you may see. Without PATH: every
grant that this replica knows. `vfs-sync shares decline PATH` leaves what somebody shares with you.

Examples:
  vfs-sync shares
  vfs-sync shares decline shared:alice/photos
  vfs-sync shares /photos/2024
  vfs-sync --json shares | jq -r '.shares[].path'";

pub(super) const BLOCK: &str = "\
While OWNER is blocked, everything that OWNER grants to you, or to a group of yours, is hidden: it is
removed from your devices at their next sync, and nothing new arrives. OWNER is not notified and sees no
difference. The list is stored at the server, for all your devices, so this needs a connection. Your own
items and what you share with OWNER are unaffected.

Examples:
  vfs-sync block mallory && vfs-sync sync
  vfs-sync block --list
  vfs-sync unblock mallory";

pub(super) const GROUP: &str = "\
Groups and organizations (--organization) are managed by administrators: the token needs the scope
vfs:admin. A new member sees what is shared with the group at the next sync; a former member no longer
does. The server and the token are the replica's, or those named by --server and --token-file (or
VFS_SYNC_TOKEN).

Examples:
  export VFS_SYNC_TOKEN=$(vfs-sync token --user root --scope vfs:admin --ttl 15m)
  vfs-sync group add eng alice --server http://127.0.0.1:7070
  vfs-sync group members eng --server http://127.0.0.1:7070
  vfs-sync group remove eng alice --server http://127.0.0.1:7070
  vfs-sync group add --organization acme alice
  vfs-sync group mine";

fn principal(text: &str) -> Result<Principal, String> {
    let (kind, id) = match text.split_once(':') {
        Some(("user", id)) => (PrincipalType::User, id),
        Some(("group", id)) => (PrincipalType::Group, id),
        Some(("organization", id)) => (PrincipalType::Organization, id),
        // A user's id may have a colon of its own.
        _ => (PrincipalType::User, text),
    };
    let id = PrincipalId::new(id).map_err(|reason| format!("the id of the {kind} {reason}"))?;
    Ok(Principal { kind, id })
}

fn principal_id(text: &str) -> Result<PrincipalId, String> {
    PrincipalId::new(text).map_err(|reason| format!("the id {reason}"))
}

fn user_id(text: &str) -> Result<UserId, String> {
    UserId::new(text).map_err(|reason| format!("the id {reason}"))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Level {
    /// Read the item and everything in it
    Read,
    /// Change the item and everything in it, and delete items in it
    Write,
    /// Delete the item itself, and decide who has access
    Admin,
}

impl From<Level> for AccessLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Read => Self::Read,
            Level::Write => Self::Write,
            Level::Admin => Self::Admin,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Share {
    /// The path of the item
    pub(crate) path: String,
    /// A user, `group:NAME` or `organization:NAME`
    #[arg(value_name = "WHO", value_parser = principal)]
    pub(crate) who: Principal,
    /// The access level to grant
    #[arg(value_name = "LEVEL", hide_possible_values = true)]
    pub(crate) level: Level,
}

#[derive(Debug, Args)]
pub(crate) struct Unshare {
    /// The path of the item
    pub(crate) path: String,
    /// A user, `group:NAME` or `organization:NAME`
    #[arg(value_name = "WHO", value_parser = principal)]
    pub(crate) who: Principal,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Shares {
    #[command(subcommand)]
    pub(crate) action: Option<SharesAction>,
    /// The path of the item; all items without it
    pub(crate) path: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SharesAction {
    /// Decline an item that somebody shares with you by name
    #[command(
        after_help = "Removes the grant to you on PATH itself. Grants to a group, or on a folder above, cannot be declined;\n`vfs-sync block OWNER` hides all that OWNER shares.\n\nExamples:\n  vfs-sync shares decline shared:mallory/Documents"
    )]
    Decline {
        /// The path of the item
        path: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Block {
    /// The user whose shares are to be hidden
    #[arg(value_name = "OWNER", value_parser = user_id, required_unless_present = "list")]
    pub(crate) owner: Option<UserId>,
    /// List the users that you block
    #[arg(long, conflicts_with = "owner")]
    pub(crate) list: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Unblock {
    /// The user whose shares are to be shown again
    #[arg(value_name = "OWNER", value_parser = user_id)]
    pub(crate) owner: UserId,
}

#[derive(Debug, Args)]
pub(crate) struct Group {
    #[command(subcommand)]
    pub(crate) action: GroupAction,
    /// The server's address [default: the replica's]
    #[arg(long, value_name = "URL", global = true)]
    pub(crate) server: Option<String>,
    /// The file with the token [default: the replica's, unless --server is given]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupAction {
    /// Add a user to the group
    Add(Member),
    /// Remove a user from the group
    Remove(Member),
    /// List the members of the group
    Members(Members),
    /// List your own memberships; needs no scope
    Mine,
}

#[derive(Debug, Args)]
pub(crate) struct Member {
    /// The name of the group
    #[arg(value_name = "GROUP", value_parser = principal_id)]
    pub(crate) group: PrincipalId,
    /// The name of the user
    #[arg(value_name = "USER", value_parser = user_id)]
    pub(crate) user: UserId,
    /// GROUP is an organization
    #[arg(long)]
    pub(crate) organization: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Members {
    /// The name of the group
    #[arg(value_name = "GROUP", value_parser = principal_id)]
    pub(crate) group: PrincipalId,
    /// GROUP is an organization
    #[arg(long)]
    pub(crate) organization: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_is_a_user_unless_it_says_otherwise() {
        for (text, kind, id) in [
            ("alice", PrincipalType::User, "alice"),
            ("user:alice", PrincipalType::User, "alice"),
            ("group:eng", PrincipalType::Group, "eng"),
            ("organization:acme", PrincipalType::Organization, "acme"),
            ("auth0|x:1", PrincipalType::User, "auth0|x:1"),
            ("user:group:x", PrincipalType::User, "group:x"),
        ] {
            let principal = principal(text).unwrap();
            assert_eq!((principal.kind, principal.id.as_str()), (kind, id));
        }
        for bad in ["", "group:", "user: x", "a\u{0}"] {
            assert!(principal(bad).is_err(), "{bad:?}");
        }
    }
}
