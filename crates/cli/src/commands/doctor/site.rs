//! The replica that is examined, and the commands that a next step names for it.

use std::path::{Path, PathBuf};

use vfs_sync_core::runbook::Entry;

use crate::args::Global;
use crate::error::Result;
use crate::replica;

/// The replica that is examined.
pub(super) struct Site<'a> {
    pub(super) global: &'a Global,
    pub(super) directory: PathBuf,
}

impl<'a> Site<'a> {
    pub(super) fn new(global: &'a Global) -> Result<Self> {
        Ok(Self { global, directory: replica::directory(global)? })
    }

    /// Returns a command on this replica, to paste.
    pub(super) fn command(&self, rest: &str) -> String {
        match &self.global.replica {
            Some(directory) => format!("vfs-sync --replica {} {rest}", quoted(directory)),
            None => format!("vfs-sync {rest}"),
        }
    }

    /// Returns the command of an entry of the runbook, for this replica if it is one on a replica.
    pub(super) fn command_of(&self, entry: &Entry) -> String {
        let operators = ["blobs ", "admin ", "token ", "explain ", "init ", "--version"];
        match entry.command.strip_prefix("vfs-sync ") {
            Some(rest) if !operators.iter().any(|one| rest.starts_with(one)) => self.command(rest),
            _ => entry.command.to_owned(),
        }
    }
}

/// Quotes a path for a shell.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_command_is_one_word() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
