//! A file of a simulated disk: its visible state, its durable state, and the changes between them.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Result};

use sqlite_vfs::LockKind;

use super::Unsynced;

/// The size of a sector, which a disk writes as a whole or not at all.
const SECTOR: u64 = 512;

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

#[derive(Debug, Default)]
pub(super) struct File {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// True once the file was synced: until then its name is not durable either.
    synced: bool,
    /// The changes since the last sync.
    changes: Vec<Change>,
    locks: BTreeMap<u64, LockKind>,
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a simulated file is small")
}

fn apply(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let (from, to) = (index(offset), index(offset) + new.len());
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(new);
}

impl File {
    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Reads bytes; missing ones are zeros and are reported as missing.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let rest = self.bytes.get(index(offset)..).unwrap_or_default();
        let there = rest.len().min(buffer.len());
        buffer[..there].copy_from_slice(&rest[..there]);
        buffer[there..].fill(0);
        if there == buffer.len() { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    pub(super) fn write(&mut self, new: &[u8], offset: u64) {
        apply(&mut self.bytes, offset, new);
        self.changes.push(Change::Write { offset, bytes: new.to_vec() });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.bytes.resize(index(len), 0);
        self.changes.push(Change::Length(len));
    }

    pub(super) fn sync(&mut self) {
        for change in self.changes.drain(..) {
            match change {
                Change::Write { offset, bytes } => apply(&mut self.durable, offset, &bytes),
                Change::Length(len) => self.durable.resize(index(len), 0),
            }
        }
        self.synced = true;
    }

    /// Returns whether the file exists after a power failure.
    pub(super) fn survives(&self, unsynced: &Unsynced) -> bool {
        self.synced || matches!(unsynced, Unsynced::Kept)
    }

    /// Makes the state after a power failure durable; after the death of a process nothing changes.
    pub(super) fn recover(&mut self, unsynced: &mut Unsynced) {
        if matches!(unsynced, Unsynced::Kept) {
            return;
        }
        let changes = std::mem::take(&mut self.changes);
        if let Unsynced::Torn(random) = unsynced {
            for change in changes {
                match change {
                    Change::Length(len) if random.below(2) == 0 => {
                        self.durable.resize(index(len), 0);
                    }
                    Change::Length(_) => {}
                    Change::Write { mut offset, bytes } => {
                        let mut rest = &bytes[..];
                        while !rest.is_empty() {
                            let room = index(SECTOR - offset % SECTOR).min(rest.len());
                            let (sector, after) = rest.split_at(room);
                            if random.below(2) == 0 {
                                apply(&mut self.durable, offset, sector);
                            }
                            offset += room as u64;
                            rest = after;
                        }
                    }
                }
            }
        }
        self.bytes.clone_from(&self.durable);
    }

    /// Copies the file without its open handles.
    pub(super) fn closed(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            durable: self.durable.clone(),
            synced: self.synced,
            changes: self.changes.clone(),
            locks: BTreeMap::new(),
        }
    }

    pub(super) fn unlock_all(&mut self) {
        self.locks.clear();
    }

    pub(super) fn lock_of(&self, handle: u64) -> LockKind {
        self.locks.get(&handle).copied().unwrap_or(LockKind::None)
    }

    pub(super) fn is_reserved(&self) -> bool {
        self.locks.values().any(|held| *held >= LockKind::Reserved)
    }

    /// Changes the lock of a handle and returns whether the handle has it now.
    pub(super) fn lock(&mut self, handle: u64, kind: LockKind) -> bool {
        let others = || self.locks.iter().filter(|(other, _)| **other != handle);
        let free = match kind {
            LockKind::None => true,
            LockKind::Shared => others().all(|(_, held)| *held < LockKind::Pending),
            LockKind::Reserved | LockKind::Pending => {
                others().all(|(_, held)| *held < LockKind::Reserved)
            }
            LockKind::Exclusive => others().next().is_none(),
        };
        match (free, kind) {
            (false, _) => {}
            (true, LockKind::None) => drop(self.locks.remove(&handle)),
            (true, kind) => drop(self.locks.insert(handle, kind)),
        }
        free
    }
}
