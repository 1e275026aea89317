//! A replica of many items, as a first sync makes it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use vfs_sync_client::core::access::AccessLevel;
use vfs_sync_client::core::cursor::{Epoch, Position};
use vfs_sync_client::core::entry::{Change, Entry, EntryBody, ItemView};
use vfs_sync_client::core::id::{ItemId, UserId};
use vfs_sync_client::core::item::{Name, ObjectType};
use vfs_sync_client::core::time::Timestamp;
use vfs_sync_client::core::wire::{PullPage, WriteIds};
use vfs_sync_client::transport::{Answer, Call};
use vfs_sync_client::{ClientBuilder, Device, Query, SyncClient, Transport, TransportError};

use crate::Failure;

/// The items of a folder: the folder and what is in it.
const FOLDER: usize = 100;
/// The entries of a page, two for each item: the item and its link.
const PAGE: usize = 500;
/// The user of the replica.
pub(crate) const USER: &str = "bench";

/// A server that has the items, and nothing else.
struct Feed {
    items: usize,
    next: AtomicUsize,
}

#[async_trait]
impl Transport for Feed {
    fn bind_user(&self, _: &UserId) -> Result<(), UserId> {
        Ok(())
    }

    fn bind_device(&self, _: &Arc<Device>) {}

    async fn call(&self, call: Call) -> Result<Answer, TransportError> {
        match call {
            Call::Pull(_) => {
                let first = self.next.fetch_add(PAGE / 2, Ordering::Relaxed);
                let page = page(first, self.items);
                page.map(Answer::Pull).map_err(|error| TransportError::network(error.to_string()))
            }
            Call::Reconcile(request) => Ok(Answer::Reconcile(request)),
            other => Err(TransportError::network(format!("{} is not measured", other.kind()))),
        }
    }
}

/// Returns the id of an item.
pub(crate) fn id(index: usize) -> Result<ItemId, Failure> {
    Ok(ItemId::new(format!("item-{index:012}"))?)
}

/// Returns the id of the file that is read and written.
pub(crate) fn measured(items: usize) -> Result<ItemId, Failure> {
    id(items / 2 / FOLDER * FOLDER + 7)
}

fn page(first: usize, items: usize) -> Result<PullPage, Failure> {
    let epoch = Epoch::from_u64(1).ok_or("no epoch")?;
    let start = Timestamp::from_millis(1_790_000_000_000).ok_or("no time")?;
    let owner = UserId::new(USER)?;
    let last = items.min(first + PAGE / 2);
    let mut entries = Vec::with_capacity(PAGE);
    for index in first..last {
        let at = start.plus_millis(i64::try_from(index)?);
        let is_folder = index % FOLDER == 0;
        let kind = match index % 10 {
            _ if is_folder => ObjectType::Folder,
            1 => ObjectType::Note,
            _ => ObjectType::File,
        };
        let item = ItemView {
            item_id: id(index)?,
            owner_id: owner.clone(),
            object_type: kind,
            name: Some(Name::new(format!("name-{index:08}.txt"))?),
            metadata: [("stars".into(), (index % 5).into())].into(),
            encrypted: None,
            created_at: at,
            access_level: AccessLevel::Admin,
        };
        let mut changes = vec![Change::ItemUpsert(Box::new(item))];
        if !is_folder {
            let parent = id(index - index % FOLDER)?;
            changes.push(Change::LinkAdd { parent, child: id(index)? });
        }
        for (offset, change) in changes.into_iter().enumerate() {
            let counter = u64::try_from(index * 2 + offset + 1)?;
            let body = EntryBody {
                actor: Some(owner.clone()),
                authored_at: at,
                origin: None,
                author_replica: None,
                change,
            };
            entries.push(Entry { position: Position { epoch, counter }.at(start), body });
        }
    }
    let has_more = last < items;
    let cursor = entries.last().map(|entry| entry.position.clone());
    Ok(PullPage {
        items: entries,
        next_cursor: cursor.filter(|_| has_more),
        has_more,
        last_reconciled_write_ids: WriteIds::new(),
        baseline: None,
        head: None,
        epoch: None,
    })
}

fn builder(items: usize) -> ClientBuilder {
    SyncClient::builder(Arc::new(Feed { items, next: AtomicUsize::new(0) })).server("bench")
}

/// Opens a replica that [`make`] made.
pub(crate) fn open(dir: &Path, items: usize) -> Result<SyncClient, Failure> {
    Ok(builder(items).open(dir)?)
}

/// Makes a replica of so many items in memory.
pub(crate) async fn in_memory(items: usize) -> Result<SyncClient, Failure> {
    let client = builder(items).in_memory(UserId::new(USER)?)?;
    client.pull().await?;
    Ok(client)
}

/// Makes a replica of so many items in a directory; returns the time of its first query, and when it is
/// closed.
pub(crate) async fn make(
    dir: &Path,
    items: usize,
) -> Result<(Duration, impl Future<Output = ()> + use<>), Failure> {
    let client = builder(items).create(dir, UserId::new(USER)?)?;
    client.pull().await?;
    let begun = Instant::now();
    client.find(&Query::default())?;
    let indexing = begun.elapsed();
    // Reads with something in the queue cost more: it is not empty in any language.
    client.contents().put(&measured(items)?, &b"text"[..])?;
    Ok((indexing, client.released()))
}
