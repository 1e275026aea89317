//! The shared record of a world: the model, the trace, the counts and the first failure.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use tokio::time::Instant;
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::entry::Entry;
use vfs_sync_core::id::{ItemId, OpId, ReplicaId, StagingId, UserId};
use vfs_sync_core::item::Name;
use vfs_sync_core::wire::WriteIds;

use crate::infra::objects::Objects;
use crate::oracle::coverage::{Coverage, Kind};
use crate::oracle::failure::{Failure, FailureKind};
use crate::oracle::held::Held;
use crate::oracle::model::{Model, Stamp, View};
use crate::oracle::positions::Positions;
use crate::oracle::saved::Saved;
use crate::oracle::times::Times;

/// The shared record of a world. Clones are cheap.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<Mutex<Book>>);

pub(crate) struct Book {
    pub(crate) model: Model,
    pub(crate) coverage: Coverage,
    /// Every operation that a device queued, by its id.
    pub(crate) operations: BTreeMap<OpId, Queued>,
    /// The last content that each device stored for an item: it must exist somewhere.
    pub(crate) contents: BTreeMap<(usize, ItemId), Sha256Digest>,
    /// The user of every replica that a device had.
    pub(crate) replicas: BTreeMap<ReplicaId, UserId>,
    /// The devices that have had another user's token.
    pub(crate) swapped: BTreeSet<usize>,
    /// The items that devices held when the server was restored last.
    pub(crate) held: Held,
    /// The times that users gave to bytes.
    pub(crate) times: Times,
    /// The contents that users saved, replaced and deleted.
    pub(crate) saved: Saved,
    /// The items that a user created by an own path: each must be in that user's tree.
    pub(crate) own: BTreeMap<ItemId, UserId>,
    /// The number of names used so far.
    pub(crate) names: u64,
    /// Stages that a user asked to be abandoned.
    pub(crate) given_up: BTreeSet<StagingId>,
    /// The views that a page which settles a pull of this client may produce.
    pub(crate) watched: Option<(ReplicaId, Vec<(View, WriteIds)>)>,
    /// The items of all times, in the order of their creation.
    pub(crate) items: Vec<ItemId>,
    /// The delivered entries by their text: most are delivered to several users.
    entries: HashMap<String, Arc<Entry>>,
    pub(crate) positions: Positions,
    /// The object store of all servers.
    pub(crate) objects: Objects,
    /// True if a feed was pruned or a server restored: a replica may have to rematerialise.
    pub(crate) may_rematerialize: bool,
    /// True if a write may rightly count as a new one: the audit trail was pruned, or an old copy
    /// of a device or of a server is in use.
    pub(crate) may_repeat: bool,
    /// Names that a restored server lost. A device that shows one may not have seen the write by
    /// which it returns.
    lost_names: BTreeSet<(ItemId, Name)>,
    /// True if disks may fail.
    pub(crate) on_disks: bool,
    /// True once all faults have ended: nothing may fail any more.
    pub(crate) healed: bool,
    /// True if a server was made to send other bytes than requested.
    pub(crate) lies_about_bytes: bool,
    /// The number of transactions that may have changed a user's view.
    pub(crate) commits: u64,
    failure: Option<Failure>,
    step: usize,
    began: Instant,
    trace: Option<Vec<String>>,
    digest: std::hash::DefaultHasher,
}

/// An operation that a device queued.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    pub(crate) device: usize,
    pub(crate) item: ItemId,
    /// True if the item belonged to the operation's author, as far as the device knew.
    pub(crate) as_own: bool,
    /// True if the operation deletes the item.
    pub(crate) deletes: bool,
    /// True if it deletes the original of a move: the device withdraws it if the copy is refused.
    pub(crate) moves: bool,
    /// The name that its author had in view, if the operation only renames.
    pub(crate) seen: Option<Seen>,
    pub(crate) end: Option<End>,
}

/// A name that a user saw.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) name: Name,
    /// The operation of the author's own device that set the name, if one did.
    pub(crate) own: Option<OpId>,
    /// The stamp of the write, as the servers stored it; `None` if they did not have it yet.
    pub(crate) stamp: Option<Stamp>,
}

/// The outcome of an operation, as its device learnt it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Outdated,
    /// The operation waits for its user's decision.
    Rejected,
    /// The operation was rejected, and its user has decided about it.
    Decided,
    /// The device lost the operation legitimately: an old copy of the device replaced it.
    Forgotten,
}

impl Ledger {
    /// Creates a book; with `tracing` it keeps every line, not only their digest.
    pub(crate) fn new(objects: Objects, tracing: bool) -> Self {
        Self(Arc::new(Mutex::new(Book {
            model: Model::default(),
            coverage: Coverage::default(),
            operations: BTreeMap::new(),
            contents: BTreeMap::new(),
            held: Held::default(),
            replicas: BTreeMap::new(),
            swapped: BTreeSet::new(),
            times: Times::default(),
            saved: Saved::default(),
            own: BTreeMap::new(),
            names: 0,
            given_up: BTreeSet::new(),
            watched: None,
            items: Vec::new(),
            entries: HashMap::default(),
            positions: Positions::default(),
            objects,
            may_rematerialize: false,
            may_repeat: false,
            lost_names: BTreeSet::new(),
            on_disks: false,
            healed: false,
            lies_about_bytes: false,
            commits: 0,
            failure: None,
            step: 0,
            began: Instant::now(),
            trace: tracing.then(Vec::new),
            digest: std::hash::DefaultHasher::new(),
        })))
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fail(&self, kind: FailureKind, message: impl Into<String>) {
        self.book().fail(kind, message);
    }

    /// Returns the simulated time since the start of the world.
    pub(crate) fn elapsed(&self) -> std::time::Duration {
        self.book().began.elapsed()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.book().failure.is_some()
    }

    pub(crate) fn begin_step(&self, step: usize) {
        self.book().step = step;
    }

    /// Writes a line to the trace.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        self.book().note(line);
    }

    pub(crate) fn count(&self, kind: Kind, name: &'static str) {
        self.book().coverage.count(kind, name);
    }

    /// Writes a fault to the trace, and counts it.
    pub(crate) fn fault(&self, name: &'static str, detail: impl FnOnce() -> String) {
        let mut book = self.book();
        book.coverage.count(Kind::Fault, name);
        book.note(|| format!("FAULT {name} {}", detail()));
    }

    /// Ends the run; returns its failure, counts, digest and trace.
    pub(crate) fn close(&self) -> (Option<Failure>, Coverage, u64, Vec<String>) {
        let mut book = self.book();
        let coverage = std::mem::take(&mut book.coverage);
        let trace = book.trace.take().unwrap_or_default();
        (book.failure.clone(), coverage, book.digest.finish(), trace)
    }
}

impl Book {
    /// Parses the text of an entry, or returns the known one.
    pub(crate) fn entry(&mut self, json: &str) -> serde_json::Result<Arc<Entry>> {
        if let Some(entry) = self.entries.get(json) {
            return Ok(Arc::clone(entry));
        }
        let entry = Arc::new(serde_json::from_str::<Entry>(json)?);
        self.entries.insert(json.to_owned(), Arc::clone(&entry));
        Ok(entry)
    }

    /// Records that a device learnt the outcome of an operation.
    pub(crate) fn ended(&mut self, op_id: &OpId, end: End) {
        let decided = |queued: &&mut Queued| queued.end == Some(End::Decided);
        // An operation whose user decided at once may be reported as rejected only afterwards.
        if let Some(queued) = self.operations.get_mut(op_id).filter(|queued| !decided(queued)) {
            queued.end = Some(end);
        }
    }

    /// Records that a device learnt that an item stays, although the device deleted it.
    pub(crate) fn kept(&mut self, device: usize, item: &ItemId) {
        for (op_id, queued) in &mut self.operations {
            let refused = queued.deletes && queued.end.is_none() && !self.model.was_applied(op_id);
            if refused && queued.device == device && queued.item == *item {
                queued.end = Some(End::Outdated);
            }
        }
    }

    /// Records that operations may be lost from now on, except those for which `held` returns true.
    pub(crate) fn forget_operations_but(&mut self, held: impl Fn(&OpId, &Queued) -> bool) {
        for (op_id, queued) in &mut self.operations {
            if queued.end.is_none() && !held(op_id, queued) {
                queued.end = Some(End::Forgotten);
            }
        }
    }

    /// Returns the operations of a device that the servers have applied.
    pub(crate) fn applied_of(&self, device: usize) -> Vec<OpId> {
        let own = self.operations.iter().filter(|(_, queued)| queued.device == device);
        own.map(|(op_id, _)| op_id).filter(|op_id| self.model.was_applied(op_id)).cloned().collect()
    }

    /// Discards the names that users saw in an epoch that ended: a restored write may return with a
    /// later stamp.
    pub(crate) fn forget_what_was_seen(&mut self) {
        for queued in self.operations.values_mut() {
            let Some(seen) = &mut queued.seen else { continue };
            if seen.stamp.as_ref() != self.model.stamp_of_name(&queued.item, &seen.name) {
                seen.stamp = None;
                if seen.own.is_none() {
                    queued.seen = None;
                }
            }
        }
    }

    /// Returns the facts that a visible name reveals to a device; `None` if the name is no longer
    /// the newest.
    pub(crate) fn seen(&self, item: &ItemId, name: &Name, own: Option<OpId>) -> Option<Seen> {
        let is_lost = self.lost_names.contains(&(item.clone(), name.clone()));
        let stamp = self.model.stamp_of_name(item, name).filter(|_| !is_lost).cloned();
        let to_come = own.is_some() && (is_lost || self.model.name_index(item, name).is_none());
        (stamp.is_some() || to_come).then(|| Seen { name: name.clone(), own, stamp })
    }

    /// Replaces the model by that of a backup. Contents stored since may be lost, except those on
    /// their devices.
    pub(crate) fn restored(&mut self, backup: &Model, held: Held) {
        self.lost_names.extend(self.model.names_not_in(backup));
        self.model = backup.clone();
        let model = &self.model;
        self.contents
            .retain(|(device, _), digest| model.held(digest) || held.has(*device, *digest));
        self.held = held;
        self.saved.lose_all(|content| model.held(content));
    }

    pub(crate) fn fail(&mut self, kind: FailureKind, message: impl Into<String>) {
        let message = message.into();
        self.note(|| format!("FAILURE {kind}: {message}"));
        if self.failure.is_none() {
            let at_millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.failure = Some(Failure { kind, message, step: self.step, at_millis });
        }
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let millis = self.began.elapsed().as_millis();
        // Times alone tell runs apart nearly as well as lines do, and cost nothing.
        self.digest.write_u128(millis);
        if let Some(trace) = &mut self.trace {
            let line = line();
            self.digest.write(line.as_bytes());
            trace.push(format!(
                "{:>6}.{:03} [{:>3}] {line}",
                millis / 1_000,
                millis % 1_000,
                self.step
            ));
        }
    }
}
