//! What a [`CrashDisk`](super::CrashDisk) has, and what of it survives a loss of power.
//!
//! What the file systems of Linux guarantee is assumed, and no more:
//!
//! - A rename, also one that replaces or exchanges, happens as a whole or not at all.
//! - `fsync` of a file makes its bytes, its attributes and its present name durable; of a folder, the
//!   names in it.
//! - [`Order::Journal`], as on ext4 and xfs: changes of names become durable in their order, and any
//!   `fsync` makes all durable that came before it. [`Order::PerFile`], as on btrfs: each change of names may be lost by
//!   itself, except those that another one needs, of the same name, the same file or the folder above.
//! - Bytes that were not synchronised are kept or lost by the page; what is lost has its earlier bytes,
//!   or zeros where there were none or the file was cut, or is cut off. The times
//!   may be the new ones although the bytes are not; bytes that changed have the new ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use fuser::{Errno, FileType};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) const ROOT: u64 = 1;
const PAGE: usize = 4_096;

/// The order in which changes of names become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Journal,
    PerFile,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: FileType,
    pub(super) mode: u16,
    pub(super) mtime: SystemTime,
    pub(super) ctime: SystemTime,
    /// The bytes of a file, or the target of a link.
    pub(super) data: Vec<u8>,
    /// The entries of a folder.
    pub(super) entries: BTreeMap<OsString, u64>,
    /// Tells apart the files that had one inode.
    pub(super) generation: u64,
}

/// A change of names: each with the inode that it has after it.
type Step = Vec<(u64, OsString, Option<u64>)>;
type Nodes = HashMap<u64, Node>;

pub(super) struct Image {
    order: Order,
    /// What programs see.
    now: Nodes,
    /// What is durable.
    kept: Nodes,
    /// The changes of names that are not durable.
    steps: Vec<Step>,
    /// The inodes whose bytes or attributes are not durable.
    unsynced: BTreeSet<u64>,
    /// The sizes to which files were cut since they were durable.
    cut: HashMap<u64, usize>,
    next: u64,
    generation: u64,
    pub(super) operations: u64,
    fails_at: Option<(u64, u32)>,
    pub(super) is_off: bool,
}

type Answer<T> = Result<T, Errno>;

impl Image {
    pub(super) fn new(order: Order) -> Self {
        let mut image = Self {
            order,
            now: Nodes::new(),
            kept: Nodes::new(),
            steps: Vec::new(),
            unsynced: BTreeSet::new(),
            cut: HashMap::new(),
            next: ROOT + 1,
            generation: 0,
            operations: 0,
            fails_at: None,
            is_off: false,
        };
        let root = image.node_of(FileType::Directory, 0o755);
        image.now.insert(ROOT, root.clone());
        image.kept.insert(ROOT, root);
        image
    }

    fn node_of(&self, kind: FileType, mode: u16) -> Node {
        let (mtime, generation) = (SystemTime::now(), self.generation);
        let (data, entries) = (Vec::new(), BTreeMap::new());
        Node { kind, mode, mtime, ctime: mtime, data, entries, generation }
    }

    pub(super) fn fail_after(&mut self, operations: u64, victim: u32) {
        self.fails_at = Some((self.operations + operations, victim));
    }

    /// Counts an operation that changes the disk or synchronises it; fails where the power does.
    pub(super) fn count(&mut self) -> Answer<()> {
        self.is_on()?;
        if let Some((at, victim)) = self.fails_at
            && self.operations >= at
        {
            self.is_off = true;
            let victim = i32::try_from(victim).ok().and_then(Pid::from_raw);
            victim.map(|victim| kill_process(victim, Signal::KILL));
            return Err(Errno::EIO);
        }
        self.operations += 1;
        Ok(())
    }

    pub(super) fn is_on(&self) -> Answer<()> {
        if self.is_off { Err(Errno::EIO) } else { Ok(()) }
    }

    pub(super) fn node(&self, inode: u64) -> Answer<&Node> {
        self.is_on()?;
        self.now.get(&inode).ok_or(Errno::ESTALE)
    }

    /// Changes an inode's bytes or attributes.
    pub(super) fn change(&mut self, inode: u64) -> Answer<&mut Node> {
        self.unsynced.insert(inode);
        let node = self.now.get_mut(&inode).ok_or(Errno::ESTALE)?;
        node.ctime = SystemTime::now();
        Ok(node)
    }

    /// Gives a file another size.
    pub(super) fn resize(&mut self, inode: u64, size: usize) -> Answer<()> {
        let before = self.node(inode)?.data.len();
        if size < before {
            let least = self.cut.get(&inode).map_or(size, |least| size.min(*least));
            self.cut.insert(inode, least);
        }
        let of = self.change(inode)?;
        of.data.resize(size, 0);
        of.mtime = of.ctime;
        Ok(())
    }

    pub(super) fn find(&self, folder: u64, name: &OsStr) -> Answer<Option<u64>> {
        Ok(self.node(folder)?.entries.get(name).copied())
    }

    /// Creates an entry.
    pub(super) fn make(
        &mut self,
        folder: u64,
        name: &OsStr,
        kind: FileType,
        mode: u16,
        data: &[u8],
    ) -> Answer<u64> {
        if self.find(folder, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let inode = self.next;
        self.next += 1;
        let node = Node { data: data.to_vec(), ..self.node_of(kind, mode) };
        self.now.insert(inode, node);
        self.unsynced.insert(inode);
        self.rename(vec![(folder, name.to_owned(), Some(inode))])?;
        Ok(inode)
    }

    /// Changes names, as a whole.
    pub(super) fn rename(&mut self, step: Step) -> Answer<()> {
        for (folder, name, inode) in &step {
            let above = self.change(*folder)?;
            above.mtime = above.ctime;
            match inode {
                Some(inode) => above.entries.insert(name.clone(), *inode),
                None => above.entries.remove(name),
            };
            if let Some(inode) = inode {
                self.change(*inode)?;
            }
        }
        self.steps.push(step);
        Ok(())
    }

    /// Makes an inode durable, with the names that this brings along.
    pub(super) fn sync(&mut self, inode: u64) -> Answer<()> {
        let now = self.node(inode)?.clone();
        let steps = std::mem::take(&mut self.steps);
        let (synced, left) = match self.order {
            Order::Journal => (steps, Vec::new()),
            Order::PerFile => needed_by(inode, steps),
        };
        synced.into_iter().for_each(|step| self.keep(step));
        self.steps = left;
        self.ensure(inode);
        if let Some(kept) = self.kept.get_mut(&inode) {
            let entries = std::mem::take(&mut kept.entries);
            *kept = Node { entries, ..now };
        }
        self.unsynced.remove(&inode);
        self.cut.remove(&inode);
        Ok(())
    }

    /// Gives the durable state an inode, without the bytes that it has now.
    fn ensure(&mut self, inode: u64) {
        let Some(now) = self.now.get(&inode) else { return };
        self.kept.entry(inode).or_insert_with(|| {
            // The target of a link is durable with its name.
            let data = if now.kind == FileType::Symlink { now.data.clone() } else { Vec::new() };
            Node { data, entries: BTreeMap::new(), ..now.clone() }
        });
    }

    fn keep(&mut self, step: Step) {
        for (folder, name, inode) in step {
            self.ensure(folder);
            inode.into_iter().for_each(|inode| self.ensure(inode));
            let Some(kept) = self.kept.get_mut(&folder) else { continue };
            match inode {
                Some(inode) => kept.entries.insert(name, inode),
                None => kept.entries.remove(&name),
            };
        }
    }

    /// Loses what is not durable, except what the random numbers leave; says what was lost.
    pub(super) fn restart(&mut self, random: &mut fastrand::Rng) -> Vec<String> {
        let mut said = Vec::new();
        let steps = std::mem::take(&mut self.steps);
        let survive = match random.u8(..4) {
            0 => steps.len(),
            1 => 0,
            _ => random.usize(..=steps.len()),
        };
        let (mut lost, mut lost_names) = (BTreeSet::new(), BTreeSet::new());
        for (at, step) in steps.into_iter().enumerate() {
            let needs_lost = step.iter().any(|(folder, name, inode)| {
                lost.contains(folder)
                    || inode.is_some_and(|inode| lost.contains(&inode))
                    || lost_names.contains(&(*folder, name.clone()))
            });
            let survives = match self.order {
                Order::Journal => at < survive,
                Order::PerFile => !needs_lost && random.bool(),
            };
            if survives {
                self.keep(step);
                continue;
            }
            said.push(format!("lost {step:?}"));
            for (folder, name, inode) in step {
                lost.extend(inode);
                lost_names.insert((folder, name));
            }
        }
        let mut reached = BTreeSet::new();
        let mut left = vec![ROOT];
        while let Some(inode) = left.pop() {
            if let Some(node) = self.kept.get(&inode).filter(|_| reached.insert(inode)) {
                left.extend(node.entries.values().copied());
            }
        }
        for inode in std::mem::take(&mut self.unsynced) {
            let (Some(now), Some(kept)) = (self.now.get(&inode), self.kept.get_mut(&inode)) else {
                continue;
            };
            if kept.kind == FileType::RegularFile && reached.contains(&inode) {
                let (before, after) = (kept.data.len(), now.data.len());
                tear(kept, now, self.cut.get(&inode).copied(), random);
                let size = kept.data.len();
                said.push(format!("inode {inode}: of {before} to {after} bytes: {size}"));
            } else if kept.kind == FileType::Directory && random.bool() {
                (kept.mode, kept.mtime, kept.ctime) = (now.mode, now.mtime, now.ctime);
            }
        }
        self.cut.clear();
        self.kept.retain(|inode, _| reached.contains(inode));
        self.now = self.kept.clone();
        // As on a real disk: the inode of a file that was lost is another one's later.
        self.next = self.kept.keys().max().map_or(ROOT, |last| *last) + 1;
        self.generation += 1;
        (self.is_off, self.fails_at) = (false, None);
        said
    }
}

/// Splits changes of names into those that `fsync` of an inode makes durable, and the others.
fn needed_by(inode: u64, steps: Vec<Step>) -> (Vec<Step>, Vec<Step>) {
    let (mut inodes, mut names) = (BTreeSet::from([inode]), BTreeSet::new());
    let (mut synced, mut left) = (Vec::new(), Vec::new());
    for step in steps.into_iter().rev() {
        let is_needed = step.iter().any(|(folder, name, of)| {
            // The names in a folder that is synchronised itself, and those of what is needed.
            *folder == inode
                || of.is_some_and(|of| inodes.contains(&of))
                || names.contains(&(*folder, name.clone()))
        });
        if !is_needed {
            left.push(step);
            continue;
        }
        for (folder, name, of) in &step {
            inodes.extend([Some(*folder), *of].into_iter().flatten());
            names.insert((*folder, name.clone()));
        }
        synced.push(step);
    }
    synced.reverse();
    left.reverse();
    (synced, left)
}

/// Gives a file what a loss of power leaves of the bytes that were not synchronised. `floor` is the
/// size to which it was cut since, if it was.
fn tear(kept: &mut Node, now: &Node, floor: Option<usize>, random: &mut fastrand::Rng) {
    if random.bool() {
        (kept.mode, kept.mtime, kept.ctime) = (now.mode, now.mtime, now.ctime);
    }
    let survives = random.u8(..4);
    if kept.data == now.data || survives == 1 {
        return;
    }
    if survives == 0 {
        *kept = Node { entries: BTreeMap::new(), ..now.clone() };
        return;
    }
    let before = std::mem::take(&mut kept.data);
    let (least, most) = (
        before.len().min(now.data.len()).min(floor.unwrap_or(usize::MAX)),
        before.len().max(now.data.len()),
    );
    let size = match random.u8(..3) {
        0 => before.len(),
        1 => now.data.len(),
        _ => (random.usize(least / PAGE..=most / PAGE) * PAGE).clamp(least, most),
    };
    let mut data = vec![0; size];
    for start in (0..size).step_by(PAGE) {
        let arrives = random.bool();
        let of = if arrives { &now.data } else { &before };
        // Blocks of a file that was cut are other ones, which may never have been written.
        if !arrives && floor.is_some_and(|floor| start >= floor) && random.bool() {
            continue;
        }
        let end = (start + PAGE).min(size).min(of.len());
        if start < end {
            data[start..end].copy_from_slice(&of[start..end]);
        }
    }
    if data != before {
        (kept.mode, kept.mtime, kept.ctime) = (now.mode, now.mtime, now.ctime);
    }
    kept.data = data;
}
