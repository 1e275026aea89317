//! A device of a world: a client process of the product, with the simulator's records about it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::task::JoinHandle;
use vfs_sync_client::{
    ChangeEvent, ClientConfig, ClientError, QueuedOp, QueuedState, SyncClient, Transport, Violation,
};
use vfs_sync_core::id::{ItemId, OpId, ReplicaId, UserId};
use vfs_sync_core::item::Name;
use vfs_sync_core::operation::Action;
use vfs_sync_testkit::{Random, ViolationCollector};

use crate::actor::byzantine_server::{Due, Ending, Hostile, export};
use crate::actor::replica_disk::Home;
use crate::infra::disk::Unsynced;
use crate::infra::environment::Machine;
use crate::infra::network::Link;
use crate::infra::sabotage::Sabotage;
use crate::infra::server::Cluster;
use crate::infra::transport::{SimTransport, Token};
use crate::oracle::coverage::Kind;
use crate::oracle::failure::FailureKind;
use crate::oracle::held::Held;
use crate::oracle::ledger::{Book, End, Ledger, Queued};
use crate::oracle::session::Session;
use crate::oracle::transactions::{short, show};
use crate::plan::DeviceSetup;

/// The kind of exchange that a device begins with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Talk {
    Sync,
    Flush,
    Pull,
    Rematerialise,
}

pub(crate) struct Device {
    pub(crate) index: usize,
    pub(crate) user: UserId,
    pub(crate) setup: DeviceSetup,
    pub(crate) machine: Arc<Machine>,
    pub(crate) link: Arc<Link>,
    pub(crate) hostile: Arc<Hostile>,
    transport: Arc<SimTransport>,
    pub(crate) client: SyncClient,
    violations: Arc<ViolationCollector>,
    events: Receiver<ChangeEvent>,
    ledger: Ledger,
    talking: Option<JoinHandle<()>>,
    /// The tasks that read contents.
    pub(crate) reading: Vec<JoinHandle<()>>,
    /// The disk of the replica, unless it is in memory.
    pub(crate) home: Option<Home>,
    /// True if the last exchange succeeded.
    well: Arc<AtomicBool>,
    /// True if the device may show a state of an epoch that the servers have left.
    behind: Arc<AtomicBool>,
    pub(crate) session: Session,
    /// Old exports, the oldest first.
    pub(crate) exports: Vec<Vec<u8>>,
}

impl Device {
    pub(crate) fn new(
        index: usize,
        setup: DeviceSetup,
        cluster: &Arc<Cluster>,
        ledger: Ledger,
        mut random: Random,
        mut home: Option<Home>,
        sabotage: Option<Sabotage>,
    ) -> Self {
        let user = user(setup.user);
        let id = u16::try_from(100 + index).unwrap_or(u16::MAX);
        let machine = Arc::new(Machine::new(id, random.fork(), setup.skew));
        let silent = sabotage == Some(Sabotage::Silence);
        let link = Link::new(index, Arc::clone(cluster), ledger.clone(), random.fork(), silent);
        let link = Arc::new(link);
        let hostile = Arc::new(Hostile::new(ledger.clone()));
        let bearer = format!("Bearer {}", cluster.token(&user, None));
        let token = Token { bearer, of: user.clone() };
        let transport = SimTransport::new(
            Arc::clone(&link),
            ledger.clone(),
            Arc::clone(&hostile),
            token,
            sabotage,
        );
        let transport = Arc::new(transport);
        let config = config(&setup, &machine);
        let to: Arc<dyn Transport> = Arc::clone(&transport) as Arc<dyn Transport>;
        let client = new_client(&mut home, user.clone(), None, to, config);
        let client = client.expect("a good configuration, and a disk that is well");
        let violations = Arc::new(ViolationCollector::default());
        client.observe(Arc::clone(&violations) as Arc<dyn vfs_sync_client::Observer>);
        let events = client.subscribe();
        ledger.book().replicas.insert(client.client_id(), user.clone());
        let session = Session::default();
        let (talking, reading, exports) = (None, Vec::new(), Vec::new());
        Self {
            index,
            user,
            setup,
            machine,
            link,
            hostile,
            transport,
            client,
            violations,
            events,
            ledger,
            talking,
            reading,
            home,
            well: Arc::default(),
            behind: Arc::default(),
            session,
            exports,
        }
    }

    /// Sends requests with the token of `other` from now on, or of the device's own user again.
    pub(crate) fn swap_token(&mut self, cluster: &Cluster, other: Option<&UserId>) {
        // A call whose answer was broken has to end in exactly that.
        if self.is_talking() && self.hostile.is_armed() {
            return;
        }
        let of = other.unwrap_or(&self.user);
        self.transport.set_token(Token {
            bearer: format!("Bearer {}", cluster.token(of, None)),
            of: of.clone(),
        });
        self.ledger.note(|| format!("device {}: has a token of {of}", self.index));
        match other {
            Some(_) => {
                self.ledger.book().swapped.insert(self.index);
            }
            // The background work has stopped in the meantime.
            None => self.start_background(),
        }
    }

    pub(crate) fn transport(&self) -> Arc<SimTransport> {
        Arc::clone(&self.transport)
    }

    /// Replaces the device by a new one of the same user.
    pub(crate) async fn reinstall(&mut self) {
        self.take_over(None);
        self.crash().await;
        let config = config(&self.setup, &self.machine);
        let to: Arc<dyn Transport> = Arc::clone(&self.transport) as Arc<dyn Transport>;
        let client = new_client(&mut self.home, self.user.clone(), None, to, config);
        self.replace(client.expect("a good configuration, and a new disk"), &[]);
        self.exports.clear();
        self.start_background();
    }

    fn adopt(&mut self, client: SyncClient) {
        client.observe(Arc::clone(&self.violations) as Arc<dyn vfs_sync_client::Observer>);
        self.events = client.subscribe();
        self.ledger.book().replicas.insert(client.client_id(), self.user.clone());
        // The armed breach was meant for the previous client.
        self.hostile.disarm();
        self.transport.numbers.forget();
        self.client = client;
    }

    /// Returns whether the disk is without power, so that the replica cannot be read.
    pub(crate) fn is_dark(&self) -> bool {
        self.home.as_ref().is_some_and(|home| home.disk.is_off())
    }

    /// Returns whether a call may fail with an error of the disk.
    pub(crate) fn disk_may_fail(&self, error: &ClientError) -> bool {
        let troubled = self.home.as_ref().map(|home| &home.troubled);
        may_fail(&self.ledger, troubled, error)
    }

    /// Restores the power, if the disk lost it.
    pub(crate) async fn revive(&mut self) {
        if self.is_dark() {
            self.lose_power().await;
        }
    }

    /// Fails the power and restores it.
    pub(crate) async fn lose_power(&mut self) {
        let Some(home) = &mut self.home else { return };
        let unsynced = home.unsynced();
        let name = match unsynced {
            Unsynced::Torn(_) => "device's disk: the power failed, torn",
            _ => "device's disk: the power failed",
        };
        self.ledger.fault(name, || self.index.to_string());
        // Pages are not durable at once, so names that they showed may have to be shown again.
        self.session.forget_shown();
        self.restart(unsynced).await;
        if !self.is_dark() {
            Held::lose_power(&self.ledger, self);
        }
    }

    /// Kills the process at its present point, and starts a new one on the same disk.
    pub(crate) async fn restart(&mut self, unsynced: Unsynced) {
        self.take_over(None);
        self.crash().await;
        self.hostile.disarm();
        let Some(home) = &self.home else { return };
        home.disk.power_off();
        // The replica's lock goes with the client that has it.
        let to = Arc::clone(&self.transport) as Arc<dyn Transport>;
        let nothing = SyncClient::builder(Arc::clone(&to))
            .config(config(&self.setup, &self.machine))
            .in_memory(self.user.clone());
        self.client = nothing.expect("a good configuration");
        home.disk.power_on(unsynced);
        // A replica that does not open because the disk is full reports that, and the disk gets
        // space.
        home.disk.set_capacity(None);
        match home.open(to, config(&self.setup, &self.machine)) {
            Ok(client) => self.adopt(client),
            Err(error) => {
                let message = format!("device {}: its replica is lost: {error}", self.index);
                return self.ledger.fail(FailureKind::Lost, message);
            }
        }
        self.learn_what_it_was_not_told();
        self.start_background();
    }

    /// Accounts for a call that failed with the disk: it may have removed operations from the queue
    /// durably without a report.
    fn learn_what_it_was_not_told(&self) {
        let queue = self.client.queue().operations(usize::MAX).expect("it was just opened");
        let pending = queue.into_iter().filter(|one| one.state != QueuedState::Acknowledged);
        let pending: BTreeSet<OpId> = pending.map(|one| one.operation.op_id).collect();
        let rejected = self.client.queue().rejected(usize::MAX).expect("it was just opened");
        let mut book = self.ledger.book();
        for one in rejected {
            book.ended(&one.operation.op_id, End::Rejected);
        }
        let of_this = book.operations.iter().filter(|(op_id, queued)| {
            queued.device == self.index && queued.end.is_none() && !pending.contains(*op_id)
        });
        let outdated = of_this.filter(|(op, queued)| {
            let withdrawn = queued.moves && !book.model.was_applied(op);
            withdrawn || book.model.was_outdated(op)
        });
        for op_id in outdated.map(|(op_id, _)| op_id).cloned().collect::<Vec<_>>() {
            book.ended(&op_id, End::Outdated);
        }
    }

    /// Starts background work, if the device has it and its disk permits it.
    pub(crate) fn start_background(&self) {
        if !self.setup.background {
            return;
        }
        if let Err(error) = self.client.start_background()
            && !self.disk_may_fail(&error)
        {
            let message = format!("device {} does not synchronise: {error}", self.index);
            self.ledger.fail(FailureKind::FalseAlarm, message);
        }
    }

    /// Records that the device's view may be older than the servers', until its next pull.
    pub(crate) fn fall_behind(&mut self) {
        self.session = Session::default();
        self.behind.store(true, Ordering::Relaxed);
    }

    /// Replaces the client by another one; `held` are the operations of the previous one that the
    /// other has too.
    fn replace(&mut self, client: SyncClient, held: &[OpId]) {
        self.adopt(client);
        self.fall_behind();
        let index = self.index;
        let rejected = self.client.queue().rejected(usize::MAX).expect("it is new");
        let mut book = self.ledger.book();
        // The new client does not know the operations that were rejected since its state was made.
        let waits = |op_id: &OpId| rejected.iter().any(|one| one.operation.op_id == *op_id);
        for (op_id, queued) in &mut book.operations {
            if queued.device == index && queued.end == Some(End::Rejected) && !waits(op_id) {
                queued.end = Some(End::Forgotten);
            }
        }
        book.contents.retain(|(device, _), _| *device != index);
        book.held.items.retain(|(device, _)| *device != index);
        let Book { saved, model, .. } = &mut *book;
        saved.lose_device(index, |content| model.held(content));
        let applied: Vec<OpId> = book.applied_of(index);
        book.forget_operations_but(|op_id, queued| {
            queued.device != index || held.contains(op_id) || applied.contains(op_id)
        });
    }

    /// Replaces the client by one that is made from an old export.
    pub(crate) async fn hydrate(&mut self, exported: &[u8]) -> Result<(), ClientError> {
        self.crash().await;
        let config = config(&self.setup, &self.machine);
        let to: Arc<dyn Transport> = Arc::clone(&self.transport) as Arc<dyn Transport>;
        let (user, id) = (self.user.clone(), self.client.client_id());
        let client = new_client(&mut self.home, user, Some(id), to, config)?;
        client.hydrate_state(exported)?;
        let queue = client.queue().operations(usize::MAX)?;
        let held: Vec<OpId> = queue.into_iter().map(|one| one.operation.op_id).collect();
        self.replace(client, &held);
        self.ledger.book().may_repeat = true;
        Ok(())
    }

    pub(crate) fn is_talking(&self) -> bool {
        self.talking.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Starts an exchange with a server, unless one is in progress.
    pub(crate) fn talk(&mut self, what: Talk) {
        if self.is_talking() {
            return;
        }
        let (client, ledger) = (self.client.clone(), self.ledger.clone());
        let (hostile, violations) = (Arc::clone(&self.hostile), Arc::clone(&self.violations));
        let (index, rematerialises) = (self.index, self.setup.rematerialise);
        let (well, behind) = (Arc::clone(&self.well), Arc::clone(&self.behind));
        let troubled = self.home.as_ref().map(|home| Arc::clone(&home.troubled));
        well.store(false, Ordering::Relaxed);
        ledger.note(|| format!("device {index}: {what:?}"));
        self.talking = Some(tokio::spawn(async move {
            let mut what = what;
            loop {
                hostile.begin();
                let result = match what {
                    Talk::Sync => client.sync().await,
                    Talk::Flush => client.flush().await,
                    Talk::Pull => client.pull().await,
                    Talk::Rematerialise => client.rematerialise().await,
                };
                well.store(result.is_ok(), Ordering::Relaxed);
                if result.as_ref().is_ok_and(|report| report.pages > 0) {
                    behind.store(false, Ordering::Relaxed);
                }
                let emitted = violations.take();
                let due = hostile.due();
                ledger.note(|| match &result {
                    Ok(report) => format!("device {index}: {what:?} done: {report:?}"),
                    Err(error) => format!("device {index}: {what:?} failed: {error}"),
                });
                let error = result.as_ref().err();
                if error.is_some_and(|error| may_fail(&ledger, troubled.as_ref(), error)) {
                    return;
                }
                if let Some(due) = due {
                    check_ending(&ledger, index, &client, &due, error, &emitted);
                    return;
                }
                if !judge(&ledger, index, error, &emitted) {
                    return;
                }
                // The application of such a client starts again from the beginning.
                if rematerialises || what == Talk::Rematerialise {
                    return;
                }
                what = Talk::Rematerialise;
            }
        }));
    }

    /// Waits until the exchange in progress ends.
    pub(crate) async fn wait(&mut self) {
        if let Some(task) = self.talking.take()
            && let Err(error) = task.await
            && error.is_panic()
        {
            self.ledger.fail(FailureKind::Panic, format!("device {}: {error}", self.index));
        }
    }

    /// Returns whether the last exchange succeeded.
    pub(crate) fn was_well(&self) -> bool {
        self.well.load(Ordering::Relaxed)
    }

    /// Ends the exchange in progress at its present point; returns whether there was one.
    pub(crate) async fn crash(&mut self) -> bool {
        self.client.stop_background().await;
        for read in self.reading.drain(..) {
            read.abort();
            let _ = read.await;
        }
        let Some(task) = self.talking.take() else { return false };
        let was = !task.is_finished();
        task.abort();
        let _ = task.await;
        self.transport.numbers.forget();
        self.violations.take();
        self.hostile.disarm();
        was
    }

    /// Processes the events of the client's background work.
    pub(crate) fn observe(&mut self) {
        if !self.events.is_empty() {
            self.take_over(None);
        }
    }

    /// Returns the items of newly queued operations that were created by an own path and are shown
    /// as the user's.
    fn shown_as_own(&self, queue: &[QueuedOp]) -> BTreeSet<ItemId> {
        let mut items: BTreeSet<ItemId> = {
            let book = self.ledger.book();
            let ops = queue.iter().map(|queued| &queued.operation);
            let new = ops.filter(|op| !book.operations.contains_key(&op.op_id));
            new.map(|op| &op.item_id).filter(|id| book.own.contains_key(*id)).cloned().collect()
        };
        items.retain(|item| {
            let node = self.client.node(item).ok().flatten();
            node.is_some_and(|node| node.owner == self.user)
        });
        items
    }

    /// Processes newly queued operations and the client's reports about earlier ones. `seen` is the
    /// name that was in view when an item was renamed.
    pub(crate) fn take_over(&mut self, seen: Option<(ItemId, Name)>) {
        let index = self.index;
        let queue = match self.client.queue().operations(usize::MAX) {
            Err(_) if self.is_dark() => Vec::new(),
            queue => queue.expect("a replica that is well is read"),
        };
        let as_own = self.shown_as_own(&queue);
        {
            let mut book = self.ledger.book();
            for QueuedOp { operation: op, state } in queue {
                if book.operations.contains_key(&op.op_id) {
                    continue;
                }
                if op.action == Action::Delete {
                    // A content on its way to the item is removed with it.
                    book.contents.remove(&(index, op.item_id.clone()));
                }
                let (mut name, mut made) = (None, false);
                if let Action::Upsert(upsert) = &op.action {
                    name.clone_from(&upsert.name);
                    made = upsert.object_type.is_some();
                }
                if made && !book.items.contains(&op.item_id) {
                    book.items.push(op.item_id.clone());
                }
                let seen = seen.as_ref().filter(|(item, _)| *item == op.item_id && !made);
                let behind = self.behind.load(Ordering::Relaxed);
                let seen = seen.and_then(|(item, name)| {
                    let own = self.session.own(item, name).cloned();
                    book.seen(item, name, own).filter(|seen| seen.own.is_some() || !behind)
                });
                book.note(|| format!("device {index}: queued {} at {}", show(&op), op.occurred_at));
                if let Some(name) = &name {
                    self.session.wrote(&op.item_id, &op.op_id, name);
                }
                let item = op.item_id.clone();
                let as_own = as_own.contains(&item);
                let deletes = op.action == Action::Delete;
                let moves = state == QueuedState::Held;
                let queued =
                    Queued { device: index, item, as_own, deletes, moves, seen, end: None };
                book.operations.insert(op.op_id, queued);
            }
        }
        loop {
            let event = match self.events.try_recv() {
                Ok(event) => event,
                Err(TryRecvError::Lagged(_)) => continue,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            };
            let mut book = self.ledger.book();
            match event {
                ChangeEvent::Outdated { op_id, .. } => book.ended(&op_id, End::Outdated),
                ChangeEvent::Rejected { op_id, .. } => book.ended(&op_id, End::Rejected),
                // Where the answer to a delete was lost, the feed brings back what it has not removed.
                ChangeEvent::Kept(item) | ChangeEvent::NotMoved(item) => book.kept(index, &item),
                ChangeEvent::ConflictedCopy { item_id, copy } => {
                    if let Some(content) = book.contents.remove(&(index, item_id.clone())) {
                        book.contents.insert((index, copy), content);
                    }
                    book.coverage.count(Kind::Call, "client: a conflicted copy");
                    book.note(|| {
                        format!("device {index}: a conflicted copy of {}", short(&item_id))
                    });
                }
                ChangeEvent::UploadRejected { item_id, reason } => {
                    let servers = ["blob_store_error", "storage_full", "malformed_row"];
                    if servers.iter().any(|code| reason.contains(code)) {
                        let item = short(&item_id);
                        let message =
                            format!("device {index}: {item}'s content is given up: {reason}");
                        book.fail(FailureKind::Lost, message);
                    }
                }
                ChangeEvent::Offered(_) => {
                    book.coverage.count(Kind::Call, "client: a server was offered what it lost");
                }
                ChangeEvent::Rebuilt => {
                    book.coverage.count(Kind::Call, "client: rematerialised");
                    self.session = Session::default();
                }
                _ => {}
            }
        }
    }
}

pub(crate) fn user(index: usize) -> UserId {
    UserId::new(["ann", "ben", "cyd", "dee"][index % 4]).expect("an id")
}

fn config(setup: &DeviceSetup, machine: &Arc<Machine>) -> ClientConfig {
    let defaults = ClientConfig::default();
    ClientConfig {
        batch_max_bytes: if setup.large { 60 } else { defaults.batch_max_bytes },
        resumable_from: if setup.large { 150 } else { defaults.resumable_from },
        rematerialise: setup.rematerialise,
        page_limit: setup.page_limit,
        interval: Duration::from_secs(20),
        // A stream would stay open for as long as a world runs.
        live: false,
        environment: Arc::clone(machine) as Arc<dyn vfs_sync_client::Environment>,
        ..defaults
    }
}

/// Creates a client with a new replica, with the given id if there is one.
fn new_client(
    home: &mut Option<Home>,
    user: UserId,
    id: Option<ReplicaId>,
    to: Arc<dyn Transport>,
    config: ClientConfig,
) -> Result<SyncClient, ClientError> {
    match (home, id) {
        (Some(home), id) => home.create(user, id, to, config),
        (None, None) => SyncClient::builder(to).config(config).in_memory(user),
        (None, Some(id)) => SyncClient::builder(to).config(config).client_id(id).in_memory(user),
    }
}

/// Returns whether a call may fail because of a fault of a disk.
fn may_fail(ledger: &Ledger, troubled: Option<&Arc<AtomicBool>>, error: &ClientError) -> bool {
    let ClientError::Storage(text) = error else { return false };
    if !troubled.is_some_and(|troubled| troubled.load(Ordering::Relaxed)) {
        return false;
    }
    let full = text.contains("is full");
    let name = if full { "device's disk: it was full" } else { "device's disk: a call failed" };
    ledger.fault(name, || text.clone());
    true
}

/// Checks that a failure may occur among correct servers; returns whether the client must rebuild.
fn judge(
    ledger: &Ledger,
    index: usize,
    error: Option<&ClientError>,
    emitted: &[Violation],
) -> bool {
    let mut book = ledger.book();
    let asks =
        |violation: &Violation| matches!(violation, Violation::RematerializationRequired { .. });
    for violation in emitted {
        book.coverage.count(Kind::Guardrail, signature(violation));
        if !asks(violation) || !book.may_rematerialize {
            let message = format!("device {index}: {} {:?}", violation.signature(), violation);
            book.fail(FailureKind::FalseAlarm, message);
        }
    }
    let Some(error) = error else { return false };
    // The servers' disk is full.
    let waits = matches!(error, ClientError::Transport(error) if error.waits());
    let transient = (error.is_transient() || waits) && !book.healed;
    let ahead = matches!(
        error,
        ClientError::Transport(vfs_sync_client::TransportError::WriteIdsAhead { .. })
    );
    if is_refused_for_its_token(&mut book, index, error) {
        return false;
    }
    let fine =
        transient || error.violation().is_some_and(asks) || (book.may_rematerialize && ahead);
    if !fine {
        book.fail(FailureKind::FalseAlarm, format!("device {index}: {error}"));
    }
    error.violation().is_some_and(asks)
}

/// Returns whether a call was rejected because the device has another user's token, or had it when
/// the call began.
pub(crate) fn is_refused_for_its_token(book: &mut Book, index: usize, error: &ClientError) -> bool {
    use vfs_sync_client::TransportError;
    let refused = matches!(error, ClientError::Transport(TransportError::WrongUser { .. }));
    if refused {
        book.coverage.count(Kind::Guardrail, "client: a token of another user");
    }
    refused && book.swapped.contains(&index) && !book.healed
}

pub(crate) const fn signature(violation: &Violation) -> &'static str {
    use vfs_sync_core::guardrail::Stage;
    match violation {
        Violation::LastWriteIdRegression { stage: Stage::Reconcile, .. } => {
            "reconcile:lastWriteIdRegression"
        }
        Violation::LastWriteIdRegression { .. } => "pull:lastWriteIdRegression",
        Violation::EmptyPageWithMore
        | Violation::NextCursorMismatch { .. }
        | Violation::ItemsOutOfOrder { .. } => "pull:pullPageInvariantViolation",
        Violation::DuplicateOpReplay { .. } => "pull:pullDuplicateOpReplay",
        Violation::PullCursorRegression { .. } => "pull:pullCursorRegression",
        Violation::RematerializationRequired { .. } => "pull:pullRematerializationRequired",
        Violation::ReconcileCursorRegression { .. } => "reconcile:reconcileCursorRegression",
        Violation::StaleWriteRecoveryExhausted { .. } => "flush:staleWriteRecoveryExhausted",
        Violation::Hydrate { .. } => "hydrate:hydrateGuardrailViolation",
    }
}

/// Checks that a broken answer ended in exactly the required violation, reported once, and changed
/// nothing.
fn check_ending(
    ledger: &Ledger,
    index: usize,
    client: &SyncClient,
    due: &Due,
    error: Option<&ClientError>,
    emitted: &[Violation],
) {
    use vfs_sync_client::TransportError;
    let fail = |message: String| {
        let breach = due.breach.name();
        ledger.fail(FailureKind::FailClosed, format!("device {index}: {breach}: {message}"));
    };
    // The client may have rematerialised before, as the server required.
    let asked = |one: &&Violation| matches!(one, Violation::RematerializationRequired { .. });
    let told: Vec<&Violation> = emitted.iter().skip_while(asked).collect();
    let got = error.map_or_else(|| "no error".to_owned(), ToString::to_string);
    match (&due.ending, error) {
        (Ending::Violation(expected), Some(ClientError::Violation(got))) if expected == got => {
            ledger.count(Kind::Guardrail, signature(expected));
            if told != [&**expected] {
                fail(format!("{expected:?} was emitted as {emitted:?}"));
            }
        }
        (
            Ending::Malformed(expected),
            Some(ClientError::Transport(TransportError::MalformedResponse { call, .. })),
        ) if expected == call => {
            ledger.count(Kind::Guardrail, "malformedResponse");
            if !told.is_empty() {
                fail(format!("no violation, and {emitted:?} was emitted"));
            }
        }
        _ => return fail(format!("ended in {got}, not in {:?}", due.ending)),
    }
    if export(client) != due.state {
        fail("the state changed".into());
    }
    ledger.count(Kind::Check, "fail-closed: state and signature");
}
