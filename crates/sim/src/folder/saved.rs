//! The contents that programs made: what must still be somewhere, and what may be seen at all.

use std::collections::{BTreeMap, BTreeSet};

/// A content that a program finished saving.
#[derive(Debug, Clone)]
struct Value {
    /// The device and the path, for people.
    at: String,
    /// True once a program that had it in front of it has overwritten or deleted it.
    superseded: bool,
}

/// The contents of a world.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    count: u32,
    values: BTreeMap<Vec<u8>, Value>,
    /// Contents that were overwritten or deleted before the program that wrote them was finished, on
    /// another device that had them already.
    superseded: BTreeSet<Vec<u8>>,
    /// Every content that a file had at some moment, finished or not.
    existed: BTreeSet<Vec<u8>>,
    /// The files that programs took the last name from, by device and inode: what another program still writes
    /// to one of them is lost on any disk.
    nameless: BTreeSet<(u64, u64)>,
}

impl Saved {
    /// Makes a new content of about `size` bytes; contents of one size differ in a few bytes.
    pub(crate) fn make(&mut self, size: usize) -> Vec<u8> {
        self.count += 1;
        let mut bytes = format!("<{:06}>", self.count).into_bytes();
        while bytes.len() < size {
            let part = format!(" {:06}", self.count);
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }

    /// Notes that a file had this content at a moment.
    pub(crate) fn existed(&mut self, content: &[u8]) {
        if !self.existed.contains(content) {
            self.existed.insert(content.to_vec());
        }
    }

    /// Notes that a program has finished saving a content.
    pub(crate) fn save(&mut self, content: &[u8], at: String) {
        self.existed(content);
        // An empty file says nothing that could be missed.
        if !content.is_empty() {
            // One that was saved before, and is touched, is not new.
            let value = Value { at, superseded: self.superseded.contains(content) };
            self.values.entry(content.to_vec()).or_insert(value);
        }
    }

    /// Notes that a program overwrites or deletes a content that it has in front of it.
    pub(crate) fn supersede(&mut self, content: &[u8]) {
        match self.values.get_mut(content) {
            Some(value) => value.superseded = true,
            None => drop(self.superseded.insert(content.to_vec())),
        }
    }

    /// Notes that a program took the last name from a file, with its content.
    pub(crate) fn remove(&mut self, last: &Last) {
        self.supersede(&last.content);
        self.nameless.insert(last.id);
    }

    /// Returns whether a program took the last name from a file.
    pub(crate) fn is_nameless(&self, id: (u64, u64)) -> bool {
        self.nameless.contains(&id)
    }

    /// Returns whether a file had this content at some moment.
    pub(crate) fn has_existed(&self, content: &[u8]) -> bool {
        content.is_empty() || self.existed.contains(content)
    }

    /// Returns the contents that nobody has replaced and that are not among `found`.
    pub(crate) fn lost(&self, found: &BTreeSet<Vec<u8>>) -> Vec<String> {
        let lost = self
            .values
            .iter()
            .filter(|(content, value)| !value.superseded && !found.contains(*content));
        lost.map(|(content, value)| format!("{} of {}", text(content), value.at)).collect()
    }
}

/// A file that is about to lose its last name.
pub(crate) struct Last {
    pub(crate) id: (u64, u64),
    pub(crate) content: Vec<u8>,
}

/// Formats the beginning of a content.
pub(crate) fn text(content: &[u8]) -> String {
    let end = content.len().min(24);
    format!("{:?} ({} bytes)", String::from_utf8_lossy(&content[..end]), content.len())
}
