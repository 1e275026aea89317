//! Merges the state that a client reports into the state that the server keeps.

use crate::id::{ReplicaId, WriteId};
use crate::limits::MAX_WRITE_ID_ENTRIES;
use crate::time::Timestamp;
use crate::wire::{ReconcileRequest, ReconcileState, WriteIds};

/// A reported write id that is above the replica's last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteIdAhead {
    /// The replica that the write ids belong to.
    pub replica_id: ReplicaId,
    /// The write id in the request.
    pub sent: WriteId,
    /// The replica's last write id.
    pub last: WriteId,
}

/// Merges a request, whose cursor the feed's history has, into the stored state: each part keeps
/// the greater value. `last_of` returns the last write id of one of the user's replicas. The entry
/// of an unknown replica is dropped, because it has no last write id to compare with.
///
/// # Errors
/// [`WriteIdAhead`] names the first replica whose write id the server never saw.
pub fn merge(
    request: &ReconcileRequest,
    stored: Option<&ReconcileState>,
    last_of: impl Fn(&ReplicaId) -> Option<WriteId>,
) -> Result<ReconcileState, WriteIdAhead> {
    let mut merged = ReconcileState {
        cursor: request.cursor.clone(),
        last_reconciled_write_ids: WriteIds::new(),
    };
    for (replica_id, &sent) in &request.last_reconciled_write_ids {
        let Some(last) = last_of(replica_id) else { continue };
        if sent > last {
            return Err(WriteIdAhead { replica_id: replica_id.clone(), sent, last });
        }
        merged.last_reconciled_write_ids.insert(replica_id.clone(), sent);
    }
    if let Some(stored) = stored {
        merged.cursor = merged.cursor.max(stored.cursor.clone());
        for (replica, write_id) in &stored.last_reconciled_write_ids {
            let slot = merged.last_reconciled_write_ids.entry(replica.clone()).or_insert(*write_id);
            *slot = (*slot).max(*write_id);
        }
    }
    Ok(merged)
}

/// Drops the entries of the least recently active replicas, down to [`MAX_WRITE_ID_ENTRIES`].
/// `last_seen` returns the time at which a replica was last active, `None` if it is not known.
pub fn keep_most_active(
    write_ids: &mut WriteIds,
    last_seen: impl Fn(&ReplicaId) -> Option<Timestamp>,
) {
    if write_ids.len() <= MAX_WRITE_ID_ENTRIES {
        return;
    }
    let mut by_activity: Vec<(Option<Timestamp>, ReplicaId)> =
        write_ids.keys().map(|replica| (last_seen(replica), replica.clone())).collect();
    by_activity.sort_by(|a, b| b.cmp(a));
    for (_, replica) in by_activity.drain(MAX_WRITE_ID_ENTRIES..) {
        write_ids.remove(&replica);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::{Cursor, Epoch, Position};

    fn replica(name: &str) -> ReplicaId {
        ReplicaId::new(name).unwrap()
    }

    fn id(number: u64) -> WriteId {
        WriteId::new(number).unwrap()
    }

    fn cursor(counter: u64) -> Cursor {
        let at = Timestamp::from_millis(i64::try_from(counter).unwrap()).unwrap();
        Position { epoch: Epoch::from_u64(1).unwrap(), counter }.at(at)
    }

    fn state(counter: u64, write_ids: &[(&str, u64)]) -> ReconcileState {
        ReconcileState {
            cursor: cursor(counter),
            last_reconciled_write_ids: write_ids
                .iter()
                .map(|(name, number)| (replica(name), id(*number)))
                .collect(),
        }
    }

    fn request(counter: u64, write_ids: &[(&str, u64)]) -> ReconcileRequest {
        let ReconcileState { cursor, last_reconciled_write_ids } = state(counter, write_ids);
        ReconcileRequest { client_id: replica("a"), cursor, last_reconciled_write_ids }
    }

    #[test]
    fn each_part_keeps_the_greater_value_in_either_order() {
        let (old, new) = ([("a", 3), ("b", 9)], [("a", 5), ("b", 2)]);
        let greater = state(7, &[("a", 5), ("b", 9)]);
        let merged = merge(&request(7, &new), Some(&state(4, &old)), |_| Some(id(9)));
        assert_eq!(merged, Ok(greater.clone()));
        let merged = merge(&request(4, &old), Some(&state(7, &new)), |_| Some(id(9)));
        assert_eq!(merged, Ok(greater));
    }

    #[test]
    fn a_write_id_that_was_never_used_is_refused_and_an_unknown_replica_dropped() {
        let last = |of: &ReplicaId| (*of == replica("a")).then(|| id(4));
        let merged = merge(&request(1, &[("a", 4), ("gone", 9)]), None, last);
        assert_eq!(merged, Ok(state(1, &[("a", 4)])));
        let ahead = WriteIdAhead { replica_id: replica("a"), sent: id(5), last: id(4) };
        assert_eq!(merge(&request(1, &[("a", 5)]), None, last), Err(ahead));
    }

    #[test]
    fn the_replicas_that_were_active_last_stay() {
        let name = |number: usize| replica(&format!("r{number:04}"));
        let mut write_ids: WriteIds =
            (0..MAX_WRITE_ID_ENTRIES + 2).map(|number| (name(number), id(1))).collect();
        let (unknown, oldest) = (name(7), name(9));
        keep_most_active(&mut write_ids, |replica| {
            let at = if *replica == oldest { 1 } else { 2 };
            (*replica != unknown).then(|| Timestamp::from_millis(at).unwrap())
        });
        assert_eq!(write_ids.len(), MAX_WRITE_ID_ENTRIES);
        assert!(!write_ids.contains_key(&unknown) && !write_ids.contains_key(&oldest));
    }
}
