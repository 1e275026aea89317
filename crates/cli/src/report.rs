//! Reports of imports and exports in words for people.

use std::path::Path;

use vfs_sync_folder::export::ExportReport;
use vfs_sync_folder::import::ImportReport;
use vfs_sync_folder::report::{Change, ProblemKind};

use crate::error::{Failure, Kind};
use crate::output::{bytes_text, count_text};

/// Describes the changes that were or would be made, for people.
pub(crate) fn import_text(report: &ImportReport) -> String {
    format!(
        "new: {} folders, {} files · changed: {} contents, {} attributes · moved: {} · \
         deleted: {}",
        count_text(report.folders_created),
        count_text(report.files_created),
        count_text(report.contents_changed),
        count_text(report.metadata_changed),
        count_text(report.moved),
        count_text(report.deleted),
    )
}

/// Describes the changes that were or would be made, for people.
pub(crate) fn export_text(report: &ExportReport) -> String {
    format!(
        "new: {} folders, {} files ({}) · attributes: {} · moved: {} · removed: {}",
        count_text(report.folders_created),
        count_text(report.files_written),
        bytes_text(report.bytes),
        count_text(report.metadata_changed),
        count_text(report.moved),
        count_text(report.removed),
    )
}

/// Returns the failure of an import whose deletions wait for confirmation.
pub(crate) fn held_deletions(report: &ImportReport, directory: &Path) -> Option<Failure> {
    (report.held > 0).then(|| {
        let (held, of) = (report.held, report.recorded);
        let text = format!(
            "{held} of the {of} entries that {} had are gone: none was deleted in the tree",
            directory.display()
        );
        Failure::new(Kind::Partial, text)
            .hint("if a disk is not mounted, mount it and import again; to delete them, add --yes")
    })
}

/// Returns the failure of an export whose removals wait for confirmation.
pub(crate) fn held_removals(report: &ExportReport, directory: &Path) -> Option<Failure> {
    (report.held > 0).then(|| {
        let (held, of) = (report.held, report.recorded);
        let text = format!(
            "the replica was rebuilt and lacks {held} of the {of} entries that {} has: none was removed",
            directory.display()
        );
        Failure::new(Kind::Partial, text).hint(
            "see `vfs-sync status` for what the server lost; to remove them, add --yes",
        )
    })
}

/// Returns a change of a dry run in words for people.
pub(crate) const fn change_text(change: Change) -> &'static str {
    match change {
        Change::NewFolder => "new folder",
        Change::NewFile => "new file",
        Change::Content => "content",
        Change::Attributes => "attributes",
        Change::Moved => "moved",
        Change::Deleted => "deleted",
        Change::Copy => "conflicted copy",
    }
}

/// Returns the user's next step for the entry at `entry` on the disk, in the live directory `dir`,
/// which is in step with the folder `path`.
pub(crate) fn next_step(kind: ProblemKind, dir: &str, path: &str, entry: &str) -> String {
    let words = step_of(kind).split_inclusive(' ').map(|word| match word.trim_end() {
        "DIR" => format!("'{dir}' "),
        "PATH" => format!("'{path}' "),
        "DIR`" => format!("'{dir}'`"),
        "PATH`" => format!("'{path}'`"),
        "ENTRY`" => format!("'{entry}'`"),
        _ => word.to_owned(),
    });
    words.collect()
}

/// Returns the user's next step; DIR stands for the directory, PATH for the folder, ENTRY for the entry.
const fn step_of(kind: ProblemKind) -> &'static str {
    use ProblemKind as P;
    match kind {
        P::Name | P::NameRefused => "rename it",
        P::NameChanged => "rename one of the two",
        P::SymbolicLink | P::SpecialFile => {
            "nothing is lost: it stays on this disk only; move it away to be rid of this line"
        }
        P::Unreadable => "let your user read and write it",
        P::Unwritable => "let your user write it, and make room if the disk is full",
        P::Changing => "close the program that writes it",
        P::OwnReplica | P::Temporary | P::NotAFile => "there is nothing to do",
        P::TypeChanged | P::Differs => {
            "the disk's is kept: rename one of the two, and both are synchronised"
        }
        P::NoContent => "start the device that has it: it sends it",
        P::LinkedAgain | P::Shortcut => {
            "keep its own folder in step with another directory: see `vfs-sync folder add`"
        }
        P::NotPermitted => {
            "ask the owner for write access, or move it out of the directory to keep it for yourself"
        }
        P::Time => "set a time from the years 0 to 9999",
        P::Refused => "see `vfs-sync rejected` for the reason, and to try again",
        P::OtherDisk => "mount the disk, or take what is there now: `vfs-sync import DIR PATH`",
        P::OwnLiveFolder => {
            "if nothing keeps it in step, remove the folder .vfs-sync in it: then it is synchronised"
        }
        P::ConflictedCopy => "compare the two, and delete one",
        P::Open => "close the program that has it open",
        P::Kept => "move it out of the folder that was deleted elsewhere, or delete it",
        P::Directory => "`vfs-sync up` tries again every ten seconds",
        P::HeldDeletions => {
            "put the entries back, or delete them everywhere: `vfs-sync folder confirm-deletions DIR`"
        }
        P::LinkNotAllowed => {
            "if its target is right, let it be made: `vfs-sync folder allow ENTRY`"
        }
        P::IgnoreRules => "correct the line, or let your user read the file",
        P::UntrustedRules => {
            "read the rules; to let them count: `vfs-sync folder trust-ignore DIR`"
        }
        P::Excluded => "move it elsewhere, or see `vfs-sync folder include --help`",
        P::IgnoredLeft => "delete it if nobody needs what is in it",
        P::HeldRemovals => {
            "see `vfs-sync recover`; to remove them here: `vfs-sync export DIR PATH --delete --yes`"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_step_names_the_directory_and_its_folder() {
        let step = next_step(ProblemKind::HeldRemovals, "/my PATH", "/in DIR", "/e");
        assert!(step.ends_with("`vfs-sync export '/my PATH' '/in DIR' --delete --yes`"), "{step}");
        let step = next_step(ProblemKind::HeldDeletions, "/d", "/", "/d/e");
        assert!(step.ends_with("`vfs-sync folder confirm-deletions '/d'`"), "{step}");
        assert_eq!(next_step(ProblemKind::Name, "/d", "/", "/d/e"), "rename it");
        let step = next_step(ProblemKind::LinkNotAllowed, "/d", "/", "/d/e f");
        assert!(step.ends_with("`vfs-sync folder allow '/d/e f'`"), "{step}");
    }
}
