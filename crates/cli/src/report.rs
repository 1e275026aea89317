//! What an import or export left out, and why.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::fs::names::path_text;

/// How many problems are kept whole; of the rest only the number is.
const KEPT: usize = 1_000;

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
