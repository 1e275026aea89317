//! The upload queue: contents on their way to the server, and the outcomes.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt as _;
use futures::stream;
use vfs_sync_core::client::offer;
use vfs_sync_core::id::{BlobId, ItemId};
use vfs_sync_core::operation::{Action, Upsert};
use vfs_sync_core::shown;
use vfs_sync_core::time::Timestamp;

use super::session::Session;
use crate::client::Inner;
use crate::content::{GONE, NewContent, Outcome, into_requests, send_request};
use crate::environment::Environment;
use crate::error::{ClientError, Result};
use crate::event::ChangeEvent;
use crate::host::{self, AbortOnDropHandle};
use crate::replica::{NewEdit, NewEdits, ReplicaStore, Superseded, Upload, UploadState};
use crate::transport::TransportError;

/// The number of uploads in one round.
const ROUND: usize = 2_048;
/// The number of requests in a row without progress, after which the network counts as down.
const FRUITLESS_REQUESTS: u32 = 2;

/// The reason for not even sending a content: the server had no space for a smaller one.
const FULL: &str = "the server has no room for it";

/// Copies a content under new ids, because its stage has expired.
pub(crate) fn renew(inner: &Inner, upload: &Upload) -> Result<(Upload, NewContent)> {
    let content = inner.cache.renamed(&upload.blob_id, upload.digest)?;
    let renewed = Upload {
        blob_id: content.blob_id.clone(),
        staging_id: inner.environment().new_staging_id(),
        state: UploadState::Queued,
        attach: None,
        sent: false,
        reason: None,
        ..upload.clone()
    };
    Ok((renewed, content))
}

/// Queues a touch with the time of the bytes for an older server, which stores it like any
/// metadata; the touch applies only to these bytes.
fn keep_time_beside(
    here: &dyn Environment,
    store: &mut ReplicaStore,
    item: ItemId,
    blob_id: &BlobId,
    time: Option<Timestamp>,
) -> Result<()> {
    let shown = store
        .node(&item)?
        .filter(|node| node.content.as_ref().is_some_and(|content| content.blob_id == *blob_id));
    let (Some(time), Some(node)) = (time, shown) else { return Ok(()) };
    if shown::touched(&node.metadata).is_some_and(|(_, of)| of == blob_id.as_str()) {
        return Ok(());
    }
    let (key, value) = shown::touch(Some(blob_id), time);
    let metadata = [(key.into(), Some(value))].into_iter().collect();
    let action = Action::Upsert(Box::new(Upsert { metadata, ..Upsert::default() }));
    let edit = NewEdit { op_id: here.new_op_id(), item, action, unconditional: false };
    let edits = NewEdits { actions: vec![edit], ..NewEdits::default() };
    match store.enqueue(edits, here.now()) {
        // Without the right or the space, only the time is lost, not the bytes.
        Err(ClientError::NotPermitted { .. } | ClientError::Invalid(_)) => Ok(()),
        done => done,
    }
}

impl Session {
    /// Uploads the queued contents. Returns whether more can be done after another pull.
    pub(crate) async fn upload_contents(&mut self) -> Result<bool> {
        let counts = self.store(|_, store| store.counts()).await?;
        self.inner.advance(|progress| progress.to_upload = counts.uploads);
        let mut again = false;
        let mut told_again = false;
        let mut after = 0;
        loop {
            let mut round = self.round(after).await?;
            let Some(last) = round.last() else { return Ok(again) };
            after = last.seq;
            // A content that the server cannot take waits for the next sync, and so do those that
            // follow it.
            round.retain(|upload| !self.waiting.contains(&upload.item));
            // Of several contents of one item, the next is for the next time.
            let mut items = HashSet::new();
            let (now, later): (Vec<Upload>, Vec<Upload>) =
                round.into_iter().partition(|upload| items.insert(upload.item.clone()));
            again |= !later.is_empty();
            if now.is_empty() {
                continue;
            }
            let outcomes = self.send(now).await?;
            again |= outcomes.iter().any(|(_, o)| !matches!(o, Outcome::Waits { .. }));
            let behind = self.settle(outcomes).await?;
            if let Some(error) = behind {
                if told_again {
                    return Err(error.into());
                }
                told_again = true;
                self.reconcile(true).await?;
                after = 0;
            }
        }
    }

    /// Returns the next uploads, each with its durably stored request.
    async fn round(&self, after: i64) -> Result<Vec<Upload>> {
        self.store(move |inner, store| {
            let mut round = store.uploads(after, ROUND)?;
            let (client_id, at) = (store.meta().client_id.clone(), store.meta().reconciled.clone());
            let Some(at) = at else {
                // The feed is empty so far: the items of these were refused, or went.
                if store.meta().cursor.is_none() && !round.is_empty() {
                    for upload in &mut round {
                        (upload.state, upload.reason) = (UploadState::Rejected, Some(GONE.into()));
                    }
                    inner.emit(store.settle_uploads(&round)?);
                    inner.emit(round.into_iter().map(|upload| ChangeEvent::UploadRejected {
                        item_id: upload.item,
                        reason: GONE.into(),
                    }));
                }
                return Ok(Vec::new());
            };
            // One that is offered again brings nothing back that was deleted since.
            let mut gone = Vec::new();
            for upload in round.iter().filter(|upload| upload.offered) {
                if store.node(&upload.item)?.is_none() {
                    let (state, reason) = (UploadState::Rejected, Some(GONE.into()));
                    gone.push(Upload { state, reason, ..upload.clone() });
                }
            }
            if !gone.is_empty() {
                inner.emit(store.settle_uploads(&gone)?);
                round.retain(|upload| !gone.iter().any(|one| one.seq == upload.seq));
                inner.emit(gone.into_iter().map(|upload| ChangeEvent::UploadRejected {
                    item_id: upload.item,
                    reason: GONE.into(),
                }));
            }
            let mut new = Vec::new();
            for upload in round.iter_mut().filter(|upload| upload.attach.is_none()) {
                upload.attach = Some(upload.request(&client_id, &at));
                new.push(upload.clone());
            }
            if !new.is_empty() {
                store.put_uploads(&new)?;
            }
            Ok(round)
        })
        .await
    }

    /// Sends uploads, small ones many to a request, several requests at a time. It stops when the
    /// network is down, and returns the outcomes so far.
    async fn send(&mut self, uploads: Vec<Upload>) -> Result<Vec<(Upload, Outcome)>> {
        let mut outcomes = Vec::new();
        // The size of the smallest content that the server had no space for: one at least as large
        // is not sent.
        let full_at = Arc::new(AtomicU64::new(u64::MAX));
        let requests = stream::iter(into_requests(uploads, self.inner.config.batch_max_bytes)).map(
            |uploads| {
                let (inner, full_at) = (Arc::clone(&self.inner), Arc::clone(&full_at));
                AbortOnDropHandle::new(host::spawn(async move {
                    let least = full_at.load(Ordering::Relaxed);
                    let (now, in_vain): (Vec<Upload>, Vec<Upload>) =
                        uploads.into_iter().partition(|upload| upload.size < least);
                    let mut done = match now.is_empty() {
                        true => Vec::new(),
                        false => send_request(&inner, now).await?,
                    };
                    for (upload, outcome) in &done {
                        if matches!(outcome, Outcome::Waits { full: true, .. }) {
                            full_at.fetch_min(upload.size, Ordering::Relaxed);
                        }
                    }
                    let waits = || Outcome::Waits { reason: FULL.to_owned(), full: true };
                    done.extend(in_vain.into_iter().map(|upload| (upload, waits())));
                    Ok(done)
                }))
            },
        );
        let mut requests = requests.buffer_unordered(self.inner.config.transfers);
        let mut fruitless = 0;
        while let Some(done) = requests.next().await {
            let done = done.unwrap_or_else(|error| Err(ClientError::Storage(error.to_string())))?;
            let failed = done.iter().filter(|(_, o)| matches!(o, Outcome::Failed(_))).count();
            fruitless = if failed == done.len() { fruitless + 1 } else { 0 };
            let attached = |o: &Outcome| matches!(o, Outcome::Attached | Outcome::AttachedUntimed);
            let attached = done.iter().filter(|(_, outcome)| attached(outcome)).count();
            let settled = (done.len() - failed) as u64;
            self.inner.advance(|progress| {
                progress.uploaded += attached as u64;
                progress.to_upload = progress.to_upload.saturating_sub(settled);
            });
            outcomes.extend(done);
            if fruitless == FRUITLESS_REQUESTS {
                break;
            }
        }
        Ok(outcomes)
    }

    /// Decides what an item that the server does not know means for its content. The server may have
    /// lost the item, so the first time a pull comes first, which may offer it again. After that the
    /// content waits if the replica shows the item, and is rejected otherwise.
    async fn of_unknown_item(&mut self, item: &ItemId, outcome: Outcome) -> Result<Outcome> {
        let Outcome::UnknownItem(reason) = outcome else { return Ok(outcome) };
        if self.unknown.insert(item.clone()) {
            return Ok(Outcome::UnknownItem(reason));
        }
        let item = item.clone();
        let shown = self.store(move |_, store| Ok(store.node(&item)?.is_some())).await?;
        let waits = Outcome::Waits { reason: reason.clone(), full: false };
        Ok(if shown { waits } else { Outcome::Rejected(reason) })
    }

    /// Makes the outcomes of uploads durable. Returns the rejection of an upload whose checkpoint
    /// is behind, if there is one.
    async fn settle(&mut self, outcomes: Vec<(Upload, Outcome)>) -> Result<Option<TransportError>> {
        let (mut written, mut copies, mut events) = (Vec::new(), Vec::new(), Vec::new());
        let (mut behind, mut failed) = (None, None);
        let (mut old, mut renewed) = (Vec::new(), Vec::new());
        let mut untimed = Vec::new();
        for (upload, outcome) in outcomes {
            let outcome = self.of_unknown_item(&upload.item, outcome).await?;
            match outcome {
                Outcome::Attached | Outcome::AttachedUntimed => {
                    if matches!(outcome, Outcome::AttachedUntimed) {
                        untimed.push((
                            upload.item.clone(),
                            upload.blob_id.clone(),
                            upload.modified_at,
                        ));
                    }
                    self.report.uploaded += 1;
                    self.report.uploaded_bytes += upload.size;
                    let (state, reason) = (UploadState::Attached, None);
                    written.push(Upload { state, reason, ..upload });
                }
                Outcome::Behind(error) => behind = Some(error),
                Outcome::ContentChanged(current) => copies.push((upload, current)),
                Outcome::Expired => {
                    let (again, content) = renew(&self.inner, &upload)?;
                    old.push(upload.blob_id);
                    written.push(again);
                    renewed.push(content);
                }
                Outcome::Waits { reason, .. } => {
                    self.report.waiting += 1;
                    self.waiting.insert(upload.item.clone());
                    if upload.reason.as_ref() != Some(&reason) {
                        written.push(Upload { reason: Some(reason), ..upload });
                    }
                }
                // Another device of the user has offered the same content under its id.
                Outcome::IdTaken(_) if upload.offered && !upload.renewed => {
                    let (again, content) = renew(&self.inner, &upload)?;
                    old.push(upload.blob_id);
                    written.push(Upload { renewed: true, ..again });
                    renewed.push(content);
                }
                Outcome::Rejected(reason) | Outcome::IdTaken(reason) => {
                    events.push(ChangeEvent::UploadRejected {
                        item_id: upload.item.clone(),
                        reason: reason.clone(),
                    });
                    let (state, reason) = (UploadState::Rejected, Some(reason));
                    written.push(Upload { state, reason, ..upload });
                }
                Outcome::Failed(error) => failed = Some(error),
                Outcome::UnknownItem(_) => written.push(Upload { attach: None, ..upload }),
            }
        }
        self.store(move |inner, store| {
            events.extend(store.settle_uploads(&written)?);
            inner.cache.place(renewed);
            inner.cache.remove(&old);
            let here = inner.environment();
            for (item, blob_id, time) in untimed {
                keep_time_beside(here, store, item, &blob_id, time)?;
            }
            let device = inner.device(&store.meta().client_id);
            for (upload, current) in copies {
                // Devices that offer the same content again make one copy of it.
                let copy = match upload.offered {
                    true => offer::copy_id(&upload.item, upload.digest, &store.meta().user),
                    false => here.new_item_id(),
                };
                let (op_id, now) = (here.new_op_id(), here.now());
                let superseded = Superseded { upload, current };
                events.extend(store.copy_aside(superseded, op_id, copy, &device, now)?);
            }
            inner.emit(events);
            Ok(())
        })
        .await?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(behind),
        }
    }
}
