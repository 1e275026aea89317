//! The arguments of `share`, `unshare`, `shares` and `group`.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::id::{PrincipalId, UserId};

pub(super) const SHARE: &str = "\
WHO is a user: `alice`, or `user:alice`; a group: `group:eng`; or an organization:
`organization:acme`. LEVEL is `read`; `write`, which is to change it and what is in it, and to delete what
is in it; or `admin`, which is to delete it itself and to decide who sees it. A folder is shared with all that is in it, now and later. Sharing
again replaces the level. It is queued like any edit, online or not; where the server can be reached,
it is asked whether it knows of WHO (a user who has written something, a group with members), so that a
typing error is noticed.

Examples:
  vfs-sync share /photos/2024 bob read
  vfs-sync share /projects/apollo group:eng write && vfs-sync sync
  vfs-sync --json share /projects organization:acme read | jq .known";

pub(super) const UNSHARE: &str = "\
Takes away what was granted to WHO on PATH itself. What reaches WHO by another way (a grant on a folder
above, a group) stays; `vfs-sync shares PATH` tells. What others share with you by name is
left by `vfs-sync shares decline PATH`. Revoking cannot unread what was read: it removes the data from WHO's devices when they next
sync.

Examples:
  vfs-sync unshare /photos/2024 bob
  vfs-sync unshare /projects/apollo group:eng";

pub(super) const SHARES: &str = "\
Of PATH: everybody who may read it, by which grant, as far as you are told. Without PATH: every grant that
this replica knows of. `vfs-sync shares decline PATH` gives back what somebody shares with you.

Examples:
  vfs-sync shares
  vfs-sync shares decline shared:alice/photos
  vfs-sync shares /photos/2024
  vfs-sync --json shares | jq -r '.shares[].path'";

pub(super) const BLOCK: &str = "\
While OWNER is blocked, everything that OWNER grants to you, or to a group of yours, counts as if it were not
there: it leaves your devices at their next sync, and nothing new arrives. OWNER is not told and sees no
difference. The list is kept at the server, for all your devices, so it takes a connection. Your own items
and what you share with OWNER stay as they are.

Examples:
  vfs-sync block mallory && vfs-sync sync
  vfs-sync block --list
  vfs-sync unblock mallory";

pub(super) const GROUP: &str = "\
Groups and organizations (--organization) are kept by administrators: the token needs the scope
vfs:admin. Whoever joins sees what is shared with the group at the next sync; whoever leaves no longer
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
    /// See it and what is in it
    Read,
    /// Change it and what is in it, and delete what is in it
    Write,
    /// Delete it itself, and decide who sees it
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
    /// The item
    pub(crate) path: String,
    /// A user, `group:NAME` or `organization:NAME`
    #[arg(value_name = "WHO", value_parser = principal)]
    pub(crate) who: Principal,
    /// What they may do
    #[arg(value_name = "LEVEL", hide_possible_values = true)]
    pub(crate) level: Level,
}

#[derive(Debug, Args)]
pub(crate) struct Unshare {
    /// The item
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
    /// The item; everything if none is given
    pub(crate) path: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SharesAction {
    /// Decline what somebody shares with you by name
    #[command(
        after_help = "Removes the grant to you on PATH itself. What reaches you by a group, or by a grant on a folder above,\nis not yours to remove; `vfs-sync block OWNER` hides all that OWNER shares.\n\nExamples:\n  vfs-sync shares decline shared:mallory/Documents"
    )]
    Decline {
        /// The item
        path: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Block {
    /// The user whose shares you do not want
    #[arg(value_name = "OWNER", value_parser = user_id, required_unless_present = "list")]
    pub(crate) owner: Option<UserId>,
    /// List whom you block
    #[arg(long, conflicts_with = "owner")]
    pub(crate) list: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Unblock {
    /// The user whose shares count again
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
    /// The file that has the token [default: the replica's, unless --server is given]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupAction {
    /// Make a user a member
    Add(Member),
    /// End a user's membership
    Remove(Member),
    /// List the members
    Members(Members),
    /// List what one is a member of; takes no scope
    Mine,
}

#[derive(Debug, Args)]
pub(crate) struct Member {
    /// The group
    #[arg(value_name = "GROUP", value_parser = principal_id)]
    pub(crate) group: PrincipalId,
    /// The user
    #[arg(value_name = "USER", value_parser = user_id)]
    pub(crate) user: UserId,
    /// GROUP is an organization
    #[arg(long)]
    pub(crate) organization: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Members {
    /// The group
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
