//! The arguments of `backup`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Database;

#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Back up a server's database and contents, while it runs
    #[command(
        after_help = "DIR keeps any number of backups: contents that an earlier one has are not copied again. While a\nbackup is made, servers remove no content from the object store. A PostgreSQL database is copied by\n`pg_dump`. A backup that is interrupted leaves the earlier ones as they are; run it again.\nExits with 5 if contents are missing or damaged in the object store: the backup has all others.\n\nExamples:\n  vfs-sync backup create /backup/vfs-sync --data /var/lib/vfs-sync\n  VFS_SYNC_DATABASE_URL=postgres://vfs@db/vfs vfs-sync backup create /backup/vfs-sync --data /var/lib/vfs-sync"
    )]
    Create(BackupCreate),
    /// Check that a backup is whole, from the backup alone
    #[command(
        after_help = "Reads every byte of the backup. Exits with 1 if something is missing or damaged.\n\nExamples:\n  vfs-sync backup verify /backup/vfs-sync\n  vfs-sync backup verify /backup/vfs-sync --at 2026-01-31T02-00-00.000Z"
    )]
    Verify(BackupVerify),
    /// Restore a backup into a new server's directory, or an empty database and bucket
    #[command(
        after_help = "Nothing is replaced: the database must not exist (PostgreSQL: be empty), and the object store must not\nhave other contents. The restored database begins a new epoch, so that devices notice what it lacks and\noffer it again. A restore that is interrupted can be run again.\n\nExamples:\n  vfs-sync backup restore /backup/vfs-sync --data /var/lib/vfs-sync\n  vfs-sync serve --listen 0.0.0.0:7070 --data /var/lib/vfs-sync"
    )]
    Restore(BackupRestore),
}

#[derive(Debug, Args)]
pub(crate) struct BackupCreate {
    /// The directory of the backups
    #[arg(value_name = "DIR")]
    pub(crate) backups: PathBuf,
    #[command(flatten)]
    pub(crate) database: Database,
}

#[derive(Debug, Args)]
pub(crate) struct BackupVerify {
    /// The directory of the backups
    #[arg(value_name = "DIR")]
    pub(crate) backups: PathBuf,
    /// The name of the backup [default: the newest]
    #[arg(long, value_name = "NAME")]
    pub(crate) at: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BackupRestore {
    /// The directory of the backups
    #[arg(value_name = "DIR")]
    pub(crate) backups: PathBuf,
    /// The name of the backup [default: the newest]
    #[arg(long, value_name = "NAME")]
    pub(crate) at: Option<String>,
    /// The directory of the restored server
    #[arg(long, value_name = "DIR", env = "VFS_SYNC_DATA")]
    pub(crate) data: PathBuf,
}
