//! A server that breaks the protocol: an honest answer, changed in one way of the guardrail table.
//! This module computes the reaction that the client must show, from the state that the client
//! exports at that moment and from the answer alone.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use vfs_sync_client::transport::{PullQuery, Result};
use vfs_sync_client::{StateExport, SyncClient, Violation};
use vfs_sync_core::client::state;
use vfs_sync_core::cursor::{Cursor, Epoch};
use vfs_sync_core::guardrail::Stage;
use vfs_sync_core::id::{OpId, ReplicaId, WriteId};
use vfs_sync_core::operation::Operation;
use vfs_sync_core::wire::{
    PullPage, PushRequest, PushResponse, PushResult, PushStatus, ReconcileRequest,
    ReconcileResponse, WriteIds,
};

use crate::actor::malicious_client;
use crate::oracle::ledger::Ledger;

/// One way to break the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
pub(crate) enum Breach {
    #[strum(serialize = "breach: a page's write id goes back")]
    PageWriteIdRegression,
    #[strum(serialize = "breach: an empty page with more")]
    EmptyPageWithMore,
    #[strum(serialize = "breach: an entry twice")]
    DuplicateOp,
    #[strum(serialize = "breach: nextCursor is not the tail")]
    WrongNextCursor,
    #[strum(serialize = "breach: nextCursor is missing")]
    MissingNextCursor,
    #[strum(serialize = "breach: a page behind the cursor")]
    PageBehindCursor,
    #[strum(serialize = "breach: an empty page behind the cursor")]
    EmptyPageBehindCursor,
    #[strum(serialize = "breach: a bad item in the middle of a page")]
    BadItemInTheMiddle,
    #[strum(serialize = "breach: an item at the cursor")]
    ItemAtTheCursor,
    #[strum(serialize = "breach: an acknowledged cursor goes back")]
    ReconcileCursorRegression,
    #[strum(serialize = "breach: an acknowledged write id goes back")]
    ReconcileWriteIdRegression,
    #[strum(serialize = "breach: an acknowledgement for another client")]
    ReconcileOfAnother,
    #[strum(serialize = "breach: endlessly stale")]
    EndlesslyStale,
    #[strum(serialize = "breach: too few results")]
    TooFewResults,
    #[strum(serialize = "breach: a result for another operation")]
    ResultOfAnother,
    #[strum(serialize = "breach: other bytes")]
    WrongBytes,
}

impl Breach {
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// The required end of a broken answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ending {
    Violation(Box<Violation>),
    /// A `malformedResponse` of this call.
    Malformed(&'static str),
}

/// The required ending, and the client's state, which must then be the same byte for byte.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Due {
    pub(crate) breach: Breach,
    pub(crate) ending: Ending,
    pub(crate) state: Vec<u8>,
}

#[derive(Default)]
struct State {
    breach: Option<Breach>,
    client: Option<SyncClient>,
    due: Option<Due>,
    stale_pushes: u32,
    /// The first operation of the last stale push.
    stale_head: Option<OpId>,
    /// True while the client rebuilds the replica beside the state that it exports.
    rebuilds: bool,
    /// True after a rebuild, while the client asks which part of its history the server has: it
    /// applies nothing of the page that answers.
    asks_history: bool,
    /// The epoch of the last first page.
    epoch: Option<Epoch>,
    /// The number of pages that the present call has received.
    pages: u32,
}

/// A proxy between a device and its servers, which does nothing until it is armed.
pub(crate) struct Hostile {
    ledger: Ledger,
    state: Mutex<State>,
}

pub(crate) fn export(client: &SyncClient) -> Vec<u8> {
    try_export(client).expect("a replica that is well can be read")
}

/// Exports the client's state; `None` if a disk fault prevents it.
fn try_export(client: &SyncClient) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    client.export_state(StateExport::default(), &mut bytes).ok()?;
    Some(bytes)
}

fn lower(map: &mut WriteIds, than: &WriteIds) -> Option<(ReplicaId, WriteId, WriteId)> {
    let (replica, previous) =
        than.iter().find(|(replica, id)| id.get() > 1 && map.contains_key(*replica))?;
    let incoming = WriteId::new(previous.get() - 1)?;
    map.insert(replica.clone(), incoming);
    Some((replica.clone(), *previous, incoming))
}

fn earlier(cursor: &Cursor) -> Cursor {
    Cursor { changed_at: cursor.changed_at.plus_millis(-1), change_id: cursor.change_id.clone() }
}

impl Hostile {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self { ledger, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms the breach: the next suitable answer to `client` is broken.
    pub(crate) fn arm(&self, client: &SyncClient, breach: Breach) {
        let client = Some(client.clone());
        let mut state = self.state();
        let epoch = state.epoch;
        *state = State { breach: Some(breach), client, epoch, ..State::default() };
    }

    /// Returns whether a breach is armed, or a broken answer was not judged yet.
    pub(crate) fn is_armed(&self) -> bool {
        let state = self.state();
        state.breach.is_some() || state.due.is_some()
    }

    /// Records a first page. It belongs to a rematerialisation if the client had a state and starts
    /// without a cursor, or if its server has begun another epoch.
    fn first_page(&self, epoch: Option<Epoch>) {
        let mut state = self.state();
        let status = state.client.as_ref().and_then(|client| client.status().ok());
        let anew = status.is_some_and(|status| status.cursor.is_some());
        let other = state.epoch.is_some() && state.epoch != epoch;
        state.epoch = epoch;
        state.rebuilds = anew || other;
        if anew {
            state.stale_pushes = 0;
        }
    }

    /// Records that the client must rematerialise and therefore repeats no page of its earlier
    /// pull.
    pub(crate) fn rebuild(&self) {
        self.state().stale_pushes = 0;
    }

    /// Returns whether the next page belongs to a rematerialisation.
    fn is_rebuilding(&self, has_more: bool) -> bool {
        let mut state = self.state();
        let rebuilds = state.rebuilds;
        state.rebuilds &= has_more;
        state.asks_history = rebuilds && !has_more;
        rebuilds
    }

    /// Records that a new call begins.
    pub(crate) fn begin(&self) {
        let mut state = self.state();
        (state.stale_pushes, state.rebuilds, state.pages) = (0, false, 0);
        state.asks_history = false;
    }

    /// Takes the required ending, if an answer was broken.
    pub(crate) fn due(&self) -> Option<Due> {
        if self.state().due.is_some() { self.disarm() } else { None }
    }

    /// Disarms the breach and returns the required end, if an answer was broken.
    pub(crate) fn disarm(&self) -> Option<Due> {
        let mut state = self.state();
        let after = State { epoch: state.epoch, ..State::default() };
        std::mem::replace(&mut *state, after).due
    }

    /// Returns the armed breach if it is one of `breaches`, with the client's state, if nothing was
    /// broken yet.
    fn turn(&self, of: &ReplicaId, breaches: &[Breach]) -> Option<(Breach, Vec<u8>)> {
        let state = self.state();
        let breach = state.breach.filter(|breach| breaches.contains(breach))?;
        let client = state.client.as_ref().filter(|client| client.client_id() == *of)?;
        // A second one of the same would find the client stopped.
        if state.due.is_some() {
            return None;
        }
        Some((breach, try_export(client)?))
    }

    fn owe(&self, breach: Breach, ending: Ending, exported: Vec<u8>) {
        self.ledger.fault(breach.name(), || format!("{ending:?}"));
        self.state().due = Some(Due { breach, ending, state: exported });
    }

    pub(crate) fn pull(&self, query: &PullQuery, mut page: PullPage) -> Result<PullPage> {
        use Breach as B;
        let breaches = [
            B::PageWriteIdRegression,
            B::EmptyPageWithMore,
            B::DuplicateOp,
            B::WrongNextCursor,
            B::MissingNextCursor,
            B::PageBehindCursor,
            B::EmptyPageBehindCursor,
            B::BadItemInTheMiddle,
            B::ItemAtTheCursor,
        ];
        // Another replica of the user's, by the same way.
        if malicious_client::is_one(&query.client_id) {
            return Ok(page);
        }
        if query.cursor.is_none() {
            self.first_page(page.epoch);
        }
        let (first, asks_history) = {
            let mut state = self.state();
            state.pages += 1;
            (state.pages == 1, std::mem::take(&mut state.asks_history))
        };
        if asks_history {
            return Ok(page);
        }
        let Some((breach, exported)) = self.turn(&query.client_id, &breaches) else {
            return Ok(page);
        };
        let client_id = &query.client_id;
        let Ok(held) = state::parse(&exported, client_id) else { return Ok(page) };
        if self.is_rebuilding(page.has_more) || held.replay_cursor != query.cursor {
            return Ok(page);
        }
        let Some(violation) = broken(breach, &mut page, query, &held.write_id_floor, first) else {
            return Ok(page);
        };
        self.owe(breach, Ending::Violation(Box::new(violation)), exported);
        Ok(page)
    }

    pub(crate) fn reconcile(
        &self,
        sent: &ReconcileRequest,
        mut answer: ReconcileResponse,
    ) -> Result<ReconcileResponse> {
        use Breach as B;
        let breaches =
            [B::ReconcileCursorRegression, B::ReconcileWriteIdRegression, B::ReconcileOfAnother];
        let Some((breach, exported)) = self.turn(&sent.client_id, &breaches) else {
            return Ok(answer);
        };
        let ending = match breach {
            B::ReconcileCursorRegression => {
                answer.cursor = earlier(&sent.cursor);
                let (previous, incoming) = (sent.cursor.clone(), answer.cursor.clone());
                Some(Violation::ReconcileCursorRegression { previous, incoming })
            }
            B::ReconcileWriteIdRegression => {
                let map = &mut answer.last_reconciled_write_ids;
                lower(map, &sent.last_reconciled_write_ids).map(
                    |(replica_id, previous, incoming)| {
                        let stage = Stage::Reconcile;
                        Violation::LastWriteIdRegression { stage, replica_id, previous, incoming }
                    },
                )
            }
            _ => {
                answer.client_id = ReplicaId::new("somebody-else").expect("an id");
                self.owe(breach, Ending::Malformed("reconcile"), exported);
                return Ok(answer);
            }
        };
        if let Some(violation) = ending {
            self.owe(breach, Ending::Violation(Box::new(violation)), exported);
        }
        Ok(answer)
    }

    /// Returns an answer in place of the server's, which never receives the push.
    pub(crate) fn instead_of_push(&self, sent: &PushRequest) -> Option<PushResponse> {
        let (breach, exported) = self.turn(&sent.client_id, &[Breach::EndlesslyStale])?;
        let stale = |op: &Operation| PushResult {
            op_id: Some(op.op_id.clone()),
            status: PushStatus::StaleWriteId,
            reason: None,
            detail: None,
            authored_at: None,
            last_write_id: None,
        };
        let results = sent.operations.iter().map(stale).collect();
        let pushes = {
            let mut state = self.state();
            // The feed brought back the first operations in between: the next ones start a new
            // count.
            let head = sent.operations.first().map(|op| op.op_id.clone());
            if state.stale_head != head {
                (state.stale_head, state.stale_pushes) = (head, 0);
            }
            state.stale_pushes += 1;
            state.stale_pushes
        };
        if pushes == 3 {
            let (attempts, max_attempts) = (2, 2);
            let stale_results = sent.operations.len();
            let violation =
                Violation::StaleWriteRecoveryExhausted { attempts, max_attempts, stale_results };
            self.owe(breach, Ending::Violation(Box::new(violation)), exported);
        }
        Some(PushResponse { client_id: sent.client_id.clone(), results, epoch: None })
    }

    pub(crate) fn push(&self, mut answer: PushResponse) -> Result<PushResponse> {
        use Breach as B;
        let breaches = [B::TooFewResults, B::ResultOfAnother];
        let Some((breach, exported)) = self.turn(&answer.client_id, &breaches) else {
            return Ok(answer);
        };
        match breach {
            B::TooFewResults => {
                answer.results.pop();
                self.owe(breach, Ending::Malformed("push"), exported);
            }
            _ => {
                if let Some(first) = answer.results.first_mut() {
                    first.op_id = None;
                    self.owe(breach, Ending::Malformed("push"), exported);
                }
            }
        }
        Ok(answer)
    }

    /// Returns wrong bytes for a download: the client detects them by their digest.
    pub(crate) fn download(&self, bytes: Bytes) -> Bytes {
        if self.state().breach != Some(Breach::WrongBytes) || bytes.is_empty() {
            return bytes;
        }
        self.ledger.fault(Breach::WrongBytes.name(), String::new);
        let mut other = bytes.to_vec();
        other[0] ^= 1;
        other.into()
    }
}

/// Breaks a page if the breach applies to it; returns the rule that the page then breaks first.
/// `first` says that no page of the call came before.
fn broken(
    breach: Breach,
    page: &mut PullPage,
    query: &PullQuery,
    floor: &WriteIds,
    first: bool,
) -> Option<Violation> {
    let tail = page.items.last().map(|entry| entry.position.clone());
    match breach {
        Breach::PageWriteIdRegression => {
            // The floor of one epoch does not bind a page of another; a page without an epoch is
            // always bound.
            query.cursor.as_ref()?;
            let map = &mut page.last_reconciled_write_ids;
            let (replica_id, previous, incoming) = lower(map, floor)?;
            page.epoch = None;
            let stage = Stage::Pull;
            Some(Violation::LastWriteIdRegression { stage, replica_id, previous, incoming })
        }
        Breach::EmptyPageWithMore => {
            page.items.clear();
            page.has_more = true;
            Some(Violation::EmptyPageWithMore)
        }
        Breach::DuplicateOp => {
            let again = page.items.first()?.clone();
            let op_id = again.position.change_id.clone();
            page.items.push(again);
            Some(Violation::DuplicateOpReplay { op_id })
        }
        Breach::WrongNextCursor => {
            let page_cursor = tail?;
            let next_cursor = Some(earlier(&page_cursor));
            page.next_cursor.clone_from(&next_cursor);
            Some(Violation::NextCursorMismatch { next_cursor, page_cursor })
        }
        Breach::MissingNextCursor => {
            let page_cursor = tail?;
            (page.has_more, page.next_cursor) = (true, None);
            Some(Violation::NextCursorMismatch { next_cursor: None, page_cursor })
        }
        Breach::PageBehindCursor => {
            let previous = query.cursor.clone()?;
            let mut one = page.items.first()?.clone();
            one.position.changed_at = previous.changed_at.plus_millis(-1);
            let incoming = one.position.clone();
            (page.items, page.has_more, page.next_cursor) = (vec![one], false, None);
            Some(Violation::PullCursorRegression { previous, incoming })
        }
        Breach::EmptyPageBehindCursor => {
            let previous = query.cursor.clone()?;
            let incoming = earlier(&previous);
            page.items.clear();
            (page.has_more, page.next_cursor) = (false, Some(incoming.clone()));
            Some(Violation::PullCursorRegression { previous, incoming })
        }
        Breach::BadItemInTheMiddle => {
            // The tail stays, so that only this is wrong.
            let last = page.items.len().checked_sub(1).filter(|last| *last >= 2)?;
            page.items.swap(last - 2, last - 1);
            let op_id = page.items[last - 1].position.change_id.clone();
            Some(Violation::ItemsOutOfOrder { item_index: last - 1, op_id })
        }
        Breach::ItemAtTheCursor => {
            // In a later page it would be an id that came before, too.
            let cursor = query.cursor.clone().filter(|_| first)?;
            page.items.len().checked_sub(2)?;
            page.items[0].position = cursor.clone();
            Some(Violation::ItemsOutOfOrder { item_index: 0, op_id: cursor.change_id })
        }
        _ => None,
    }
}
