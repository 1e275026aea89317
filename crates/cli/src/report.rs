//! What an import or export left out, and why.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Serialize;
use vfs_sync_core::item::Name;

use crate::fs::names::path_text;

/// How many problems are kept whole; of the rest only the number is.
const KEPT: usize = 1_000;
/// How many changes of a dry run are listed.
const LISTED: usize = 200_000;

/// Why something was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ProblemKind {
    /// Its name cannot be carried, even escaped.
    Name,
    /// Its name was changed, so that it is distinct on this disk.
    NameChanged,
    /// The disk does not take its name.
    NameRefused,
    /// A symbolic link.
    SymbolicLink,
    /// A pipe, socket or device.
    SpecialFile,
    /// Reading failed.
    Unreadable,
    /// Writing failed.
    Unwritable,
    /// It kept changing while it was read.
    Changing,
    /// It belongs to the replica that is imported into.
    OwnReplica,
    /// A left-over of an export.
    Temporary,
    /// A file here, a folder there.
    TypeChanged,
    /// Something else is there already.
    Differs,
    /// It has no content yet.
    NoContent,
    /// It is no file or folder.
    NotAFile,
    /// It hangs in several places and was written to the first.
    LinkedAgain,
    /// It is a shortcut into another owner's tree.
    Shortcut,
    /// One's level on it is too low.
    NotPermitted,
    /// Its time is outside what can be carried; the nearest one is.
    Time,
    /// The server refused it, so that it is only on this disk.
    Refused,
    /// Another disk is mounted there than was recorded.
    OtherDisk,
    /// It was kept beside what took its name.
    ConflictedCopy,
    /// It is not in the tree, and was not removed: it is not what was written there.
    Kept,
}

impl ProblemKind {
    /// As in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::NameChanged => "nameChanged",
            Self::NameRefused => "nameRefused",
            Self::SymbolicLink => "symbolicLink",
            Self::SpecialFile => "specialFile",
            Self::Unreadable => "unreadable",
            Self::Unwritable => "unwritable",
            Self::Changing => "changing",
            Self::OwnReplica => "ownReplica",
            Self::Temporary => "temporary",
            Self::TypeChanged => "typeChanged",
            Self::Differs => "differs",
            Self::NoContent => "noContent",
            Self::NotAFile => "notAFile",
            Self::LinkedAgain => "linkedAgain",
            Self::Shortcut => "shortcut",
            Self::NotPermitted => "notPermitted",
            Self::Time => "time",
            Self::Refused => "refused",
            Self::OtherDisk => "otherDisk",
            Self::ConflictedCopy => "conflictedCopy",
            Self::Kept => "kept",
        }
    }

    /// Whether what the user asked for is not wholly done because of it. What follows from what
    /// an import takes and what a disk can hold is told, but no failure.
    const fn is_failure(self) -> bool {
        !matches!(self, Self::NameChanged | Self::OwnReplica | Self::Temporary | Self::NotAFile)
    }
}

/// One thing left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    pub(crate) path: String,
    pub(crate) kind: ProblemKind,
    pub(crate) detail: String,
}

impl Problem {
    pub(crate) fn new(path: &Path, kind: ProblemKind, detail: impl Into<String>) -> Self {
        let path = path_text(path);
        let path = if path.is_empty() { ".".to_owned() } else { path };
        Self { path, kind, detail: detail.into() }
    }

    pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self::new(path, ProblemKind::Unreadable, error.to_string())
    }

    pub(crate) fn unwritable(path: &Path, error: &io::Error) -> Self {
        Self::new(path, ProblemKind::Unwritable, error.to_string())
    }

    /// An entry that the server rejected, so that it is only on this disk.
    pub(crate) fn rejected(path: &Path) -> Self {
        let detail = "the server refused it: it is only here (see `vfs-sync rejected`)";
        Self::new(path, ProblemKind::Refused, detail)
    }
}

/// All that was left out, in bounded memory.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Problems {
    /// The first of them.
    pub(crate) first: Vec<Problem>,
    /// How many there are of each kind.
    pub(crate) counts: BTreeMap<ProblemKind, u64>,
}

impl Problems {
    pub(crate) fn add(&mut self, problem: Problem) {
        *self.counts.entry(problem.kind).or_default() += 1;
        if self.first.len() < KEPT {
            self.first.push(problem);
        }
    }

    pub(crate) fn extend(&mut self, problems: Vec<Problem>) {
        problems.into_iter().for_each(|problem| self.add(problem));
    }

    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// How many of them mean that not all was done.
    pub(crate) fn failures(&self) -> u64 {
        self.counts.iter().filter(|(kind, _)| kind.is_failure()).map(|(_, count)| count).sum()
    }
}

/// A content that was kept beside another, and the name it got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Conflict {
    pub(crate) path: String,
    pub(crate) copy: String,
}

/// All that was kept beside something else, in bounded memory.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Conflicts {
    /// The first of them.
    pub(crate) first: Vec<Conflict>,
    pub(crate) count: u64,
}

impl Conflicts {
    pub(crate) fn add(&mut self, path: &Path, copy: &Name) {
        self.count += 1;
        if self.first.len() < KEPT {
            let (path, copy) = (path_text(path), copy.as_str().to_owned());
            self.first.push(Conflict { path, copy });
        }
    }
}

/// What a dry run would do to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Change {
    NewFolder,
    NewFile,
    Content,
    Attributes,
    Moved,
    Deleted,
    /// A new file beside the one of its name.
    Copy,
}

impl Change {
    /// As a person reads it.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::NewFolder => "new folder",
            Self::NewFile => "new file",
            Self::Content => "content",
            Self::Attributes => "attributes",
            Self::Moved => "moved",
            Self::Deleted => "deleted",
            Self::Copy => "conflicted copy",
        }
    }
}

/// One thing that a dry run would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Changed {
    pub(crate) change: Change,
    pub(crate) path: String,
}

/// All that a dry run would do, in bounded memory.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Changes {
    pub(crate) entries: Vec<Changed>,
    /// How many there are beyond these.
    pub(crate) more: u64,
}

impl Changes {
    pub(crate) fn add(&mut self, change: Change, path: &Path) {
        if self.entries.len() == LISTED {
            self.more += 1;
            return;
        }
        self.entries.push(Changed { change, path: path_text(path) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_problems_take_bounded_memory_and_are_all_counted() {
        let mut problems = Problems::default();
        for _ in 0..KEPT * 3 {
            problems.add(Problem::new(Path::new("x"), ProblemKind::SymbolicLink, "a link"));
        }
        problems.add(Problem::new(Path::new(""), ProblemKind::Temporary, "left"));
        assert_eq!(problems.first.len(), KEPT);
        assert_eq!(problems.total(), KEPT as u64 * 3 + 1);
        assert_eq!(problems.failures(), KEPT as u64 * 3);
    }

    #[test]
    fn a_kind_is_spelt_alike_everywhere() {
        let kind = ProblemKind::NameChanged;
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
}
