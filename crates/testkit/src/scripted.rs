//! A transport that answers from a script.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use vfs_sync_client::transport::{Answer, Call, CallKind, PullQuery, Result};
use vfs_sync_client::{Device, Transport, TransportError};
use vfs_sync_core::id::UserId;
use vfs_sync_core::wire::{
    PullPage, PushRequest, PushResponse, PushResult, PushStatus, ReconcileRequest,
    ReconcileResponse, StateResponse, WriteIds,
};

use crate::record::Record;

type Once = Box<dyn FnOnce(&Call) -> Result<Answer> + Send>;
type Always = Box<dyn FnMut(&Call) -> Result<Answer> + Send>;

/// A transport that answers from a script and records the calls.
///
/// A call gets the next answer that was set for a call of its kind; else the answer of the present
/// phase; else the answer of the simplest server: a push is applied whole, a pull is settled with
/// nothing new, a reconcile is acknowledged as sent. That server knows no contents.
#[derive(Default)]
pub struct ScriptedTransport {
    script: Mutex<Script>,
    record: Record,
}

#[derive(Default)]
struct Script {
    next: HashMap<CallKind, VecDeque<Once>>,
    phase: Option<Phase>,
}

/// The answers to calls during a part of a test. Calls without an answer in it are answered as
/// without a phase.
pub struct Phase {
    name: String,
    answers: HashMap<CallKind, Always>,
}

macro_rules! on {
    ($transport:ident, $kind:ident, $answer:ident) => {
        $transport.on_call(CallKind::$kind, move |call| match call {
            Call::$kind(request) => $answer(request).map(Answer::$kind),
            other => Err(unknown(other.kind())),
        })
    };
}

impl Phase {
    /// Creates a phase without answers; the record calls it `name`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), answers: HashMap::new() }
    }

    /// Sets the answer to every call of `kind`.
    #[must_use]
    pub fn on_call(
        mut self,
        kind: CallKind,
        answer: impl FnMut(&Call) -> Result<Answer> + Send + 'static,
    ) -> Self {
        self.answers.insert(kind, Box::new(answer));
        self
    }

    /// Sets the answer to every push.
    #[must_use]
    pub fn on_push(
        self,
        mut answer: impl FnMut(&PushRequest) -> Result<PushResponse> + Send + 'static,
    ) -> Self {
        on!(self, Push, answer)
    }

    /// Sets the answer to every pull.
    #[must_use]
    pub fn on_pull(
        self,
        mut answer: impl FnMut(&PullQuery) -> Result<PullPage> + Send + 'static,
    ) -> Self {
        on!(self, Pull, answer)
    }

    /// Sets the answer to every reconcile.
    #[must_use]
    pub fn on_reconcile(
        self,
        mut answer: impl FnMut(&ReconcileRequest) -> Result<ReconcileResponse> + Send + 'static,
    ) -> Self {
        on!(self, Reconcile, answer)
    }
}

impl ScriptedTransport {
    /// Creates a transport with an empty script.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the answer to the next call of `kind` that has none yet.
    pub fn on_call(
        &self,
        kind: CallKind,
        answer: impl FnOnce(&Call) -> Result<Answer> + Send + 'static,
    ) {
        self.script().next.entry(kind).or_default().push_back(Box::new(answer));
    }

    /// Sets the answer to the next push that has none yet.
    pub fn on_push(
        &self,
        answer: impl FnOnce(&PushRequest) -> Result<PushResponse> + Send + 'static,
    ) {
        on!(self, Push, answer);
    }

    /// Sets the answer to the next pull that has none yet.
    pub fn on_pull(&self, answer: impl FnOnce(&PullQuery) -> Result<PullPage> + Send + 'static) {
        on!(self, Pull, answer);
    }

    /// Sets the answer to the next reconcile that has none yet.
    pub fn on_reconcile(
        &self,
        answer: impl FnOnce(&ReconcileRequest) -> Result<ReconcileResponse> + Send + 'static,
    ) {
        on!(self, Reconcile, answer);
    }

    /// Begins a phase: calls without an answer of their own are answered by `phase`.
    pub fn begin(&self, phase: Phase) {
        self.script().phase = Some(phase);
    }

    /// Ends the present phase.
    pub fn end(&self) {
        self.script().phase = None;
    }

    /// Returns the number of answers that were set and not used: 0 after a complete script.
    #[must_use]
    pub fn unused(&self) -> usize {
        self.script().next.values().map(VecDeque::len).sum()
    }

    /// Returns the calls that the transport received.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }
}

/// Builds the answer that gives every operation of `request` the same status.
#[must_use]
pub fn all_results(request: &PushRequest, status: PushStatus) -> PushResponse {
    let result = |op_id| PushResult {
        op_id: Some(op_id),
        status,
        reason: None,
        detail: None,
        authored_at: None,
        last_write_id: None,
    };
    let results = request.operations.iter().map(|op| result(op.op_id.clone())).collect();
    PushResponse { client_id: request.client_id.clone(), results, epoch: None }
}

fn unknown(kind: CallKind) -> TransportError {
    TransportError::Refused {
        status: 404,
        code: "not_found".into(),
        message: format!("the script has no answer to {kind}"),
        details: serde_json::Map::new(),
    }
}

/// Answers as the simplest server does.
fn plainly(call: &Call) -> Result<Answer> {
    Ok(match call {
        Call::Push(request) => Answer::Push(all_results(request, PushStatus::Applied)),
        Call::Pull(_) => Answer::Pull(crate::build::page().build()),
        Call::Reconcile(request) => Answer::Reconcile(request.clone()),
        Call::State(client_id) => Answer::State(StateResponse {
            client_id: client_id.clone(),
            reconcile_state: None,
            feed_head: None,
            epoch: None,
            pruned_through: None,
            last_write_ids: WriteIds::new(),
            withheld_owners: Vec::new(),
        }),
        Call::Limits => Answer::Limits(Box::default()),
        Call::BlobBatch(files) => {
            Answer::BlobBatch(files.iter().map(|_| Err(unknown(CallKind::BlobBatch))).collect())
        }
        other => return Err(unknown(other.kind())),
    })
}

#[async_trait]
impl Transport for ScriptedTransport {
    fn bind_user(&self, _: &UserId) -> Result<(), UserId> {
        Ok(())
    }

    fn bind_device(&self, _: &Arc<Device>) {}

    async fn call(&self, call: Call) -> Result<Answer> {
        let kind = call.kind();
        let mut script = self.script();
        self.record.add(script.phase.as_ref().map(|phase| phase.name.clone()), &call);
        if let Some(answer) = script.next.get_mut(&kind).and_then(VecDeque::pop_front) {
            drop(script);
            return answer(&call);
        }
        match script.phase.as_mut().and_then(|phase| phase.answers.get_mut(&kind)) {
            Some(answer) => answer(&call),
            None => plainly(&call),
        }
    }
}
