//! Edits of both sides while one of them is disconnected.

use std::io::Cursor;

use serde::Serialize;
use vfs_sync_client::{Delete, SyncClient};
use vfs_sync_core::id::ItemId;
use vfs_sync_core::item::ObjectType;
use vfs_sync_folder::disk::metadata::{OnDisk, on_disk};

use crate::error::{Failure, Result};
use crate::path::name;

/// The folder where the conflicts are staged.
const STAGE: &str = "vfs-sync demo";
/// The greatest number of files of the tree that are edited.
const EDITED: usize = 600;

/// The number of edits of each kind.
#[derive(Debug, Default, Serialize)]
pub(super) struct Edits {
    pub(super) renames: u64,
    pub(super) moves: u64,
    pub(super) deletes: u64,
    pub(super) new: u64,
    pub(super) contents: u64,
    pub(super) attributes: u64,
}

impl Edits {
    pub(super) fn total(&self) -> u64 {
        self.renames + self.moves + self.deletes + self.new + self.contents + self.attributes
    }
}

/// The items that both sides know before the connection is cut.
pub(super) struct Stage {
    left: ItemId,
    right: ItemId,
    doomed: ItemId,
    renamed_twice: ItemId,
    written_twice: ItemId,
    name_and_time: ItemId,
    deleted_twice: ItemId,
    drawer: ItemId,
    /// Files of the imported tree.
    files: Vec<ItemId>,
}

/// Creates the folder where the conflicts are staged, and chooses files of the tree to edit.
pub(super) fn prepare(client: &SyncClient) -> Result<Stage> {
    let every = (usize::try_from(client.status()?.items).unwrap_or(0)
        + usize::try_from(client.status()?.pending).unwrap_or(0))
        / EDITED
        + 1;
    let mut files = Vec::new();
    let mut seen = 0;
    for entry in client.walk(None)? {
        let entry = entry?;
        if on_disk(entry.node.object_type) != OnDisk::File {
            continue;
        }
        seen += 1;
        if seen % every == 0 && files.len() < EDITED {
            files.push(entry.node.id);
        }
    }
    let mut batch = client.batch();
    let mut folder = |parent: Option<&ItemId>, text: &str| {
        Ok::<_, crate::error::Failure>(batch.create(
            ObjectType::Folder,
            parent,
            name(text)?,
            Vec::new(),
        ))
    };
    let top = folder(None, STAGE)?;
    let left = folder(Some(&top), "left")?;
    let right = folder(Some(&top), "right")?;
    let doomed = folder(Some(&top), "doomed")?;
    let drawer = folder(Some(&top), "drawer")?;
    let mut file = |parent: &ItemId, text: &str| {
        let id = batch.create(ObjectType::File, Some(parent), name(text)?, Vec::new());
        batch.put_content(&id, Cursor::new(format!("{text}, as it was\n")))?;
        Ok::<_, crate::error::Failure>(id)
    };
    file(&left, "in left.txt")?;
    file(&right, "in right.txt")?;
    file(&doomed, "old.txt")?;
    let stage = Stage {
        renamed_twice: file(&top, "renamed on both sides.txt")?,
        written_twice: file(&top, "written on both sides.txt")?,
        name_and_time: file(&top, "renamed here, touched there.txt")?,
        deleted_twice: file(&top, "deleted on both sides.txt")?,
        left,
        right,
        doomed,
        drawer,
        files,
    };
    batch.commit()?;
    Ok(stage)
}

/// An editor of the tree for one side.
struct Hands<'a> {
    client: &'a SyncClient,
    who: &'static str,
    edits: Edits,
}

impl Hands<'_> {
    fn rename(&mut self, item: &ItemId, text: &str) -> Result<()> {
        self.edits.renames += 1;
        Ok(self.client.rename(item, name(text)?)?)
    }

    fn move_to(&mut self, item: &ItemId, parent: &ItemId) -> Result<()> {
        self.edits.moves += 1;
        Ok(self.client.move_to(item, Some(parent))?)
    }

    fn delete(&mut self, item: &ItemId) -> Result<()> {
        self.edits.deletes += 1;
        self.client.delete(item, Delete::Recursive)?;
        Ok(())
    }

    fn write(&mut self, item: &ItemId) -> Result<()> {
        self.edits.contents += 1;
        let text = format!("{} wrote this into {item}\n", self.who);
        self.client.contents().put(item, Cursor::new(text))?;
        Ok(())
    }

    fn touch(&mut self, item: &ItemId, time: &str) -> Result<()> {
        self.edits.attributes += 1;
        let time = time.parse().map_err(|error| Failure::failed(format!("{time}: {error}")))?;
        Ok(self.client.touch(item, time)?)
    }

    fn create(&mut self, parent: &ItemId, text: &str) -> Result<()> {
        self.edits.new += 1;
        let mut batch = self.client.batch();
        let id = batch.create(ObjectType::File, Some(parent), name(text)?, Vec::new());
        batch.put_content(&id, Cursor::new(format!("{} made {text}\n", self.who)))?;
        batch.commit()?;
        Ok(())
    }
}

/// Edits on the side that stays connected.
pub(super) fn on_one(client: &SyncClient, stage: &Stage) -> Result<Edits> {
    let mut hands = Hands { client, who: "one", edits: Edits::default() };
    hands.move_to(&stage.left, &stage.right)?;
    hands.rename(&stage.renamed_twice, "one's name.txt")?;
    hands.write(&stage.written_twice)?;
    hands.touch(&stage.name_and_time, "2001-02-03T04:05:06.789Z")?;
    hands.delete(&stage.deleted_twice)?;
    hands.delete(&stage.doomed)?;
    hands.create(&stage.drawer, "the same name.txt")?;
    for (number, file) in stage.files.iter().enumerate() {
        match number % 8 {
            0 => hands.rename(file, &format!("renamed by one {number}"))?,
            1 => hands.delete(file)?,
            2 | 3 => hands.write(file)?,
            4 => hands.move_to(file, &stage.drawer)?,
            5 => hands.touch(file, "1999-12-31T23:59:59.999Z")?,
            _ => {}
        }
    }
    Ok(hands.edits)
}

/// Edits on the side that is disconnected.
pub(super) fn on_two(client: &SyncClient, stage: &Stage) -> Result<Edits> {
    let mut hands = Hands { client, who: "two", edits: Edits::default() };
    hands.move_to(&stage.right, &stage.left)?;
    hands.rename(&stage.renamed_twice, "two's name.txt")?;
    hands.write(&stage.written_twice)?;
    hands.rename(&stage.name_and_time, "renamed there, touched here.txt")?;
    hands.delete(&stage.deleted_twice)?;
    hands.create(&stage.doomed, "made while its folder was deleted.txt")?;
    hands.create(&stage.drawer, "the same name.txt")?;
    for (number, file) in stage.files.iter().enumerate() {
        match number % 8 {
            0 => hands.touch(file, "1999-12-31T23:59:59.999Z")?,
            2 => hands.rename(file, &format!("renamed by two {number}"))?,
            3 => hands.write(file)?,
            4 => hands.delete(file)?,
            6 => hands.rename(file, &format!("renamed by two {number}"))?,
            7 => hands.move_to(file, &stage.left)?,
            _ => {}
        }
    }
    Ok(hands.edits)
}
