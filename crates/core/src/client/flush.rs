//! The flush cycle: decides what to push next, and how an answer changes the queue.

use std::collections::BTreeMap;

use crate::cursor::Epoch;
use crate::guardrail::Violation;
use crate::id::{OpId, WriteId};
use crate::limits::{MAX_PUSH_BYTES, MAX_PUSH_OPERATIONS, MAX_STALE_RECOVERIES};
use crate::operation::Operation;
use crate::time::Timestamp;
use crate::wire::{PushReason, PushResponse, PushStatus};

/// The bytes of a push's body apart from its operations: the client's id and the frame.
const FRAME_BYTES: usize = 512;

/// A flush: pushes until nothing is pending.
#[derive(Debug, Clone)]
pub struct FlushCycle {
    /// The number of recoveries since an operation last succeeded.
    recoveries: u32,
    /// The first stale operation of the latest recovery.
    stuck_at: Option<OpId>,
    /// The offset of all pending write ids that is not durable yet.
    shift: u64,
    /// The times of operations under their new write ids that are not durable yet.
    times: BTreeMap<OpId, Timestamp>,
    /// The greatest number of operations in the next push.
    at_most: usize,
}

/// An operation that the server has applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// The id of the operation.
    pub op_id: OpId,
    /// The write id that the operation was sent with.
    pub write_id: WriteId,
    /// The time that the server stored, if its answer has one. If it is below the time that was
    /// sent, it replaces it: later writes may be stamped below the original.
    pub authored_at: Option<Timestamp>,
}

/// An operation that left the queue without being applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// The id of the operation.
    pub op_id: OpId,
    /// The write id that the operation was sent with.
    pub write_id: WriteId,
    /// The reason that the server gave.
    pub reason: Option<PushReason>,
    /// Further detail from the server.
    pub detail: Option<String>,
}

/// The changes that an answered push makes to the queue, to be committed in one transaction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FlushCommit {
    /// The operations applied now or before; each stays overlaid until a settled pull covers it.
    pub acknowledged: Vec<Acknowledged>,
    /// Superseded operations; they are not pushed again, and stay overlaid like applied ones.
    pub outdated: Vec<Refused>,
    /// Rejected operations, to move to the list of rejected operations.
    pub rejected: Vec<Refused>,
    /// The amount by which to raise the write ids of all operations that were pending before this
    /// push.
    pub shift: u64,
    /// The times to set on operations with their new write ids.
    pub times: BTreeMap<OpId, Timestamp>,
    /// The latest time that the server accepts, if the clock is ahead of it: the clock is lowered
    /// to this.
    pub believed: Option<Timestamp>,
    /// The server's epoch, if its answer has one. Operations acknowledged in another epoch must be
    /// queued again. Operations rejected by this answer stay queued behind those: the missing ones
    /// may be the reason.
    pub epoch: Option<Epoch>,
}

/// The next action after an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum FlushStep {
    /// Commit the changes and push the rest.
    Commit(FlushCommit),
    /// Commit the results so far, pull until settled, call [`FlushCycle::recover`], then push
    /// again.
    Recover {
        /// The results before the first stale operation, if there are any.
        commit: Option<FlushCommit>,
        /// The replica's last write id, as the server reports it.
        last_write_id: Option<WriteId>,
    },
}

/// An answer that does not fit the push.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {reason}")]
pub struct MalformedResults {
    /// The path of the field.
    pub field: String,
    /// The problem with the field.
    pub reason: String,
}

/// The reason why a flush ends early.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FlushError {
    /// The answer does not fit the push; none of its results may be committed.
    #[error(transparent)]
    Malformed(#[from] MalformedResults),
    /// The recoveries are used up.
    #[error("{0}")]
    Violation(Box<Violation>),
    /// The replica has used up all write ids.
    #[error("the replica's write ids are exhausted: create a new replica")]
    WriteIdsUsedUp,
}

impl Default for FlushCycle {
    fn default() -> Self {
        let (recoveries, shift, at_most) = (0, 0, MAX_PUSH_OPERATIONS);
        Self { recoveries, stuck_at: None, shift, times: BTreeMap::new(), at_most }
    }
}

impl FlushCycle {
    /// Returns the number of operations to read from the head of the queue for the next push.
    #[must_use]
    pub fn at_most(&self) -> usize {
        self.at_most
    }

    /// Takes as many operations of `pending` as one push can carry, but at least one. `pending` is
    /// the head of the queue, with the size of each operation's JSON. The returned operations have
    /// the write ids and times that this cycle assigned.
    ///
    /// # Errors
    /// [`FlushError::WriteIdsUsedUp`].
    pub fn batch(&self, pending: Vec<(Operation, usize)>) -> Result<Vec<Operation>, FlushError> {
        let mut bytes = FRAME_BYTES;
        let mut batch = Vec::with_capacity(pending.len().min(self.at_most));
        for (mut op, size) in pending {
            // A rebased write id may be longer than the one that was measured.
            bytes += size + 1 + 16;
            if batch.len() == self.at_most || (!batch.is_empty() && bytes > MAX_PUSH_BYTES) {
                break;
            }
            op.write_id = WriteId::new(op.write_id.get().saturating_add(self.shift))
                .ok_or(FlushError::WriteIdsUsedUp)?;
            op.occurred_at = self.times.get(&op.op_id).copied().unwrap_or(op.occurred_at);
            batch.push(op);
        }
        Ok(batch)
    }

    /// Reduces the batch after the server rejected a push of `count` operations as too large.
    /// Returns false if a single operation is too large.
    pub fn too_large(&mut self, count: usize) -> bool {
        self.at_most = (count / 2).max(1);
        count > 1
    }

    /// Decides the effect of the answer to a push of `sent`.
    ///
    /// # Errors
    /// The answer does not match, or the recoveries are exhausted: nothing may be committed.
    pub fn results(
        &mut self,
        sent: &[Operation],
        answer: &PushResponse,
    ) -> Result<FlushStep, FlushError> {
        check_fit(sent, answer)?;
        let mut commit =
            FlushCommit { shift: self.shift, epoch: answer.epoch, ..FlushCommit::default() };
        let (mut stale, mut last_write_id) = (0, None);
        let mut first_stale = None;
        let mut held_back = false;
        for (op, result) in sent.iter().zip(&answer.results) {
            let refused = || Refused {
                op_id: op.op_id.clone(),
                write_id: op.write_id,
                reason: result.reason,
                detail: result.detail.clone(),
            };
            match result.status {
                PushStatus::Applied | PushStatus::AlreadyApplied => {
                    let authored_at = result.authored_at;
                    let (op_id, write_id) = (op.op_id.clone(), op.write_id);
                    commit.acknowledged.push(Acknowledged { op_id, write_id, authored_at });
                    held_back |= result.authored_at.is_some_and(|at| at < op.occurred_at);
                    commit.believed = commit.believed.max(result.authored_at);
                }
                PushStatus::OutdatedOp => commit.outdated.push(refused()),
                PushStatus::InvalidOp => commit.rejected.push(refused()),
                PushStatus::StaleWriteId => {
                    stale += 1;
                    first_stale = first_stale.or(Some(&op.op_id));
                    last_write_id = last_write_id.max(result.last_write_id);
                }
            }
        }
        if !held_back {
            commit.believed = None;
        }
        let progress = stale < sent.len();
        if progress {
            (self.recoveries, self.shift) = (0, 0);
            commit.times = std::mem::take(&mut self.times);
            self.at_most = (self.at_most * 2).min(MAX_PUSH_OPERATIONS);
        }
        if stale == 0 {
            return Ok(FlushStep::Commit(commit));
        }
        if self.stuck_at.as_ref() != first_stale {
            // A pull brought back the operation that was stuck before: that is progress too.
            (self.recoveries, self.stuck_at) = (0, first_stale.cloned());
        }
        if self.recoveries == MAX_STALE_RECOVERIES {
            return Err(FlushError::Violation(Box::new(Violation::StaleWriteRecoveryExhausted {
                attempts: self.recoveries,
                max_attempts: MAX_STALE_RECOVERIES,
                stale_results: stale,
            })));
        }
        self.recoveries += 1;
        Ok(FlushStep::Recover { commit: progress.then_some(commit), last_write_id })
    }

    /// Rebases the pending write ids above `last`, the greatest write id of this replica that the
    /// server reported; `first` is the durable write id at the head of the queue. `times` are
    /// those of operations that get another time with the new write id. The rebase becomes durable
    /// with the first push that makes progress.
    pub fn recover(&mut self, first: WriteId, last: WriteId, times: BTreeMap<OpId, Timestamp>) {
        let needed = (last.get() + 1).saturating_sub(first.get());
        self.shift = self.shift.max(needed);
        if self.shift > 0 {
            self.times = times;
        }
    }
}

fn check_fit(sent: &[Operation], answer: &PushResponse) -> Result<(), MalformedResults> {
    let malformed = |field: String, reason: &str| MalformedResults { field, reason: reason.into() };
    if sent.first().is_some_and(|op| op.replica_id != answer.client_id) {
        return Err(malformed("clientId".into(), "is not the client's"));
    }
    if answer.results.len() != sent.len() {
        let reason = format!("has {} elements for {}", answer.results.len(), sent.len());
        return Err(malformed("results".into(), &reason));
    }
    let mut stale = false;
    for (index, (op, result)) in sent.iter().zip(&answer.results).enumerate() {
        if result.op_id.as_ref() != Some(&op.op_id) {
            return Err(malformed(format!("results[{index}].opId"), "is not the one sent"));
        }
        let is_stale = result.status == PushStatus::StaleWriteId;
        if stale && !is_stale {
            let reason = "is decided after a stale one";
            return Err(malformed(format!("results[{index}].status"), reason));
        }
        stale |= is_stale;
    }
    Ok(())
}
