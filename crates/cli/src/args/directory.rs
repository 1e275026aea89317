//! The arguments of `import` and `export`.

use std::path::PathBuf;

use clap::Args;

pub(super) const IMPORT: &str = "\
Imports the changes in DIR since it was last imported or exported into PATH (the top by default;
created if needed). The replica keeps a record of DIR: size, times, inode and digest of each entry.
An entry that is as recorded is not read and not edited, whatever the tree has. A file that both
sides changed is kept twice: DIR's as name (conflict DEVICE DATE).ext. A file or folder that was
moved in DIR is moved in the tree. Without a record files are compared by content. Nothing is
deleted without --delete, and with it only entries that were recorded. A symbolic link is imported
as a link, never followed. Special files and unreadable entries are reported, and the exit code is
then 5. Entries that a .vfsignore in DIR names (in the syntax of .gitignore), and editors' swap and
lock files, are left out and stay as they are in the tree. Names that are not UTF-8 are escaped as
%raw%…, which an export reverts. The result is in the replica; `vfs-sync sync` sends it. Ctrl-C is
safe: the same command resumes.

Examples:
  vfs-sync import ~/Documents
  vfs-sync import ~/Pictures /photos --delete
  vfs-sync import --dry-run ~/Documents";

pub(super) const EXPORT: &str = "\
Files get their modification time and permission bits. A file that is as it was imported or exported
is replaced by the tree's; one that was changed or created in DIR since is left alone and reported,
or with --force kept beside the tree's as name (conflict DEVICE DATE).ext; the exit code is 5.
Identical files are not touched, nor is what a .vfsignore names, in DIR or in the tree. No symbolic
link under DIR is followed. Contents that are not on this machine are downloaded. To synchronise a
directory: import --delete, sync, export --force --delete. Ctrl-C is safe: the same command resumes.

Examples:
  vfs-sync export ./tree
  vfs-sync export ./photos /photos --force
  vfs-sync export ./theirs shared:bob/photos
  vfs-sync export ./mirror --force --delete --dry-run";

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The directory to import
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The folder of the tree to import into, created if needed
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// Delete items in PATH whose entries were imported from DIR or exported to it, are missing
    /// there now, and did not change in the tree since; and replace a file by a folder or a folder
    /// by a file
    #[arg(long)]
    pub(crate) delete: bool,
    /// Delete even if more than half of the entries are missing (and at least 100, or all), or if
    /// DIR is another directory than before
    #[arg(long, short, requires = "delete")]
    pub(crate) yes: bool,
    /// Read and compare all contents, also of files whose size, times and inode are as recorded
    #[arg(long)]
    pub(crate) checksum: bool,
    /// Change nothing, and list the changes that would be made
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Make symbolic links that lead out of DIR even if another user may have written them
    #[arg(long)]
    pub(crate) allow_links: bool,
    /// The directory to export to, created if needed
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The folder of the tree to export
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// Write the tree's files even over others of the same name, which are kept beside them as name
    /// (conflict DEVICE DATE).ext
    #[arg(long)]
    pub(crate) force: bool,
    /// Remove entries from DIR that the tree no longer has, if they are as they were imported or
    /// exported; entries that were changed or created there since stay
    #[arg(long)]
    pub(crate) delete: bool,
    /// Remove even if the replica was rebuilt since and more than half of the entries would be
    /// removed
    #[arg(long, short, requires = "delete")]
    pub(crate) yes: bool,
    /// Read and compare all contents, also of files whose size, times and inode are as recorded
    #[arg(long)]
    pub(crate) checksum: bool,
    /// Change nothing, and list the changes that would be made
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
}
