//! The state of a replica as a whole: its export, and its import by a new replica.

use std::io::{Read, Write};

use vfs_sync_core::client::state;
use vfs_sync_core::guardrail::Violation;
use vfs_sync_core::wire::telemetry::Report;

use crate::client::SyncClient;
use crate::error::{ClientError, Result};
use crate::lock::lock;
use crate::sync::task::Background;

/// The options of [`SyncClient::export_state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateExport {
    /// Replaces names and metadata by digests, for a bug report. The export then cannot be
    /// hydrated.
    pub redact: bool,
}

/// The result of [`SyncClient::hydrate_state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HydrateOutcome {
    /// The number of items.
    pub items: u64,
    /// The number of queued operations.
    pub queued: u64,
}

impl SyncClient {
    /// Writes the replica's state as canonical JSON: the same state gives the same bytes.
    ///
    /// # Errors
    /// A failure to read or write.
    pub fn export_state(&self, options: StateExport, writer: impl Write) -> Result<()> {
        let state = self.store().export()?;
        let state = if options.redact { state.redact() } else { state };
        let failed = ClientError::io("cannot write the exported state");
        state.write(writer, options.redact).map_err(failed)
    }

    /// Imports an exported state. The client must be pristine and have the same client id (see
    /// [`ClientBuilder::client_id`](crate::ClientBuilder::client_id)).
    ///
    /// # Errors
    /// [`ClientError::Violation`] `hydrate:hydrateGuardrailViolation`; then nothing was imported.
    pub fn hydrate_state(&self, reader: impl Read) -> Result<HydrateOutcome> {
        let done = self.take_over(reader);
        if let (Err(ClientError::Violation(violation)), true) = (&done, self.inner.config.report) {
            let (id, now) = (self.environment().new_op_id(), self.environment().now());
            // A report that cannot be kept is no reason to hide the violation.
            let _ = self.store().note_report(Report::of_violation(id, violation, now));
        }
        done.map_err(|error| self.inner.emitted(error))
    }

    fn take_over(&self, mut reader: impl Read) -> Result<HydrateOutcome> {
        let mut json = Vec::new();
        let failed = ClientError::io("cannot read the exported state");
        reader.read_to_end(&mut json).map_err(failed)?;
        let violated = |field: &str, reason: &str| {
            let (field, reason) = (field.to_owned(), reason.to_owned());
            Err(Violation::Hydrate { field, index: None, reason }.into())
        };
        if lock(&self.inner.background).as_ref().is_some_and(Background::is_running) {
            return violated("client", "has background work running");
        }
        let Ok(_work) = self.inner.work.try_lock() else {
            return violated("client", "has a flush running");
        };
        let mut store = self.store();
        if !store.is_pristine()? {
            return violated("client", "is not pristine");
        }
        let state = state::parse(&json, &store.meta().client_id)?;
        if state.user_id != store.meta().user {
            return violated("userId", "is not the user of the client");
        }
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let outcome =
            HydrateOutcome { items: count(state.items.len()), queued: count(state.queue.len()) };
        store.hydrate(state)?;
        Ok(outcome)
    }
}
