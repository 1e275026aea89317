//! Changes of a directory that a crash has cut: resolved before the directory is read again, so that
//! what was placed or moved is recognised, and what was moved aside keeps its name.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use vfs_sync_client::{
    ClientError, DiskState, EntryKind, Intent, IntentKind, ROOT_ENTRY, RecordChange, SyncClient,
};

use super::aside::{Aside, OWN};
use super::destination;
use super::disk::digest::digest;
use super::disk::dir::{Folder, Kind, Root, Stat, is_gone};
use super::disk::durable::Unsynced;
use super::disk::{link, names};
use super::record::{Record, is_same_entry};

/// Resolves what earlier uses of the record have announced and not settled.
pub(crate) fn resolve(
    client: &SyncClient,
    record: &Record,
    root: &mut Root,
) -> io::Result<Result<(), ClientError>> {
    let directory = record.directory.id;
    let intents = match client.directories().intents(directory) {
        Ok(intents) if intents.is_empty() => return Ok(Ok(())),
        Ok(intents) => intents,
        Err(error) => return Ok(Err(error)),
    };
    let top = root.folder(Path::new(""))?;
    let aside = top.folder(OsStr::new(OWN)).is_ok().then(|| Aside::new(&top));
    let (device, unsynced) = (client.device(), Unsynced::default());
    let mut resolver = Resolver { client, record, root, aside, device, unsynced };
    let mut changes = Vec::new();
    for intent in intents {
        match resolver.resolve(&intent)? {
            Ok(row) => changes.extend(row),
            Err(error) => return Ok(Err(error)),
        }
        changes.push(RecordChange::Settle(intent.unique));
    }
    if let Some(aside) = &mut resolver.aside {
        aside.changed(&mut resolver.unsynced)?;
    }
    resolver.unsynced.sync(resolver.root)?;
    Ok(client.directories().write(directory, changes, true))
}

/// Removes the announcements of a record whose rows are not true of the directory.
pub fn forget(client: &SyncClient, directory: i64) -> Result<Vec<RecordChange>, ClientError> {
    let intents = client.directories().intents(directory)?;
    Ok(intents.into_iter().map(|intent| RecordChange::Settle(intent.unique)).collect())
}

struct Resolver<'a> {
    client: &'a SyncClient,
    record: &'a Record,
    root: &'a mut Root,
    aside: Option<Aside>,
    device: String,
    unsynced: Unsynced,
}

impl Resolver<'_> {
    /// Resolves an intent; returns the row of the entry if it is at its place.
    fn resolve(
        &mut self,
        intent: &Intent,
    ) -> io::Result<Result<Option<RecordChange>, ClientError>> {
        let Some(path) = inside(&intent.path) else { return Ok(Ok(None)) };
        let (parent, name) =
            (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let folder = match self.root.folder(parent) {
            Ok(folder) => folder,
            Err(error) if is_gone(&error) => return Ok(Ok(None)),
            Err(error) => return Err(error),
        };
        match intent.kind {
            IntentKind::Place => {
                self.unsynced.add(parent);
                self.end_exchange(intent, &folder, name, &path)?;
                let is_placed = |stat: &Stat| is_it(&intent.row.disk, &folder, name, stat);
                let placed = there(&folder, name)?.filter(is_placed);
                Ok(self.placed(intent, &path, placed))
            }
            IntentKind::Move => {
                let moved = there(&folder, name)?;
                let moved = moved.filter(|stat| is_same_entry(&intent.row.disk, stat));
                Ok(self.moved(intent, &path, moved))
            }
        }
    }

    /// Disposes of what a placing left under other names: the file that was not placed, or the one that
    /// it replaced.
    fn end_exchange(
        &mut self,
        intent: &Intent,
        folder: &Folder,
        name: &OsStr,
        path: &Path,
    ) -> io::Result<()> {
        // Under this name there is never anything but an unplaced file.
        match folder.remove_file(&names::temporary_of(&intent.unique)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let displaced = names::displaced_of(&intent.unique);
        let Some(found) = there(folder, &displaced)? else {
            return match &mut self.aside {
                Some(aside) => aside.list_again(path, &intent.unique),
                None => Ok(()),
            };
        };
        if is_it(&intent.row.disk, folder, &displaced, &found) {
            return folder.remove_file(&displaced);
        }
        if there(folder, name)?.is_none() {
            return folder.rename(&displaced, name, false);
        }
        let is_known = |known| is_it(known, folder, &displaced, &found);
        let is_known = intent.replaces.as_ref().is_some_and(is_known);
        match &mut self.aside {
            Some(aside) if is_known && found.kind == Kind::File => {
                aside.displace(folder, &displaced, path, &intent.unique)
            }
            _ if is_known => folder.remove_file(&displaced),
            _ => destination::keep(folder, &displaced, name, &self.device).map(drop),
        }
    }

    /// Returns the row of an entry that was placed.
    fn placed(
        &self,
        intent: &Intent,
        path: &Path,
        placed: Option<Stat>,
    ) -> Result<Option<RecordChange>, ClientError> {
        let Some(stat) = placed else { return Ok(None) };
        if !self.has_place(intent, path)? {
            // Without its folder's row it joins the item by its name and bytes.
            return Ok(None);
        }
        let mut row = intent.row.clone();
        row.disk = self.record.disk(&stat, row.disk.digest);
        Ok(Some(RecordChange::Put(Box::new(row))))
    }

    /// Returns the row of an entry that was moved.
    fn moved(
        &self,
        intent: &Intent,
        path: &Path,
        moved: Option<Stat>,
    ) -> Result<Option<RecordChange>, ClientError> {
        let before = self.client.directories().entry(self.record.directory.id, intent.row.id)?;
        let (Some(_), Some(before)) = (moved, before) else { return Ok(None) };
        if before.tree.item != intent.row.tree.item || !self.has_place(intent, path)? {
            return Ok(None);
        }
        Ok(Some(RecordChange::Put(Box::new(intent.row.clone()))))
    }

    /// Returns whether the row of the folder in which an entry is has its path.
    fn has_place(&self, intent: &Intent, path: &Path) -> Result<bool, ClientError> {
        let above = path.parent().unwrap_or(Path::new(""));
        if intent.row.parent == ROOT_ENTRY {
            return Ok(above.as_os_str().is_empty());
        }
        let row = self.client.directories().entry(self.record.directory.id, intent.row.parent)?;
        let Some(row) = row.filter(|row| row.disk.kind == EntryKind::Folder) else {
            return Ok(false);
        };
        Ok(self.record.path_of(&row)?.as_deref() == Some(above))
    }
}

/// Returns a path of the record; `None` if it leads out of the directory.
fn inside(path: &[u8]) -> Option<PathBuf> {
    let path = PathBuf::from(OsString::from_vec(path.to_vec()));
    let normal = |part| matches!(part, Component::Normal(_));
    (path.file_name().is_some() && path.components().all(normal)).then_some(path)
}

fn there(folder: &Folder, name: &OsStr) -> io::Result<Option<Stat>> {
    match folder.stat(name) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns whether an entry is the recorded one and nobody wrote to it, for which a rename changes only
/// the ctime; or whether it has its bytes, on a disk that gives inodes other numbers each time.
fn is_it(recorded: &DiskState, folder: &Folder, name: &OsStr, stat: &Stat) -> bool {
    let is_kind = match stat.kind {
        Kind::File => recorded.kind == EntryKind::File,
        Kind::Link => recorded.kind == EntryKind::Link,
        _ => false,
    };
    if !is_kind || recorded.size != stat.size {
        return false;
    }
    if recorded.mtime == stat.modified && is_same_entry(recorded, stat) {
        return true;
    }
    let found = match stat.kind {
        Kind::Link => folder.read_link(name).map(|target| link::digest(&target)),
        _ => folder.open_file(name).and_then(|(file, _)| Ok(digest(file)?.0)),
    };
    found.is_ok_and(|found| recorded.digest == Some(found))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use vfs_sync_client::{
        EntryRecord, EntryState, HttpConfig, HttpTransport, MetadataChange, StaticToken, TreeState,
    };
    use vfs_sync_core::id::UserId;
    use vfs_sync_core::item::{Name, ObjectType};

    use super::*;
    use crate::aside::tidy;
    use crate::disk::digest::digest_bytes;

    const NAME: &str = "in/f";

    /// A live directory in which a file with the text "old" is about to be replaced by one with the text
    /// "new", which has its temporary name.
    struct Cut {
        dir: tempfile::TempDir,
        client: SyncClient,
        record: Record,
        unique: String,
    }

    impl Cut {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join(OWN)).unwrap();
            std::fs::create_dir_all(dir.path().join("in")).unwrap();
            let config = HttpConfig::new("http://127.0.0.1:9");
            let transport = HttpTransport::new(config, StaticToken::new("none")).unwrap();
            let user = UserId::new("alice").unwrap();
            let client = SyncClient::builder(Arc::new(transport)).in_memory(user).unwrap();
            let mut root = Root::open(dir.path()).unwrap();
            let found = Record::find(&client, &mut root, None).unwrap().unwrap();
            let record = Record::begin(&client, found, None, false, true).unwrap();
            let mut batch = client.batch();
            let name = Name::new("f").unwrap();
            let item = batch.create(ObjectType::File, None, name, MetadataChange::new());
            batch.commit().unwrap();
            let unique = names::unique();
            let temporary = names::temporary_of(&unique);
            std::fs::write(dir.path().join(NAME), "old").unwrap();
            std::fs::write(dir.path().join("in").join(&temporary), "new").unwrap();
            let folder = root.folder(Path::new("in")).unwrap();
            let disk = |name: &OsStr, text: &str| {
                record.disk(&folder.stat(name).unwrap(), Some(digest_bytes(text.as_bytes())))
            };
            let tree = TreeState {
                item,
                parent: None,
                name: "f".to_owned(),
                blob_id: None,
                digest: None,
                mtime: None,
                mode: None,
            };
            let row = |id, parent, name: &str, disk| EntryRecord {
                id,
                parent,
                name: name.as_bytes().to_vec(),
                disk,
                tree: tree.clone(),
                state: EntryState::Agreed,
                coming: None,
                made: false,
            };
            let top = root.folder(Path::new("")).unwrap();
            let in_disk = record.disk(&top.stat(OsStr::new("in")).unwrap(), None);
            let old = row(2, 1, "f", disk(OsStr::new("f"), "old"));
            let intent = Intent {
                unique: unique.clone(),
                kind: IntentKind::Place,
                path: OsStr::new(NAME).as_bytes().to_vec(),
                row: row(2, 1, "f", disk(&temporary, "new")),
                replaces: Some(old.disk.clone()),
            };
            let changes = vec![
                RecordChange::Put(Box::new(row(1, ROOT_ENTRY, "in", in_disk))),
                RecordChange::Put(Box::new(old)),
                RecordChange::Intend(Box::new(intent)),
            ];
            client.directories().write(record.directory.id, changes, true).unwrap();
            Self { dir, client, record, unique }
        }

        fn at(&self, name: impl AsRef<Path>) -> PathBuf {
            self.dir.path().join("in").join(name)
        }

        fn temporary(&self) -> PathBuf {
            self.at(names::temporary_of(&self.unique))
        }

        fn displaced(&self) -> PathBuf {
            self.at(names::displaced_of(&self.unique))
        }

        /// Gives the new file its name, and the old one that of a displaced one.
        fn exchange(&self) {
            std::fs::rename(self.at("f"), self.displaced()).unwrap();
            std::fs::rename(self.temporary(), self.at("f")).unwrap();
        }

        /// Resolves the intent; returns what is in the folder then, and whether the row is that of the
        /// new file.
        #[track_caller]
        fn resolve(&self) -> (Vec<(String, String)>, bool) {
            let mut root = Root::open(self.dir.path()).unwrap();
            resolve(&self.client, &self.record, &mut root).unwrap().unwrap();
            let id = self.record.directory.id;
            assert_eq!(self.client.directories().intents(id).unwrap(), []);
            let list = std::fs::read_dir(self.at("")).unwrap().map(|entry| entry.unwrap().path());
            let mut found: Vec<_> = list
                .map(|path| {
                    let name = path.file_name().unwrap().to_string_lossy().into_owned();
                    let name = name.split(" 2").next().unwrap().to_owned();
                    (name, std::fs::read_to_string(&path).unwrap())
                })
                .collect();
            found.sort();
            let row = self.client.directories().entry(id, 2).unwrap().unwrap();
            (found, row.disk.digest == Some(digest_bytes(b"new")))
        }

        /// The number of displaced files that are kept, and the paths of those that come back.
        fn kept(&self) -> (usize, Vec<PathBuf>) {
            let tidied = tidy(self.dir.path(), "laptop", false, SystemTime::now()).unwrap();
            (tidied.kept, tidied.returned)
        }
    }

    fn entries(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn a_file_that_was_not_placed_leaves_the_old_one() {
        let cut = Cut::new();
        assert_eq!(cut.resolve(), (entries(&[("f", "old")]), false));
        let cut = Cut::new();
        std::fs::rename(cut.temporary(), cut.displaced()).unwrap();
        assert_eq!(cut.resolve(), (entries(&[("f", "old")]), false));
        assert_eq!(cut.kept(), (0, vec![]));
    }

    #[test]
    fn a_file_that_was_placed_is_recognised_and_the_old_one_kept_for_an_hour() {
        let cut = Cut::new();
        cut.exchange();
        assert_eq!(cut.resolve(), (entries(&[("f", "new")]), true));
        assert_eq!(cut.kept(), (1, vec![]));
        // Its line was lost.
        let cut = Cut::new();
        cut.exchange();
        let own = cut.dir.path().join(OWN).join("displaced");
        std::fs::create_dir(&own).unwrap();
        std::fs::rename(cut.displaced(), own.join(&cut.unique)).unwrap();
        assert_eq!(cut.resolve(), (entries(&[("f", "new")]), true));
        assert_eq!(cut.kept(), (1, vec![]));
    }

    #[test]
    fn what_a_program_saved_meanwhile_keeps_its_name() {
        let cut = Cut::new();
        cut.exchange();
        std::fs::write(cut.displaced(), "saved").unwrap();
        let (found, placed) = cut.resolve();
        assert!(placed);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].1, "new");
        assert!(found[1].0.starts_with("f (conflict") && found[1].1 == "saved", "{found:?}");
        // A file that a program saved after it was placed is a change of the new one.
        let cut = Cut::new();
        cut.exchange();
        std::fs::remove_file(cut.at("f")).unwrap();
        std::fs::write(cut.at("f"), "saved").unwrap();
        assert_eq!(cut.resolve(), (entries(&[("f", "saved")]), false));
        assert_eq!(cut.kept(), (1, vec![]));
    }

    #[test]
    fn a_file_that_was_moved_aside_gets_its_name_back() {
        let cut = Cut::new();
        std::fs::rename(cut.at("f"), cut.displaced()).unwrap();
        assert_eq!(cut.resolve(), (entries(&[("f", "old")]), false));
        let later = SystemTime::now() + Duration::from_secs(7_200);
        assert_eq!(tidy(cut.dir.path(), "laptop", false, later).unwrap().returned.len(), 0);
    }
}
