//! Reads an exported state: each error names the field, the element and the reason.

use std::collections::BTreeSet;
use std::hash::Hash;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::form::{
    AttachmentForm, ClockForm, ClockRowForm, CursorForm, GrantForm, ItemForm, LinkForm, QueuedForm,
    ReconcileForm, RejectedForm,
};
use super::{FORMAT, ReplicaState, VERSION};
use crate::client::clock::HybridClock;
use crate::content::RelationKind;
use crate::cursor::Cursor;
use crate::guardrail::Violation;
use crate::id::{ReplicaId, WriteId};

fn refuse(field: &str, index: Option<usize>, reason: impl Into<String>) -> Violation {
    Violation::Hydrate { field: field.into(), index, reason: reason.into() }
}

/// Returns the client id that an exported state names.
///
/// # Errors
/// [`Violation::Hydrate`] like [`parse`].
pub fn client_id(json: &[u8]) -> Result<ReplicaId, Violation> {
    let mut fields = Fields::read(json)?;
    fields.header()?;
    fields.take("clientId")
}

/// Parses an exported state for the client `client_id` and checks all of it.
///
/// # Errors
/// [`Violation::Hydrate`] names the field, the element and the problem.
pub fn parse(json: &[u8], client_id: &ReplicaId) -> Result<ReplicaState, Violation> {
    let mut fields = Fields::read(json)?;
    fields.header()?;
    let state = ReplicaState {
        client_id: fields.take("clientId")?,
        user_id: fields.take("userId")?,
        replay_cursor: fields.take::<Option<CursorForm>>("replayCursor")?.map(Cursor::from),
        baseline: fields.take::<Option<CursorForm>>("baseline")?.map(Cursor::from),
        head: fields.optional::<CursorForm>("head")?.map(Cursor::from),
        write_id_floor: fields.take("writeIdFloor")?,
        reconcile_state: fields.take::<Option<ReconcileForm>>("reconcileState")?.map(Into::into),
        clock: HybridClock::from(fields.take::<ClockForm>("clock")?),
        next_local_write_id: fields.next_local_write_id()?,
        items: fields.rows::<ItemForm, _>("items")?,
        links: fields.rows::<LinkForm, _>("links")?,
        grants: fields.rows::<GrantForm, _>("grants")?,
        attachments: fields.rows::<AttachmentForm, _>("attachments")?,
        container_clocks: fields.rows::<ClockRowForm, _>("containerClocks")?,
        queue: fields.rows::<QueuedForm, _>("queue")?,
        rejected: fields.rows::<RejectedForm, _>("rejected")?,
    };
    if let Some(unknown) = fields.0.keys().next() {
        return Err(refuse(unknown, None, "is not a field of an exported state"));
    }
    if state.client_id != *client_id {
        return Err(refuse("clientId", None, "is not the client that exported the state"));
    }
    check_registers(&state)?;
    check_clocks(&state)?;
    check_queue(&state)?;
    Ok(raise_next_write_id(state))
}

struct Fields(Map<String, Value>);

impl Fields {
    fn read(json: &[u8]) -> Result<Self, Violation> {
        let value: Value = serde_json::from_slice(json)
            .map_err(|error| refuse("state", None, format!("is not JSON: {error}")))?;
        match value {
            Value::Object(fields) => Ok(Self(fields)),
            _ => Err(refuse("state", None, "is not an object")),
        }
    }

    fn header(&mut self) -> Result<(), Violation> {
        if self.0.remove("format") != Some(FORMAT.into()) {
            return Err(refuse("format", None, format!("is not {FORMAT}")));
        }
        match self.0.remove("version").as_ref().and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(newer) if newer > VERSION => {
                let reason = format!("is {newer}, this program knows {VERSION}: use a newer one");
                return Err(refuse("version", None, reason));
            }
            _ => return Err(refuse("version", None, format!("is not {VERSION}"))),
        }
        match self.0.remove("redacted") {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(_) => Err(refuse("redacted", None, "is set: a redacted state cannot be hydrated")),
        }
    }

    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Violation> {
        let value = self.0.remove(name).ok_or_else(|| refuse(name, None, "is missing"))?;
        serde_json::from_value(value)
            .map_err(|error| refuse(name, None, format!("is malformed: {error}")))
    }

    fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Violation> {
        if self.0.contains_key(name) { self.take(name).map(Some) } else { Ok(None) }
    }

    fn next_local_write_id(&mut self) -> Result<u64, Violation> {
        let name = "nextLocalWriteId";
        let value = self.0.remove(name).ok_or_else(|| refuse(name, None, "is missing"))?;
        let value = value.as_u64().filter(|next| (1..=WriteId::MAX.get() + 1).contains(next));
        value.ok_or_else(|| refuse(name, None, "is not a positive integer"))
    }

    fn rows<F, T>(&mut self, name: &str) -> Result<Vec<T>, Violation>
    where
        F: DeserializeOwned,
        T: TryFrom<F, Error = String>,
    {
        let value = self.0.remove(name).ok_or_else(|| refuse(name, None, "is missing"))?;
        let Value::Array(elements) = value else {
            return Err(refuse(name, None, "is not an array"));
        };
        let row = |(index, element)| {
            let form: F = serde_json::from_value(element)
                .map_err(|error| refuse(name, Some(index), format!("is malformed: {error}")))?;
            T::try_from(form).map_err(|reason| refuse(name, Some(index), reason))
        };
        elements.into_iter().enumerate().map(row).collect()
    }
}

/// Finds the first element whose key occurred before.
fn check_unique<K: Ord + Hash>(
    field: &str,
    reason: &str,
    keys: impl Iterator<Item = K>,
) -> Result<(), Violation> {
    let mut seen = BTreeSet::new();
    for (index, key) in keys.enumerate() {
        if !seen.insert(key) {
            return Err(refuse(field, Some(index), reason));
        }
    }
    Ok(())
}

fn check_registers(state: &ReplicaState) -> Result<(), Violation> {
    let duplicate = "is a duplicate";
    check_unique("items", duplicate, state.items.iter().map(|row| &row.item.item_id))?;
    let links = state.links.iter().map(|row| (&row.parent_id, &row.child_id));
    check_unique("links", duplicate, links)?;
    let grants = state.grants.iter().map(|row| (&row.item_id, &row.principal));
    check_unique("grants", duplicate, grants)?;
    let attachments = state.attachments.iter().map(|row| {
        let other = row.attachment.relation_kind != RelationKind::File;
        (&row.attachment.item_id, other.then_some(&row.attachment.ref_id))
    });
    check_unique("attachments", duplicate, attachments)?;
    if state.replay_cursor.is_none() {
        let registers = [
            ("items", state.items.len()),
            ("links", state.links.len()),
            ("grants", state.grants.len()),
            ("attachments", state.attachments.len()),
        ];
        for (field, count) in registers {
            if count > 0 {
                return Err(refuse(field, Some(0), "is there without a replay cursor"));
            }
        }
    }
    if let Some(reconcile) = &state.reconcile_state
        && Some(&reconcile.cursor) > state.replay_cursor.as_ref()
    {
        return Err(refuse("reconcileState", None, "is ahead of the replay cursor"));
    }
    Ok(())
}

fn check_clocks(state: &ReplicaState) -> Result<(), Violation> {
    let field = "containerClocks";
    for (index, row) in state.container_clocks.iter().enumerate() {
        let reason = match &state.replay_cursor {
            None => "is there without a replay cursor",
            Some(cursor) if row.clock > *cursor => "is ahead of the replay cursor",
            Some(_) => continue,
        };
        return Err(refuse(field, Some(index), reason));
    }
    let ids = state.container_clocks.iter().map(|row| &row.container_id);
    check_unique(field, "has the container id of another", ids)
}

fn check_queue(state: &ReplicaState) -> Result<(), Violation> {
    let field = "queue";
    let cursors = [
        state.replay_cursor.as_ref(),
        state.baseline.as_ref(),
        state.head.as_ref(),
        state.reconcile_state.as_ref().map(|reconcile| &reconcile.cursor),
    ];
    let mut last = None;
    for (index, one) in state.queue.iter().enumerate() {
        let op = &one.operation;
        let is_position = |cursor: &Cursor| cursor.change_id.as_str() == op.op_id.as_str();
        let reason = if op.replica_id != state.client_id {
            "has a replicaId that is not the client's"
        } else if !one.acknowledged && last.is_some_and(|last| op.write_id <= last) {
            "has a writeId that is not above the one before"
        } else if cursors.iter().flatten().any(|cursor| is_position(cursor)) {
            "has an opId that is the changeId of a persisted cursor"
        } else {
            // Those that were acknowledged keep the number under which they were.
            last = if one.acknowledged { last } else { Some(op.write_id) };
            continue;
        };
        return Err(refuse(field, Some(index), reason));
    }
    let ids = state.queue.iter().map(|one| &one.operation.op_id);
    check_unique(field, "has the opId of another", ids)?;
    let ids = state.rejected.iter().map(|one| &one.operation.op_id);
    check_unique("rejected", "has the opId of another", ids)
}

/// Raises the next write id above all write ids in use.
fn raise_next_write_id(mut state: ReplicaState) -> ReplicaState {
    let queued = state.queue.iter().map(|one| one.operation.write_id).max();
    let reconciled = state
        .reconcile_state
        .as_ref()
        .and_then(|reconcile| reconcile.last_reconciled_write_ids.get(&state.client_id).copied());
    let used = queued.max(reconciled).map_or(0, WriteId::get);
    state.next_local_write_id = state.next_local_write_id.max(used + 1);
    state
}
