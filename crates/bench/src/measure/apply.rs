//! A client applying a pulled, decoded feed: checks, registers, container clocks and commit.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use vfs_sync_client::transport::{Answer, Call};
use vfs_sync_client::{ClientConfig, Device, SyncClient, Transport, TransportError};
use vfs_sync_core::access::AccessLevel;
use vfs_sync_core::cursor::{Epoch, Position};
use vfs_sync_core::entry::{Change, Entry, EntryBody, ItemView};
use vfs_sync_core::id::{ItemId, UserId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::{PullPage, WriteIds};

use crate::Failure;

const PAGE: usize = 500;

/// A transport that returns decoded pages until there are none, and acknowledges everything.
struct Pages(Mutex<VecDeque<PullPage>>);

#[async_trait]
impl Transport for Pages {
    fn bind_user(&self, _: &UserId) -> Result<(), UserId> {
        Ok(())
    }

    fn bind_device(&self, _: &Arc<Device>) {}

    async fn call(&self, call: Call) -> Result<Answer, TransportError> {
        match call {
            Call::Pull(_) => {
                let mut pages = self.0.lock().map_err(|_| TransportError::network("poisoned"))?;
                let page = pages.pop_front();
                page.map(Answer::Pull).ok_or_else(|| TransportError::network("no page is left"))
            }
            Call::Reconcile(request) => Ok(Answer::Reconcile(request)),
            other => {
                let kind = other.kind();
                Err(TransportError::network(format!("{kind} is not part of this benchmark")))
            }
        }
    }
}

/// Builds the pages of a first sync with `entries` entries: each item followed by its link, a
/// hundred items to a folder.
fn feed(entries: usize, since: u64) -> Result<VecDeque<PullPage>, Failure> {
    let epoch = Epoch::from_u64(1).ok_or("an epoch")?;
    let owner = UserId::new("bench")?;
    let at = Timestamp::from_millis(1_790_000_000_000).ok_or("a time")?;
    let mut folder = ItemId::new(uuid::Uuid::now_v7().to_string())?;
    let mut pages = VecDeque::new();
    let mut items = Vec::with_capacity(PAGE);
    let mut child = folder.clone();
    for index in 0..entries as u64 {
        let counter = since + index + 1;
        let change = if index % 2 == 0 {
            child = ItemId::new(uuid::Uuid::now_v7().to_string())?;
            Change::ItemUpsert(Box::new(ItemView {
                item_id: child.clone(),
                owner_id: owner.clone(),
                object_type: ObjectType::File,
                name: Some(Name::new(format!("file-{counter:08}.txt"))?),
                metadata: [("mode".into(), 420.into())].into(),
                encrypted: None,
                created_at: at,
                access_level: AccessLevel::Admin,
            }))
        } else {
            Change::LinkAdd { parent: folder.clone(), child: child.clone() }
        };
        let body = EntryBody {
            actor: Some(owner.clone()),
            authored_at: at,
            origin: None,
            author_replica: None,
            change,
        };
        let time = at.plus_millis(i64::try_from(counter / PAGE as u64)?);
        items.push(Entry { position: Position { epoch, counter }.at(time), body });
        if index % 200 == 199 {
            folder.clone_from(&child);
        }
        if items.len() == PAGE || index + 1 == entries as u64 {
            let has_more = index + 1 < entries as u64;
            let last = items.last().map(|entry: &Entry| entry.position.clone());
            pages.push_back(PullPage {
                items: std::mem::take(&mut items),
                next_cursor: last.filter(|_| has_more),
                has_more,
                last_reconciled_write_ids: WriteIds::new(),
                baseline: None,
                head: None,
                epoch: None,
            });
        }
    }
    Ok(pages)
}

/// Applies two feeds one after the other, into a replica in `dir` or in memory; returns the entries
/// per second of each.
pub(crate) async fn run(dir: Option<&Path>, entries: usize) -> Result<(f64, f64), Failure> {
    let transport = Arc::new(Pages(Mutex::new(VecDeque::new())));
    let user = UserId::new("bench")?;
    let config = ClientConfig::default();
    let client = match dir {
        Some(dir) => SyncClient::builder(transport.clone())
            .server("bench")
            .config(config)
            .create(dir, user)?,
        None => SyncClient::builder(transport.clone()).config(config).in_memory(user)?,
    };
    let mut rates = Vec::new();
    for round in 0..2u64 {
        let pages = feed(entries, round * entries as u64)?;
        *transport.0.lock().map_err(|_| "poisoned")? = pages;
        let start = Instant::now();
        client.pull().await?;
        rates.push(entries as f64 / start.elapsed().as_secs_f64());
    }
    Ok((rates[0], rates[1]))
}
