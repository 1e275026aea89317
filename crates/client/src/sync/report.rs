//! Reports of violations and stops to the server: kept in the replica until they are sent, once.
//!
//! A report never makes a call fail, and delays it only by the time that the server takes to answer
//! one small request.

use std::time::Duration;

use vfs_sync_core::guardrail::Violation;
use vfs_sync_core::id::OpId;
use vfs_sync_core::wire::telemetry::{Report, TelemetryRequest};

use super::session::Session;
use crate::device::VERSION;
use crate::error::{ClientError, StopReason};
use crate::host::{Instant, timeout};
use crate::lock::lock;
use crate::transport::{TransportError, TransportExt as _};

/// The longest time that a call waits for the server to take reports.
const PATIENCE: Duration = Duration::from_secs(2);
/// The time after which a failed attempt is repeated by a later call.
const PAUSE: Duration = Duration::from_secs(60);

impl Session {
    /// Keeps the report of a violation, unless synchronisation is stopped by the same one already.
    pub(super) async fn note_violation(&self, violation: &Violation) {
        if !self.inner.config.report {
            return;
        }
        let (id, now) = (self.inner.environment().new_op_id(), self.inner.environment().now());
        let report = Report::of_violation(id, violation, now);
        let details = serde_json::Value::Object(violation.details()).to_string();
        let noted = self.store(move |_, store| {
            let same = |stopped: &StopReason| {
                stopped.signature == report.signature && stopped.details == details
            };
            if store.meta().stopped.as_deref().is_some_and(same) {
                return Ok(());
            }
            store.note_report(report)
        });
        if let Err(error) = noted.await {
            tracing::debug!(%error, "a report cannot be kept");
        }
    }

    /// Sends the reports that are kept, unless the server was just found unreachable by `done`.
    pub(crate) async fn send_reports(&self, done: Option<&ClientError>) {
        let reachable = match done {
            Some(ClientError::Transport(error)) => !matches!(
                error,
                TransportError::Network { .. }
                    | TransportError::Unauthorized(_)
                    | TransportError::WrongUser { .. }
                    | TransportError::Denied { .. }
            ),
            _ => true,
        };
        if !self.inner.config.report || !reachable {
            return;
        }
        let read = self.store(|_, store| {
            let meta = store.meta();
            Ok((meta.client_id.clone(), meta.reports.to_vec()))
        });
        let Ok((client_id, reports)) = read.await else { return };
        let waits = lock(&self.inner.report_from).is_some_and(|from| Instant::now() < from);
        if reports.is_empty() || waits {
            return;
        }
        let sent: Vec<OpId> = reports.iter().map(|report| report.report_id.clone()).collect();
        let request = TelemetryRequest { client_id, client_version: VERSION.into(), reports };
        let answer = timeout(PATIENCE, self.inner.transport.telemetry(&request)).await;
        let settled = match &answer {
            Ok(Ok(())) => true,
            // The server understands them, and takes them never.
            Ok(Err(TransportError::Refused { status: 400 | 415 | 422, .. }))
            | Ok(Err(TransportError::TooLarge(_))) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, "reports cannot be sent; they are kept");
                false
            }
            Err(_) => false,
        };
        if !settled {
            *lock(&self.inner.report_from) = Some(Instant::now() + PAUSE);
            return;
        }
        if let Err(error) = self.store(move |_, store| store.forget_reports(&sent)).await {
            tracing::debug!(%error, "sent reports cannot be removed");
        }
    }
}
