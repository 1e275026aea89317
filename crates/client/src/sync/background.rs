//! Synchronises in the background: at an interval, on request, with back-off, and never past a
//! violation.

use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::backoff::back_off;
use super::outcome::{pause_reason, stop_reason};
use crate::client::{Inner, SyncClient};
use crate::event::ChangeEvent;
use crate::lock::lock;

/// Synchronises until it is stopped, the client is dropped, or an error makes it stop.
pub(crate) async fn work(
    client: Weak<Inner>,
    sync_requested: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut failures = 0;
    loop {
        let Some(inner) = client.upgrade() else { return };
        let client = SyncClient { inner };
        let synced = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            synced = client.sync() => synced,
        };
        let config = &client.inner.config;
        let (rest, may_resume) = match synced {
            Ok(_) => {
                failures = 0;
                if lock(&client.inner.paused).take().is_some() {
                    client.inner.emit([ChangeEvent::Resumed]);
                }
                match client.queue().outstanding() {
                    Ok(left) if !left.is_empty() => {
                        client.inner.emit([ChangeEvent::Outstanding(left)]);
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "the queue cannot be read"),
                }
                (config.interval, true)
            }
            Err(error) => {
                if let Some(reason) = stop_reason(&error) {
                    client.inner.emit([ChangeEvent::Stopped(reason)]);
                    return;
                }
                failures += 1;
                if let Some(reason) = pause_reason(&error) {
                    let before = lock(&client.inner.paused).replace(reason.clone());
                    // A request id or a time in it is no other reason.
                    if before.is_none_or(|before| before.signature != reason.signature) {
                        client.inner.emit([ChangeEvent::Paused(reason)]);
                    }
                }
                tracing::warn!(%error, failures, "synchronising failed; it is tried again");
                (back_off(config, failures, error.retry_after()), false)
            }
        };
        // Not kept alive while it rests.
        drop(client);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sync_requested.notified(), if may_resume => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}
