//! The part of a directory that an import or export visits.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The number of folders from which on the whole directory is visited.
const MANY: usize = 4_096;

/// The folders to visit, without the folders in them that are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All folders of the directory.
    Whole,
    /// The paths of these folders, relative to the directory.
    Folders(BTreeSet<PathBuf>),
}

impl Default for Scope {
    fn default() -> Self {
        Self::nothing()
    }
}

impl Scope {
    /// Returns the scope without any folder.
    pub const fn nothing() -> Self {
        Self::Folders(BTreeSet::new())
    }

    /// Adds the folders of another scope.
    pub fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Whole, _) => {}
            (_, Self::Whole) => *self = Self::Whole,
            (Self::Folders(folders), Self::Folders(more)) => {
                folders.extend(more);
                if folders.len() > MANY {
                    *self = Self::Whole;
                }
            }
        }
    }

    /// Returns whether a folder is in the scope by itself.
    pub(crate) fn has(&self, folder: &Path) -> bool {
        matches!(self, Self::Folders(folders) if folders.contains(folder))
    }

    pub(crate) fn add_folder(&mut self, folder: PathBuf) {
        self.add(Self::Folders(BTreeSet::from([folder])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_folders_are_the_whole_directory() {
        let mut scope = Scope::nothing();
        for number in 0..MANY {
            scope.add_folder(PathBuf::from(number.to_string()));
            scope.add_folder(PathBuf::from("0"));
        }
        assert!(matches!(&scope, Scope::Folders(folders) if folders.len() == MANY));
        scope.add_folder(PathBuf::from("one more"));
        assert_eq!(scope, Scope::Whole);
        scope.add(Scope::nothing());
        assert_eq!(scope, Scope::Whole);
    }
}
