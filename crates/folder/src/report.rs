//! Reports of imports and exports: problems, conflicted copies, and changes of a dry run.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use vfs_sync_core::item::Name;

use crate::disk::names::path_text;
use crate::scope::Scope;

/// The number of problems that are kept in full; further ones are only counted.
const KEPT: usize = 1_000;
/// The number of changes that a dry run lists.
const LISTED: usize = 200_000;

/// The reason why an entry was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[derive(strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "camelCase")]
pub enum ProblemKind {
    /// The name cannot be represented, even escaped.
    Name,
    /// The name was changed to be distinct on this disk.
    NameChanged,
    /// The disk rejects the name.
    NameRefused,
    /// The entry is a symbolic link with too long a target, or in the place of an item.
    SymbolicLink,
    /// The link leads out of its directory, and another user may have written it.
    LinkNotAllowed,
    /// The entry is a pipe, socket or device.
    SpecialFile,
    /// The entry could not be read.
    Unreadable,
    /// The entry could not be written.
    Unwritable,
    /// The file changed during each attempt to read it.
    Changing,
    /// The entry belongs to the replica itself.
    OwnReplica,
    /// The file was left behind by an interrupted export.
    Temporary,
    /// The entry is a file on one side and a folder on the other.
    TypeChanged,
    /// Another content has the place of the entry.
    Differs,
    /// The item has no content yet.
    NoContent,
    /// The item is neither file nor folder.
    NotAFile,
    /// The folder is in several places and was written to the first.
    LinkedAgain,
    /// The item is a shortcut into another owner's tree.
    Shortcut,
    /// The user's access level does not allow the change.
    NotPermitted,
    /// The file's time cannot be represented; the nearest one is used.
    Time,
    /// The server rejected the item, so it exists only on this disk.
    Refused,
    /// A different disk is mounted there than the recorded one.
    OtherDisk,
    /// The folder has the marker of another live folder.
    OwnLiveFolder,
    /// The entry was kept beside the item that took its name.
    ConflictedCopy,
    /// A program has the file open for writing; it is replaced or removed once it is closed.
    Open,
    /// The entry is not in the tree, and was kept because it was created or changed here.
    Kept,
    /// The live directory itself cannot be kept in step.
    Directory,
    /// The deletions of a live directory wait for the user's confirmation.
    HeldDeletions,
    /// The removals from a live directory wait for the user's confirmation.
    HeldRemovals,
    /// A `.vfsignore` or one of its rules cannot be used.
    IgnoreRules,
    /// The rules of a `.vfsignore` do not count, because another user may have written them.
    UntrustedRules,
    /// The entry has the place of a folder that is excluded from this device, or is left of it.
    Excluded,
    /// The tree deleted the folder, which stays on the disk with the ignored entries in it.
    IgnoredLeft,
}

impl ProblemKind {
    /// Returns the kind's name in JSON.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Returns whether the problem means that the request was only partly done. Limits of the
    /// disk's file types and names do not count.
    const fn is_failure(self) -> bool {
        !matches!(
            self,
            Self::NameChanged
                | Self::OwnReplica
                | Self::Temporary
                | Self::NotAFile
                | Self::UntrustedRules
                | Self::IgnoredLeft
        )
    }
}

/// An entry that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The path under the directory, for people.
    pub path: String,
    /// The reason in one word.
    pub kind: ProblemKind,
    /// The reason as a sentence.
    pub detail: String,
}

impl Problem {
    /// Creates the problem of the entry at `path`.
    pub fn new(path: &Path, kind: ProblemKind, detail: impl Into<String>) -> Self {
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

    /// Reports an entry that the server rejected, so that it is only on this disk.
    pub(crate) fn rejected(path: &Path) -> Self {
        let detail = "the server rejected it: it exists only here (see `vfs-sync rejected`)";
        Self::new(path, ProblemKind::Refused, detail)
    }
}

/// The problems of an import or export, in bounded memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problems {
    /// The first problems, in full.
    pub first: Vec<Problem>,
    /// The number of problems of each kind.
    pub counts: BTreeMap<ProblemKind, u64>,
}

impl Problems {
    /// Adds a problem; only the first ones are kept in full.
    pub fn add(&mut self, problem: Problem) {
        *self.counts.entry(problem.kind).or_default() += 1;
        if self.first.len() < KEPT {
            self.first.push(problem);
        }
    }

    pub(crate) fn extend(&mut self, problems: Vec<Problem>) {
        problems.into_iter().for_each(|problem| self.add(problem));
    }

    /// Returns the problems of the kinds that `is_one` accepts.
    pub fn only(&self, is_one: impl Fn(ProblemKind) -> bool) -> Self {
        let first = self.first.iter().filter(|problem| is_one(problem.kind)).cloned().collect();
        let counts = self.counts.iter().filter(|(kind, _)| is_one(**kind));
        Self { first, counts: counts.map(|(kind, count)| (*kind, *count)).collect() }
    }

    /// Returns the problems without those of paths that `others` has too.
    pub fn except(&self, others: &Self) -> Self {
        let listed: BTreeSet<&str> = others.first.iter().map(|one| one.path.as_str()).collect();
        let mut rest = Self { first: Vec::new(), counts: self.counts.clone() };
        for problem in &self.first {
            if !listed.contains(problem.path.as_str()) {
                rest.first.push(problem.clone());
            } else if let Some(count) = rest.counts.get_mut(&problem.kind) {
                *count = count.saturating_sub(1);
            }
        }
        rest.counts.retain(|_, count| *count > 0);
        rest
    }

    /// Returns whether each problem is known and only that of its own entry: a look at other folders
    /// leaves them as they are.
    pub fn are_of_entries(&self) -> bool {
        let of_entry = |kind: &ProblemKind| {
            use ProblemKind as P;
            matches!(
                kind,
                P::SpecialFile
                    | P::SymbolicLink
                    | P::NotAFile
                    | P::Name
                    | P::NameRefused
                    | P::Time
                    | P::NoContent
            )
        };
        self.counts.keys().all(of_entry) && self.total() == self.first.len() as u64
    }

    /// Returns these problems of a look at some folders, with those of `earlier` in other folders.
    pub fn after(self, earlier: &Self, visited: &Scope) -> Self {
        let Scope::Folders(folders) = visited else { return self };
        let visited: BTreeSet<String> = folders.iter().map(|folder| path_text(folder)).collect();
        let mut all = Self::default();
        for problem in &earlier.first {
            let folder = problem.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            if !visited.contains(folder) {
                all.add(problem.clone());
            }
        }
        all.add_all(&self);
        all
    }

    /// Adds all problems of `others`.
    pub fn add_all(&mut self, others: &Self) {
        for (kind, count) in &others.counts {
            let sum = self.counts.entry(*kind).or_default();
            *sum = sum.saturating_add(*count);
        }
        let room = KEPT.saturating_sub(self.first.len());
        self.first.extend(others.first.iter().take(room).cloned());
    }

    /// Returns the number of problems of all kinds.
    pub fn total(&self) -> u64 {
        sum(self.counts.values())
    }

    /// Returns the number of problems that mean that the request was only partly done.
    pub fn failures(&self) -> u64 {
        sum(self.counts.iter().filter(|(kind, _)| kind.is_failure()).map(|(_, count)| count))
    }
}

/// Formats a number with thousands separators.
pub(crate) fn count_text(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn sum<'a>(counts: impl Iterator<Item = &'a u64>) -> u64 {
    counts.fold(0, |sum, count| sum.saturating_add(*count))
}

/// A content that was kept beside another, with its new name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The path of the entry whose name the other one has.
    pub path: String,
    /// The name that the copy got.
    pub copy: String,
}

/// The conflicted copies of an import, in bounded memory.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Conflicts {
    /// The first conflicts, in full.
    pub first: Vec<Conflict>,
    /// The number of conflicted copies.
    pub count: u64,
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

/// The change that a dry run lists for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// A folder would be made.
    NewFolder,
    /// A file would be made.
    NewFile,
    /// The file would get another content.
    Content,
    /// Only the time or the permission bits would change.
    Attributes,
    /// The entry would be moved or renamed.
    Moved,
    /// The entry would be deleted.
    Deleted,
    /// A new file is written beside the existing one of its name.
    Copy,
}

/// A change that a dry run lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// The kind of the change.
    pub change: Change,
    /// The path of the entry, for people.
    pub path: String,
}

/// The changes that a dry run lists, in bounded memory.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Changes {
    /// The first changes, in order.
    pub entries: Vec<Changed>,
    /// The number of changes beyond the listed ones.
    pub more: u64,
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
    fn thousands_are_separated() {
        let texts = [0, 999, 1_000, 1_234_567].map(count_text);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_kind_is_spelt_alike_everywhere() {
        let kind = ProblemKind::NameChanged;
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
}
