//! One device: a client process of the product, and what the simulator knows of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::task::JoinHandle;
use vfs_sync_client::{ChangeEvent, ClientConfig, ClientError, SyncClient, Transport, Violation};
use vfs_sync_core::id::{ItemId, OpId, UserId};
use vfs_sync_core::item::Name;
use vfs_sync_core::op::Action;
use vfs_sync_testkit::{Random, ViolationCollector};

use crate::check::answers::{short, show};
use crate::check::session::Session;
use crate::coverage::Kind;
use crate::environment::Machine;
use crate::failure::FailureKind;
use crate::hostile::{Due, Ending, Hostile, export};
use crate::ledger::{End, Ledger, Queued};
use crate::network::Link;
use crate::plan::DeviceSetup;
use crate::sabotage::Sabotage;
use crate::server::Cluster;
use crate::transport::SimTransport;

/// What a device does with its client when it talks to a server.
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
    /// The last talk ended well.
    well: Arc<AtomicBool>,
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
        sabotage: Option<Sabotage>,
    ) -> Self {
        let user = user(setup.user);
        let id = u16::try_from(100 + index).unwrap_or(u16::MAX);
        let machine = Arc::new(Machine::new(id, random.fork(), setup.skew));
        let silent = sabotage == Some(Sabotage::Silence);
        let link = Link::new(index, Arc::clone(cluster), ledger.clone(), random.fork(), silent);
        let link = Arc::new(link);
        let hostile = Arc::new(Hostile::new(ledger.clone()));
        let transport = Arc::new(SimTransport {
            link: Arc::clone(&link),
            ledger: ledger.clone(),
            hostile: Arc::clone(&hostile),
            token: format!("Bearer {}", cluster.token(&user, None)),
            sabotage,
        });
        let config = config(&setup, &machine);
        let to: Arc<dyn Transport> = Arc::clone(&transport) as Arc<dyn Transport>;
        let client = SyncClient::in_memory(user.clone(), to, config).expect("a good configuration");
        let violations = Arc::new(ViolationCollector::default());
        client.observe(Arc::clone(&violations) as Arc<dyn vfs_sync_client::Observer>);
        let events = client.subscribe();
        let session = Session::default();
        let (talking, exports) = (None, Vec::new());
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
            well: Arc::default(),
            session,
            exports,
        }
    }

    pub(crate) fn transport(&self) -> Arc<SimTransport> {
        Arc::clone(&self.transport)
    }

    /// The device is lost, and a new one of the user's takes its place.
    pub(crate) async fn reinstall(&mut self) {
        self.observe(None);
        self.crash().await;
        let config = config(&self.setup, &self.machine);
        let to: Arc<dyn Transport> = Arc::clone(&self.transport) as Arc<dyn Transport>;
        let client = SyncClient::in_memory(self.user.clone(), to, config);
        self.replace(client.expect("a good configuration"), &[]);
        self.exports.clear();
        if self.setup.background {
            self.client.start_background().expect("there is a runtime");
        }
    }

    /// Another client takes the place of the one that is there, which had more than `held`.
    fn replace(&mut self, client: SyncClient, held: &[OpId]) {
        client.observe(Arc::clone(&self.violations) as Arc<dyn vfs_sync_client::Observer>);
        self.events = client.subscribe();
        // What is armed is meant for the one that was there.
        self.hostile.disarm();
        self.client = client;
        self.session = Session::default();
        let index = self.index;
        let mut book = self.ledger.book();
        book.contents.retain(|(device, _), _| *device != index);
        let applied: Vec<OpId> = book.applied_of(index);
        book.forget_operations_but(|op_id, queued| {
            queued.device != index || held.contains(op_id) || applied.contains(op_id)
        });
    }

    /// Puts a client made of an old export in the place of the one that is there.
    pub(crate) async fn hydrate(&mut self, exported: &[u8]) -> Result<(), ClientError> {
        self.crash().await;
        let config = config(&self.setup, &self.machine);
        let to: Arc<dyn Transport> = Arc::clone(&self.transport) as Arc<dyn Transport>;
        let (user, id) = (self.user.clone(), self.client.client_id());
        let client = SyncClient::in_memory_for_hydrate(user, id, to, config)?;
        client.hydrate_state(exported)?;
        let queue = client.queue(usize::MAX)?;
        let held: Vec<OpId> = queue.into_iter().map(|one| one.operation.op_id).collect();
        self.replace(client, &held);
        self.ledger.book().may_repeat = true;
        Ok(())
    }

    pub(crate) fn is_talking(&self) -> bool {
        self.talking.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Starts talking to a server, unless it does already.
    pub(crate) fn talk(&mut self, what: Talk) {
        if self.is_talking() {
            return;
        }
        let (client, ledger) = (self.client.clone(), self.ledger.clone());
        let (hostile, violations) = (Arc::clone(&self.hostile), Arc::clone(&self.violations));
        let (index, rematerialises) = (self.index, self.setup.rematerialise);
        let well = Arc::clone(&self.well);
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
                let emitted = violations.take();
                let due = hostile.due();
                ledger.note(|| match &result {
                    Ok(report) => format!("device {index}: {what:?} done: {report:?}"),
                    Err(error) => format!("device {index}: {what:?} failed: {error}"),
                });
                if let Some(due) = due {
                    check_ending(&ledger, index, &client, &due, result.as_ref().err(), &emitted);
                    return;
                }
                let error = result.as_ref().err();
                if !judge(&ledger, index, error, &emitted) {
                    return;
                }
                // An application that is told so begins anew.
                if rematerialises || what == Talk::Rematerialise {
                    return;
                }
                what = Talk::Rematerialise;
            }
        }));
    }

    /// Waits until it no longer talks.
    pub(crate) async fn wait(&mut self) {
        if let Some(task) = self.talking.take()
            && let Err(error) = task.await
            && error.is_panic()
        {
            self.ledger.fail(FailureKind::Panic, format!("device {}: {error}", self.index));
        }
    }

    /// Whether the last talk ended well.
    pub(crate) fn was_well(&self) -> bool {
        self.well.load(Ordering::Relaxed)
    }

    /// Ends what it is doing, wherever that is.
    pub(crate) async fn crash(&mut self) -> bool {
        self.client.stop_background().await;
        let Some(task) = self.talking.take() else { return false };
        let was = !task.is_finished();
        task.abort();
        let _ = task.await;
        self.violations.take();
        self.hostile.disarm();
        was
    }

    /// Takes over what was newly queued, and what the client tells of what was queued before.
    pub(crate) fn observe(&mut self, seen: Option<(ItemId, Name)>) {
        let index = self.index;
        let queue = self.client.queue(usize::MAX).expect("memory is read");
        {
            let mut book = self.ledger.book();
            for queued in queue {
                let op = queued.operation;
                if book.operations.contains_key(&op.op_id) {
                    continue;
                }
                if op.action == Action::Delete {
                    // What was on its way to the item goes with it.
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
                let seen = seen.map(|(_, name)| name.clone());
                book.note(|| format!("device {index}: queued {} at {}", show(&op), op.occurred_at));
                if let Some(name) = &name {
                    self.session.wrote(&op.item_id, &op.op_id, name);
                }
                let item = op.item_id.clone();
                book.operations.insert(op.op_id, Queued { device: index, item, seen, end: None });
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
                ChangeEvent::ConflictedCopy { item_id, copy } => {
                    if let Some(content) = book.contents.remove(&(index, item_id.clone())) {
                        book.contents.insert((index, copy), content);
                    }
                    book.coverage.count(Kind::Call, "client: a conflicted copy");
                    book.note(|| {
                        format!("device {index}: a conflicted copy of {}", short(&item_id))
                    });
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
        together_up_to: if setup.large { 60 } else { defaults.together_up_to },
        resumable_from: if setup.large { 150 } else { defaults.resumable_from },
        rematerialise: setup.rematerialise,
        page_limit: setup.page_limit,
        interval: Duration::from_secs(20),
        environment: Arc::clone(machine) as Arc<dyn vfs_sync_client::Environment>,
        ..defaults
    }
}

/// Whether a failure is one that may happen among honest servers; tells whether the client asks to
/// begin anew.
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
    let transient = error.is_transient() && !book.healed;
    let ahead = matches!(
        error,
        ClientError::Transport(vfs_sync_client::TransportError::WriteIdsAhead { .. })
    );
    let fine =
        transient || error.violation().is_some_and(asks) || (book.may_rematerialize && ahead);
    if !fine {
        book.fail(FailureKind::FalseAlarm, format!("device {index}: {error}"));
    }
    error.violation().is_some_and(asks)
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

/// A broken answer ended in exactly what it has to, told once, and nothing of it stayed.
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
    // It may have begun anew before, as it was told to.
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
