//! The arguments of `devices`, `admin devices` and `admin users`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use vfs_sync_core::id::{ReplicaId, UserId};

use super::values::{Database, parse_bytes, parse_ttl};

pub(super) const DEVICES: &str = "\
A device is a replica of yours that has called the server. A revoked device keeps everything it has, its
queue too, and is told so: there is no remote wipe. It is served no longer, for ever, and within 5
seconds; to synchronise that machine again, create another replica on it. A token is not bound to a
device: revoke the token of a stolen machine too.

Examples:
  vfs-sync devices list
  vfs-sync devices rename 0198a1c2-… 'Kitchen tablet'
  vfs-sync devices revoke 'Kitchen tablet' --yes
  vfs-sync --json devices list | jq -r '.devices[] | select(.condition == \"stuck\") | .name'";

pub(super) const ADMIN_DEVICES: &str = "\
The token needs the scope vfs:admin. The server and the token are the replica's, or those named by
--server and --token-file (or VFS_SYNC_TOKEN). Each call is in the server's audit log.

Examples:
  export VFS_SYNC_TOKEN=$(vfs-sync token --user root --scope vfs:admin --ttl 15m)
  vfs-sync admin devices list --server http://127.0.0.1:7070
  vfs-sync admin devices list --user alice --server http://127.0.0.1:7070
  vfs-sync admin devices revoke alice 0198a1c2-… --yes --server http://127.0.0.1:7070";

pub(super) const ADMIN_USERS: &str = "\
The token needs the scope vfs:admin. The server and the token are the replica's, or those named by
--server and --token-file (or VFS_SYNC_TOKEN). Each call is in the server's audit log. A disabled user's
devices are served no longer within 5 seconds: they stop, and keep everything they have. Limits take the
place of the server's for one user; `default` gives one up.

Examples:
  export VFS_SYNC_TOKEN=$(vfs-sync token --user root --scope vfs:admin --ttl 15m)
  vfs-sync admin users list --server http://127.0.0.1:7070
  vfs-sync admin users show alice --server http://127.0.0.1:7070
  vfs-sync admin users limit alice --stored-bytes 50G --items default --server http://127.0.0.1:7070
  vfs-sync admin users disable alice --server http://127.0.0.1:7070
  vfs-sync admin users enable alice --server http://127.0.0.1:7070
  vfs-sync admin users delete alice --yes --server http://127.0.0.1:7070";

pub(super) const DELETE_USER: &str = "\
`delete` disables the user at once: the devices are served no longer within 5 seconds, and keep
everything they have. For the time of --wait nothing is removed, and `allow` calls it off. Then the
server removes all items of the user, with contents, versions and trash, what others shared with the
user, devices and every other row, in small steps beside its other work; `show` says how far it is, and
keeps the receipt. Those with whom the user shared lose sight of the items; a live folder of such a share
says so, and keeps its files. What the user wrote in the folders of others stays there, under a name that
tells nothing.

Out of reach are backups, buckets with versions, and disks of others. A hash of the name stays, so that
no device of the user's offers everything again; `allow` lets the user begin anew, with nothing.

Examples:
  vfs-sync admin users export alice alice.tar --data /var/lib/vfs-sync
  vfs-sync admin users delete alice --yes --server http://127.0.0.1:7070
  vfs-sync admin users delete alice --wait 0 --yes --server http://127.0.0.1:7070
  vfs-sync admin users show alice --server http://127.0.0.1:7070
  vfs-sync admin users allow alice --server http://127.0.0.1:7070";

pub(super) const EXPORT_USER: &str = "\
The archive (tar) has the user's own files and folders under tree/, with the names that `vfs-sync
export` would give them; items.json, grants.json and devices.json have the rest, one JSON value a line;
manifest.json comes last. Contents are compared with their digests. It works on the server's database
and object store, while the server runs. Nothing is replaced, and an export that is interrupted leaves
no file. Exits with 5 if contents are missing or damaged: the archive has all others.

Examples:
  vfs-sync admin users export alice alice.tar --data /var/lib/vfs-sync
  VFS_SYNC_DATABASE_URL=postgres://vfs@db/vfs vfs-sync admin users export alice alice.tar --data /var/lib/vfs-sync";

pub(super) fn user_id(text: &str) -> Result<UserId, String> {
    UserId::new(text).map_err(|reason| format!("the id {reason}"))
}

fn client_id(text: &str) -> Result<ReplicaId, String> {
    ReplicaId::new(text).map_err(|reason| format!("the id {reason}"))
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevicesAction {
    /// List your devices: when they last called, how far they are, and what they reported
    #[command(after_help = DEVICES)]
    List,
    /// Give a device a name
    #[command(after_help = DEVICES)]
    Rename {
        /// The id of the device, or its name if no other device has that
        device: String,
        /// The new name of the device
        name: String,
    },
    /// Revoke a device: the server serves it no longer
    #[command(after_help = DEVICES)]
    Revoke {
        /// The id of the device, or its name if no other device has that
        device: String,
        /// Revoke it; it cannot be undone
        #[arg(long)]
        yes: bool,
    },
}

/// The server that an operator's command calls.
#[derive(Debug, Args)]
pub(crate) struct Operated {
    /// The server's address [default: the replica's]
    #[arg(long, value_name = "URL", global = true)]
    pub(crate) server: Option<String>,
    /// The file with the token [default: the replica's, unless --server is given]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AdminDevices {
    #[command(subcommand)]
    pub(crate) action: AdminDevicesAction,
    #[command(flatten)]
    pub(crate) operated: Operated,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminDevicesAction {
    /// List the devices of one user, or of all
    #[command(after_help = ADMIN_DEVICES)]
    List {
        /// The user; all users without it
        #[arg(long, value_name = "USER", value_parser = user_id)]
        user: Option<UserId>,
    },
    /// Revoke a device of a user
    #[command(after_help = ADMIN_DEVICES)]
    Revoke {
        /// The user of the device
        #[arg(value_parser = user_id)]
        user: UserId,
        /// The id of the device
        #[arg(value_parser = client_id)]
        device: ReplicaId,
        /// Revoke it; it cannot be undone
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AdminUsers {
    #[command(subcommand)]
    pub(crate) action: AdminUsersAction,
    #[command(flatten)]
    pub(crate) operated: Operated,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminUsersAction {
    /// List all users with what they have
    #[command(after_help = ADMIN_USERS)]
    List,
    /// Show one user: usage, limits, and whether disabled
    #[command(after_help = ADMIN_USERS)]
    Show {
        /// The name of the user
        #[arg(value_parser = user_id)]
        user: UserId,
    },
    /// Set limits of a user's own
    #[command(after_help = ADMIN_USERS)]
    Limit(Box<LimitUser>),
    /// Serve none of a user's devices until the user is enabled
    #[command(after_help = ADMIN_USERS)]
    Disable {
        /// The name of the user
        #[arg(value_parser = user_id)]
        user: UserId,
    },
    /// Serve a user's devices again
    #[command(after_help = ADMIN_USERS)]
    Enable {
        /// The name of the user
        #[arg(value_parser = user_id)]
        user: UserId,
    },
    /// Delete a user with everything that the user has on the server
    #[command(after_help = DELETE_USER)]
    Delete {
        /// The name of the user
        #[arg(value_parser = user_id)]
        user: UserId,
        /// The time for which nothing is removed and the deletion can be called off; 0 for none
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = wait)]
        wait: u64,
        /// Delete the user; once the wait is over it cannot be undone
        #[arg(long)]
        yes: bool,
    },
    /// Call off a deletion, or let a deleted user begin anew
    #[command(after_help = DELETE_USER)]
    Allow {
        /// The name of the user
        #[arg(value_parser = user_id)]
        user: UserId,
    },
    /// Write everything that a user owns into one archive
    #[command(after_help = EXPORT_USER)]
    Export(ExportUser),
}

/// The user to export, and the archive to write.
#[derive(Debug, Args)]
pub(crate) struct ExportUser {
    /// The name of the user
    #[arg(value_parser = user_id)]
    pub(crate) user: UserId,
    /// The archive to write, which must not exist
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) database: Database,
}

/// Parses the wait of a deletion.
fn wait(text: &str) -> Result<u64, String> {
    const LONGEST: u64 = 366 * 24 * 3_600;
    match text {
        "0" | "0s" | "0m" | "0h" | "0d" => Ok(0),
        text => parse_ttl(text)
            .ok()
            .filter(|seconds| *seconds <= LONGEST)
            .ok_or_else(|| "must be 0, or a number with s, m, h or d, up to 366d".to_owned()),
    }
}

/// A limit of a user's own, or the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnLimit {
    /// The server's own limit.
    Default,
    /// A limit in place of the server's.
    Own(u64),
}

impl OwnLimit {
    /// Returns the limit that replaces `before`, which stays if none is given.
    pub(crate) fn over(given: Option<Self>, before: Option<u64>) -> Option<u64> {
        match given {
            None => before,
            Some(Self::Default) => None,
            Some(Self::Own(limit)) => Some(limit),
        }
    }
}

fn own_limit(text: &str) -> Result<OwnLimit, String> {
    match text {
        "default" => Ok(OwnLimit::Default),
        number => parse_bytes(number)
            .map(OwnLimit::Own)
            .map_err(|_| "must be a number, optionally with K, M, G or T, or default".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct LimitUser {
    /// The name of the user
    #[arg(value_parser = user_id)]
    pub(crate) user: UserId,
    /// The greatest size of the user's contents in total
    #[arg(long, value_name = "BYTES", value_parser = own_limit)]
    pub(crate) stored_bytes: Option<OwnLimit>,
    /// The greatest size of the user's contents that are uploaded and not yet attached
    #[arg(long, value_name = "BYTES", value_parser = own_limit)]
    pub(crate) staged_bytes: Option<OwnLimit>,
    /// The greatest number of the user's open stages
    #[arg(long, value_name = "N", value_parser = own_limit)]
    pub(crate) open_stages: Option<OwnLimit>,
    /// The greatest number of the user's items, deleted ones included
    #[arg(long, value_name = "N", value_parser = own_limit)]
    pub(crate) items: Option<OwnLimit>,
    /// The greatest number of links in the user's tree, removed ones included
    #[arg(long, value_name = "N", value_parser = own_limit)]
    pub(crate) links: Option<OwnLimit>,
    /// The greatest number of grants on the user's items, removed ones included
    #[arg(long, value_name = "N", value_parser = own_limit)]
    pub(crate) grants: Option<OwnLimit>,
    /// The greatest size of the names, metadata and encrypted forms of the user's items in total
    #[arg(long, value_name = "BYTES", value_parser = own_limit)]
    pub(crate) register_bytes: Option<OwnLimit>,
    /// The greatest number of the user's replicas
    #[arg(long, value_name = "N", value_parser = own_limit)]
    pub(crate) replicas: Option<OwnLimit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_given_up() {
        assert_eq!(own_limit("50G"), Ok(OwnLimit::Own(50 << 30)));
        assert_eq!(own_limit("default"), Ok(OwnLimit::Default));
        for bad in ["", "-1", "many", "1.5", "99999999999T"] {
            assert!(own_limit(bad).is_err(), "{bad}");
        }
        assert_eq!(OwnLimit::over(None, Some(7)), Some(7));
        assert_eq!(OwnLimit::over(Some(OwnLimit::Default), Some(7)), None);
        assert_eq!(OwnLimit::over(Some(OwnLimit::Own(8)), Some(7)), Some(8));
    }
}
