//! The record of a directory for imports and exports: unchanged and moved entries, and the rows.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use vfs_sync_client::{
    ClientError, DirectoryRecord, DiskState, DiskTime, EntryKind, EntryRecord, EntryState,
    FoundDirectory, Node, ROOT_ENTRY, SyncClient, TreeState,
};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::time::Timestamp;

use super::decision::Row;
use super::disk::dir::{Kind, Root, Stat};
use super::disk::{link, metadata};
use super::seam;

/// The number of seconds after a read in which a change may not show in a file's times: the
/// coarsest file systems count in steps of two.
const SETTLES_AFTER: i64 = 2;

/// The number of entries from which removals wait for the user's confirmation, if they are more
/// than half of all.
const MANY_REMOVALS: u64 = 100;

/// The number of places that may be exchanged at once and are still recognised as moves.
const LONGEST_EXCHANGE: usize = 16;

/// A time that no disk reports.
pub(crate) const NO_TIME: DiskTime = DiskTime { seconds: 0, nanos: 0 };

/// Returns the identity of a directory, which a move does not change: its inode and time of birth;
/// without a time of birth, its inode and device.
pub(crate) fn identity(stat: &Stat) -> Vec<u8> {
    let (device, inode) = stat.id;
    match stat.born {
        Some(born) => format!("inode {inode} born {}.{:09}", born.seconds, born.nanos),
        None => format!("inode {inode} device {device}"),
    }
    .into_bytes()
}

/// Returns whether an entry has the recorded identity; without a time of birth, the size and time
/// must match too.
pub(crate) fn is_same_entry(recorded: &DiskState, stat: &Stat) -> bool {
    if recorded.inode != stat.id.1 {
        return false;
    }
    match (recorded.born, stat.born) {
        (Some(recorded), Some(born)) => recorded == born,
        _ => recorded.size == size(stat) && recorded.mtime == stat.modified,
    }
}

/// Returns whether a file or link is as recorded, as far as its attributes show.
pub(crate) fn is_unchanged(recorded: &DiskState, stat: &Stat) -> bool {
    !recorded.unsettled
        && matches!(
            (recorded.kind, stat.kind),
            (EntryKind::File, Kind::File) | (EntryKind::Link, Kind::Link)
        )
        && recorded.size == stat.size
        && recorded.mtime == stat.modified
        && recorded.ctime == stat.changed
        && recorded.inode == stat.id.1
        && recorded.mode == stat.mode
        && (recorded.born.is_none() || stat.born.is_none() || recorded.born == stat.born)
}

/// Returns whether a file that was renamed aside is the one seen before: a rename changes only the
/// ctime.
pub(crate) fn is_same_but_renamed(seen: &Stat, now: &Stat) -> bool {
    seen.kind == now.kind
        && seen.id == now.id
        && size(seen) == size(now)
        && seen.modified == now.modified
        && seen.born == now.born
}

fn size(stat: &Stat) -> u64 {
    if matches!(stat.kind, Kind::File | Kind::Link) { stat.size } else { 0 }
}

/// The entry at a recorded place.
enum Occupant {
    Nothing,
    Entry(Stat),
    /// It cannot be read.
    Unknown,
}

/// The record of one directory, in use.
pub struct Record {
    client: SyncClient,
    pub(crate) directory: DirectoryRecord,
    /// The device of the directory itself.
    device: u64,
    next: u64,
    /// The number of rows at the start.
    pub(crate) count: u64,
    /// The start of this use, in seconds.
    started: i64,
    /// The rows that were matched with a new place, or whose place another item took.
    pub(crate) claimed: HashSet<u64>,
    /// The places of rows that were moved and are not written yet: the row of the folder, and the
    /// name.
    places: HashMap<u64, (u64, Vec<u8>)>,
}

/// A directory and its record, before it is used.
pub struct Found {
    /// The directory's record, or the reason why there is none.
    pub found: FoundDirectory,
    identity: Vec<u8>,
    path: Vec<u8>,
    device: u64,
}

impl Record {
    /// Finds the record of the directory `root` for the folder `target`.
    pub fn find(
        client: &SyncClient,
        root: &mut Root,
        target: Option<&ItemId>,
    ) -> std::io::Result<Result<Found, ClientError>> {
        let stat = root.folder(Path::new(""))?.stat_self()?;
        let path = root.path().canonicalize()?.into_os_string().into_vec();
        let identity = identity(&stat);
        let found = client.directories().find(&identity, &path, target);
        Ok(found.map(|found| Found { found, identity, path, device: stat.id.0 }))
    }

    /// Begins to use the record; with `adopt` also the record of a directory that was replaced.
    /// Unless `writes` is set, nothing is written.
    pub fn begin(
        client: &SyncClient,
        found: Found,
        target: Option<&ItemId>,
        adopt: bool,
        writes: bool,
    ) -> Result<Self, ClientError> {
        let known = match found.found {
            FoundDirectory::Known(known) => Some(known),
            FoundDirectory::Replaced(replaced) if adopt => Some(replaced),
            _ => None,
        };
        let rebuilds =
            known.as_ref().map_or_else(|| client.directories().rebuilds(), |known| known.rebuilds);
        let directory = if writes {
            client.directories().mark_used(known, &found.identity, &found.path, target, rebuilds)?
        } else {
            known.unwrap_or_else(|| DirectoryRecord {
                id: -1,
                path: found.path.clone(),
                target: target.cloned(),
                identity: found.identity.clone(),
                used_at: Timestamp::MIN,
                rebuilds: client.directories().rebuilds(),
            })
        };
        let (count, last) = client.directories().count(directory.id)?;
        Ok(Self {
            client: client.clone(),
            directory,
            device: found.device,
            next: last + 1,
            count,
            started: now().seconds,
            claimed: HashSet::new(),
            places: HashMap::new(),
        })
    }

    /// Returns whether the replica was rebuilt since the directory last agreed with it.
    pub(crate) fn is_before_rebuild(&self) -> bool {
        self.count > 0 && self.directory.rebuilds != self.client.directories().rebuilds()
    }

    /// Records that the directory agrees with the replica.
    pub(crate) fn in_step(&self) -> Result<(), ClientError> {
        let DirectoryRecord { path, identity, target, .. } = &self.directory;
        let (known, rebuilds) =
            (Some(self.directory.clone()), self.client.directories().rebuilds());
        if self.directory.rebuilds != rebuilds {
            self.client.directories().mark_used(
                known,
                identity,
                path,
                target.as_ref(),
                rebuilds,
            )?;
        }
        Ok(())
    }

    /// Returns the number of a new row.
    pub(crate) fn new_id(&mut self) -> u64 {
        let id = self.next;
        self.next += 1;
        id
    }

    /// Returns the rows of a folder's entries by name on the disk, without those that were moved
    /// away.
    pub(crate) fn rows(&self, parent: u64) -> Result<HashMap<OsString, EntryRecord>, ClientError> {
        let rows = self.client.directories().entries(self.directory.id, parent)?;
        let here = rows.into_iter().filter(|row| !self.claimed.contains(&row.id));
        Ok(here.map(|row| (OsString::from_vec(row.name.clone()), row)).collect())
    }

    /// Returns the number of rows of an entry and everything under it, without those that were
    /// moved away.
    pub(crate) fn weight(&self, row: &EntryRecord) -> Result<u64, ClientError> {
        let (mut count, mut left) = (0, vec![row.id]);
        while let Some(id) = left.pop() {
            count += 1;
            let rows = self.client.directories().entries(self.directory.id, id)?;
            left.extend(rows.iter().map(|row| row.id).filter(|id| !self.claimed.contains(id)));
        }
        Ok(count)
    }

    /// Returns whether removing `weight` of the recorded entries needs the user's confirmation.
    pub(crate) fn needs_confirmation(&self, weight: u64) -> bool {
        weight * 2 > self.count && (weight >= self.count || weight >= MANY_REMOVALS)
    }

    /// Returns the path of an entry as it was recorded, or moved since.
    pub(crate) fn path_of(&self, row: &EntryRecord) -> Result<Option<PathBuf>, ClientError> {
        let mut names = Vec::new();
        let mut next = Some((row.id, row.parent, row.name.clone()));
        while let Some((id, parent, name)) = next.take() {
            let (parent, name) = self.places.get(&id).cloned().unwrap_or((parent, name));
            names.push(OsString::from_vec(name));
            if parent != ROOT_ENTRY {
                let Some(above) = self.client.directories().entry(self.directory.id, parent)?
                else {
                    return Ok(None);
                };
                next = Some((above.id, above.parent, above.name));
            }
        }
        Ok(Some(names.into_iter().rev().collect()))
    }

    /// Returns the rows of an item that are not claimed yet.
    pub(crate) fn of_item(&self, item: &ItemId) -> Result<Vec<EntryRecord>, ClientError> {
        if self.count == 0 {
            return Ok(Vec::new());
        }
        let rows = self.client.directories().entries_of_item(item)?.into_iter();
        let here = rows.filter(|(directory, _)| *directory == self.directory.id);
        Ok(here.map(|(_, row)| row).filter(|row| !self.claimed.contains(&row.id)).collect())
    }

    /// Claims a row for the place to which its entry was moved.
    pub(crate) fn place(&mut self, row: &EntryRecord) {
        self.claimed.insert(row.id);
        self.places.insert(row.id, (row.parent, row.name.clone()));
    }

    /// Returns whether the entry of a row was moved to another place than the row says.
    pub(crate) fn is_moved_away(&self, row: &EntryRecord) -> bool {
        let is_here = |place: &(u64, Vec<u8>)| place.0 == row.parent && place.1 == row.name;
        self.claimed.contains(&row.id) && !self.places.get(&row.id).is_some_and(is_here)
    }

    /// Returns the row of an entry that was moved to the place where `stat` was read. The place is
    /// new, or it had the row `named`; then the entries of several places were exchanged.
    pub(crate) fn moved(
        &self,
        root: &mut Root,
        named: Option<&EntryRecord>,
        stat: &Stat,
    ) -> Result<Option<EntryRecord>, ClientError> {
        if self.count == 0 || named.is_some_and(|named| is_same_entry(&named.disk, stat)) {
            return Ok(None);
        }
        for row in self.with_identity(stat)? {
            if self.claimed.contains(&row.id) {
                continue;
            }
            let moved = match (named, self.occupant(root, &row)?) {
                (Some(named), Occupant::Entry(occupant)) => {
                    self.is_exchange(root, named, &row, &occupant)?
                }
                // A hard link, unless the disk has the entry under this name only in other letters.
                (None, Occupant::Entry(occupant)) if occupant.id == stat.id => {
                    !self.is_listed(root, &row)?
                }
                // Another entry was moved there.
                (None, Occupant::Entry(occupant)) => {
                    let moved = |row: &EntryRecord| self.claimed.contains(&row.id);
                    self.with_identity(&occupant)?.iter().any(moved)
                }
                (None, Occupant::Nothing) => true,
                _ => false,
            };
            if moved {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Returns whether the folder of a row lists exactly its name; also if it cannot be read.
    fn is_listed(&self, root: &mut Root, row: &EntryRecord) -> Result<bool, ClientError> {
        let Some(old) = self.path_of(row)? else { return Ok(true) };
        let parent = old.parent().unwrap_or(Path::new(""));
        let name = old.file_name().unwrap_or_default();
        let names = root.folder(parent).and_then(|folder| folder.names());
        Ok(names.map_or(true, |names| names.iter().any(|one| one == name)))
    }

    /// Returns whether the entries of some places changed these among themselves: that of `row`
    /// stands at the place of `named`, and `occupant` at its own.
    fn is_exchange(
        &self,
        root: &mut Root,
        named: &EntryRecord,
        row: &EntryRecord,
        occupant: &Stat,
    ) -> Result<bool, ClientError> {
        let (mut row, mut occupant) = (row.clone(), *occupant);
        for _ in 0..LONGEST_EXCHANGE {
            let there = self.with_identity(&occupant)?.into_iter().find(|one| one.id != row.id);
            let Some(there) = there else { return Ok(false) };
            if there.id == named.id {
                return Ok(true);
            }
            let Occupant::Entry(next) = self.occupant(root, &there)? else { return Ok(false) };
            (row, occupant) = (there, next);
        }
        Ok(false)
    }

    /// Returns the rows that have the identity and kind of an entry.
    fn with_identity(&self, stat: &Stat) -> Result<Vec<EntryRecord>, ClientError> {
        let mut rows = self.client.directories().entries_of_inode(self.directory.id, stat.id.1)?;
        rows.retain(|row| {
            let same_kind = matches!(
                (row.disk.kind, stat.kind),
                (EntryKind::File, Kind::File)
                    | (EntryKind::Folder, Kind::Folder)
                    | (EntryKind::Link, Kind::Link)
            );
            same_kind && is_same_entry(&row.disk, stat)
        });
        Ok(rows)
    }

    /// Returns whether another disk than recorded is mounted on the folder at `path`, or none any
    /// more.
    pub(crate) fn is_other_disk(
        &self,
        root: &mut Root,
        path: &Path,
        row: &EntryRecord,
        stat: &Stat,
    ) -> Result<bool, ClientError> {
        let is_elsewhere = self.is_elsewhere(stat);
        if !(row.disk.elsewhere || is_elsewhere) || is_same_entry(&row.disk, stat) {
            return Ok(false);
        }
        let has_born = row.disk.born.is_some() || stat.born.is_some();
        if has_born || row.disk.elsewhere != is_elsewhere || row.disk.inode != stat.id.1 {
            return Ok(true);
        }
        // Without a time of birth, each change in a folder gives it another identity.
        let rows = self.client.directories().entries(self.directory.id, row.id)?;
        let Ok(folder) = root.folder(path) else { return Ok(true) };
        let is_there = |row: &&EntryRecord| {
            let name = OsString::from_vec(row.name.clone());
            folder.stat(&name).is_ok_and(|stat| match row.disk.kind {
                EntryKind::Folder => stat.kind == Kind::Folder && row.disk.inode == stat.id.1,
                _ => is_same_entry(&row.disk, &stat),
            })
        };
        Ok(rows.iter().filter(is_there).count() * 2 < rows.len())
    }

    /// Returns what is at the place of a row now.
    fn occupant(&self, root: &mut Root, row: &EntryRecord) -> Result<Occupant, ClientError> {
        let Some(old) = self.path_of(row)? else { return Ok(Occupant::Unknown) };
        let parent = old.parent().unwrap_or(Path::new(""));
        let name = old.file_name().unwrap_or_default();
        Ok(match root.folder(parent).and_then(|folder| folder.stat(name)) {
            Ok(stat) => Occupant::Entry(stat),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Occupant::Nothing,
            Err(_) => Occupant::Unknown,
        })
    }

    /// Builds the disk half of a row from the present attributes.
    pub(crate) fn disk(&self, stat: &Stat, digest: Option<Sha256Digest>) -> DiskState {
        let kind = match stat.kind {
            Kind::File => EntryKind::File,
            Kind::Link => EntryKind::Link,
            _ => EntryKind::Folder,
        };
        let settles = kind != EntryKind::Folder;
        DiskState {
            kind,
            size: size(stat),
            mtime: stat.modified,
            ctime: stat.changed,
            inode: stat.id.1,
            born: stat.born,
            mode: stat.mode,
            elsewhere: self.is_elsewhere(stat),
            digest,
            unsettled: settles && stat.modified.seconds >= self.started - SETTLES_AFTER,
        }
    }

    /// Returns whether an entry is on another file system than the directory.
    pub(crate) fn is_elsewhere(&self, stat: &Stat) -> bool {
        stat.id.0 != self.device
    }
}

/// Builds the disk half of a row for an entry that does not exist yet.
pub(crate) fn not_on_disk(kind: EntryKind, mode: u32) -> DiskState {
    DiskState {
        kind,
        size: 0,
        mtime: NO_TIME,
        ctime: NO_TIME,
        inode: 0,
        born: None,
        mode,
        elsewhere: false,
        digest: None,
        unsettled: false,
    }
}

/// Returns what a decision about a file needs of its row.
pub(crate) fn facts(row: &EntryRecord) -> Row<Sha256Digest> {
    Row {
        was_here: row.disk.inode != 0,
        disk: row.disk.digest,
        tree: row.tree.digest,
        coming: row.coming,
        agreed: row.state == EntryState::Agreed,
    }
}

/// Builds the tree half of a row for an item.
pub(crate) fn tree(node: &Node, parent: Option<&ItemId>) -> TreeState {
    TreeState {
        item: node.id.clone(),
        parent: parent.cloned(),
        name: node.name.as_ref().map_or_else(String::new, |name| name.as_str().to_owned()),
        blob_id: node.content.as_ref().map(|content| content.blob_id.clone()),
        digest: link::digest_of(node),
        mtime: node.content.as_ref().map(|_| node.modified_at()),
        mode: metadata::mode(node),
    }
}

/// Returns whether an item still has the bytes, or as a link the target, that the row recorded.
pub(crate) fn has_same_bytes(tree: &TreeState, node: &Node) -> bool {
    tree.digest == link::digest_of(node)
}

/// Returns whether an item still has the time and the permission bits that the row recorded, as far
/// as it recorded any.
pub(crate) fn has_same_metadata(tree: &TreeState, node: &Node, user: &UserId) -> bool {
    let time = tree.digest.and(tree.mtime);
    let same_time = time.is_none_or(|time| time == node.modified_at());
    let same_mode = tree.mode.is_none_or(|mode| {
        metadata::mode_here(node, user).is_none_or(|now| now == mode)
            || metadata::mode(node) == Some(mode)
    });
    same_time && same_mode
}

/// Returns the present time in a disk's format.
pub(crate) fn now() -> DiskTime {
    let now = seam::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    DiskTime {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanos: now.subsec_nanos(),
    }
}
