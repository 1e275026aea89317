//! Compares the replica with the server's snapshot: who is behind, ahead, or elsewhere.

use futures::StreamExt as _;
use serde_json::{Value, json};
use vfs_sync_client::transport::{LiveEvent, PullQuery};
use vfs_sync_client::{
    HttpTransport, SyncState, Transport as _, TransportError, TransportExt as _,
};
use vfs_sync_core::client::pull::PullCycle;
use vfs_sync_core::cursor::{Cursor, Epoch, Position};
use vfs_sync_core::runbook;
use vfs_sync_core::wire::{EpochEnd, PullPage, StateResponse};

use super::check::Check;
use super::network::PATIENCE;
use super::site::Site;
use crate::output::counted;

/// The checks of this module, in their order.
const IDS: [&str; 6] = [
    "server.user",
    "server.ready",
    "server.feed",
    "server.writeIds",
    "server.reconcile",
    "server.live",
];

/// The number of replicas whose write ids are shown.
const SHOWN: usize = 20;

/// The server's side of the comparison.
pub(super) struct ServerSide {
    pub(super) state: StateResponse,
}

/// Skips all checks of the server, for a reason.
pub(super) fn skipped(because: &str, checks: &mut Vec<Check>) {
    checks.extend(IDS.map(|id| Check::skipped(id, because)));
}

/// Runs a call within the time of a step.
pub(super) async fn within<T>(
    call: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, TransportError> {
    let done = tokio::time::timeout(PATIENCE, call).await;
    done.unwrap_or_else(|_| {
        Err(TransportError::network(format!("no answer within {} s", PATIENCE.as_secs())))
    })
}

/// Returns the key under which the runbook explains an error: that of the server's code within a
/// temporary failure, else the error's own.
pub(super) fn key_of(error: &TransportError) -> String {
    match error {
        TransportError::Network { reason, .. } | TransportError::Unauthorized(reason) => {
            let found = runbook::find(reason).into_iter().next();
            found.map_or_else(|| error.key(), |entry| entry.key.to_owned())
        }
        TransportError::Refused { details, .. } => {
            let storage = details.get("storageCode").and_then(Value::as_str);
            let storage = storage.and_then(runbook::entry);
            storage.map_or_else(|| error.key(), |entry| entry.key.to_owned())
        }
        _ => error.key(),
    }
}

/// Compares the replica with the server. Returns the server's side, if the server gives it.
pub(super) async fn checks(
    site: &Site<'_>,
    transport: &HttpTransport,
    here: &SyncState,
    checks: &mut Vec<Check>,
) -> Option<ServerSide> {
    if let Err(other) = transport.bind_user(&here.user) {
        skipped(&format!("the transport is bound to {other}"), checks);
        return None;
    }
    // The second call names the device, which may be denied too. It does not describe the device: what
    // the server knows of it stays.
    let limits = within(transport.limits()).await.map(drop);
    let state = match limits {
        Ok(()) => Some(within(transport.state(&here.client_id)).await),
        Err(_) => None,
    };
    let denied = match &state {
        Some(Err(error @ TransportError::Denied { .. })) => Some(error),
        _ => limits.as_ref().err(),
    };
    if let Some(error) = denied {
        checks.push(refused(site, "server.user", "the server does not serve this device", error));
        let because = "the server does not serve this device";
        checks.extend(IDS[1..].iter().map(|id| Check::skipped(id, because)));
        return None;
    }
    let text = format!("the server takes the token, for {}", here.user);
    checks.push(Check::ok("server.user", text).name("user", &here.user));
    let state = match state? {
        Ok(state) => {
            checks.push(Check::ok("server.ready", "the server's database answers"));
            Some(state)
        }
        Err(error) => {
            let what = "the server does not give its state of this replica";
            checks.push(refused(site, "server.ready", what, &error));
            None
        }
    };
    checks.push(feed(site, transport, here, state.as_ref()).await);
    match &state {
        Some(state) => {
            checks.push(write_ids(site, here, state));
            checks.push(reconcile(site, here, state));
        }
        None => {
            let because = "the server does not give its state";
            checks.extend(
                ["server.writeIds", "server.reconcile"].map(|id| Check::skipped(id, because)),
            );
        }
    }
    checks.push(live(transport, here).await);
    state.map(|state| ServerSide { state })
}

fn refused(site: &Site<'_>, id: &'static str, what: &str, error: &TransportError) -> Check {
    let key = key_of(error);
    let mut check = Check::problem(id, format!("{what}: {error}"))
        .text("error", error.to_string())
        .with("key", &key)
        .explained(&key);
    if let TransportError::Refused { details, .. } = error
        && let Some(repair) = details.get("repair").and_then(Value::as_str)
    {
        check = check.text("repair", repair);
    }
    let next = check.entry().map(|entry| site.command_of(entry)).unwrap_or_default();
    // The doctor's own command would go round in a circle.
    let circle = next.ends_with(" doctor");
    check.next(if circle { site.command("status --server") } else { next })
}

fn counter(cursor: Option<&Cursor>) -> Option<Position> {
    Position::parse(&cursor?.change_id)
}

/// Pulls the entry after the replica's cursor and checks it by the guardrails; nothing is applied.
async fn feed(
    site: &Site<'_>,
    transport: &HttpTransport,
    here: &SyncState,
    there: Option<&StateResponse>,
) -> Check {
    const ID: &str = "server.feed";
    let query = PullQuery {
        client_id: here.client_id.clone(),
        cursor: here.cursor.clone(),
        baseline: here.baseline.clone(),
        head: here.head.clone(),
        limit: 1,
    };
    let head = there.and_then(|there| there.feed_head.as_ref());
    let check = match within(transport.pull(&query)).await {
        Ok(page) => served(site, here, there, page),
        Err(TransportError::RematerializationRequired { oldest_available, history, .. }) => {
            elsewhere(site, here, oldest_available.as_ref(), history.as_deref())
        }
        Err(error) => refused(site, ID, "the server does not serve the feed", &error),
    };
    check
        .name("cursor", &here.cursor)
        .with("seenThrough", here.cursor.as_ref().map(|cursor| cursor.changed_at))
        .with("epoch", here.epoch)
        .name("serverHead", head)
        .with("serverHeadAt", head.map(|head| head.changed_at))
        .with("serverEpoch", there.and_then(|there| there.epoch))
}

/// Judges a page that the server gave.
fn served(
    site: &Site<'_>,
    here: &SyncState,
    there: Option<&StateResponse>,
    page: PullPage,
) -> Check {
    const ID: &str = "server.feed";
    if let Err(earlier) = Epoch::check(here.epoch, page.epoch) {
        let text = format!(
            "the server is an older copy of the one that this replica knows: epoch {earlier}"
        );
        return Check::problem(ID, text)
            .with("verdict", "elsewhere")
            .explained("malformedResponse")
            .next(site.command("status --server"));
    }
    let (has_more, items) = (page.has_more, page.items.len());
    let mut cycle = PullCycle::new(here.cursor.clone(), here.baseline.clone(), here.floor.clone())
        .in_epoch(here.epoch)
        .seen_through(here.head.clone());
    if let Err(violation) = cycle.page(page) {
        let signature = violation.signature();
        return Check::problem(ID, format!("the next page would stop this replica: {violation}"))
            .with("verdict", "violation")
            .with("signature", &signature)
            .text("details", Value::Object(violation.details()))
            .explained(&signature)
            .next(site.command("doctor --retry"));
    }
    if !has_more && items == 0 {
        return Check::ok(ID, "the replica has all that the server's feed has")
            .with("verdict", "inStep");
    }
    let head = counter(there.and_then(|there| there.feed_head.as_ref()));
    let behind = match (counter(here.cursor.as_ref()), head) {
        (Some(here), Some(head)) => head.counter.checked_sub(here.counter),
        (None, Some(head)) => Some(head.counter),
        _ => None,
    };
    let text = match behind {
        Some(by) => {
            format!(
                "this replica is behind by {} of the feed",
                counted(by, "position", "positions")
            )
        }
        None => "this replica is behind the server's feed".to_owned(),
    };
    Check::note(ID, text)
        .with("verdict", "behind")
        .with("positions", behind)
        .next(site.command("sync"))
}

/// Judges a server that cannot serve the replica's cursor.
fn elsewhere(
    site: &Site<'_>,
    here: &SyncState,
    oldest: Option<&Cursor>,
    history: Option<&[EpochEnd]>,
) -> Check {
    const ID: &str = "server.feed";
    let at = counter(here.cursor.as_ref());
    let of_epoch = at.zip(history).map(|(at, history)| {
        (at, history.iter().find(|end| end.epoch == at.epoch).map(|end| end.last_counter))
    });
    let (verdict, text, lost) = match of_epoch {
        Some((at, Some(last))) if last < at.counter => {
            let lost = at.counter - last;
            let what = counted(lost, "position", "positions");
            let text = format!("the server was restored: it lacks {what} that this replica has");
            ("ahead", text, Some(lost))
        }
        Some((_, None)) => {
            let text = "the server does not know the epoch of this replica's cursor: it was restored \
                        from an earlier state, or has another database";
            ("elsewhere", text.to_owned(), None)
        }
        _ => {
            let text = "the server cannot serve this replica's cursor any more: the device was away \
                        for longer than the server keeps removals, or the server was restored";
            ("elsewhere", text.to_owned(), None)
        }
    };
    Check::problem(ID, text)
        .with("verdict", verdict)
        .with("positionsLost", lost)
        .with("oldestAvailable", oldest.map(|oldest| oldest.changed_at))
        .explained("pull:pullRematerializationRequired")
        .next(site.command("sync"))
}

/// Compares the write ids of each replica of the user.
fn write_ids(site: &Site<'_>, here: &SyncState, there: &StateResponse) -> Check {
    const ID: &str = "server.writeIds";
    let same_epoch = here.epoch.map(Epoch::as_u64) == there.epoch;
    let (mut rows, mut fewer, mut more) = (Vec::new(), 0_u64, 0_u64);
    let all: std::collections::BTreeSet<_> =
        here.floor.keys().chain(there.last_write_ids.keys()).collect();
    for replica in all {
        let (seen, server) = (here.floor.get(replica), there.last_write_ids.get(replica));
        if seen == server {
            continue;
        }
        let number = |id: Option<&vfs_sync_core::id::WriteId>| id.map_or(0, |id| id.get());
        let (seen, server) = (number(seen), number(server));
        // The server may leave out replicas that it knows.
        if server > 0 && server < seen {
            fewer += 1;
        } else if server > seen {
            more += 1;
        }
        rows.push(json!({
            "replica": replica, "own": *replica == here.client_id, "here": seen, "server": server,
        }));
    }
    rows.truncate(SHOWN);
    let own = there.last_write_ids.get(&here.client_id).map_or(0, |id| id.get());
    let last = here.last_write_id();
    let check = if own > last {
        Check::problem(
            ID,
            format!(
                "the server has write {own} of this replica, which has made {last} only: another \
                 installation has the same client id"
            ),
        )
        .explained("flush:staleWriteRecoveryExhausted")
        .next(site.command("status --server"))
    } else if fewer > 0 && same_epoch {
        let count = counted(fewer, "replica", "replicas");
        Check::problem(ID, format!("the server knows fewer writes of {count} than before"))
            .explained("pull:lastWriteIdRegression")
            .next(site.command("doctor --retry"))
    } else if fewer > 0 {
        let count = counted(fewer, "replica", "replicas");
        Check::note(ID, format!("the server has lost writes of {count}, with its earlier epoch"))
            .explained("crdt_rematerialization_required")
            .next(site.command("sync"))
    } else if more > 0 {
        let count = counted(more, "replica", "replicas");
        Check::note(ID, format!("this replica has not seen the last writes of {count}"))
            .next(site.command("sync"))
    } else {
        Check::ok(ID, "the write ids are those of the server")
    };
    check
        .with("ownLastWriteId", last)
        .with("ownAtServer", own)
        .with("replicasBehindHere", more)
        .with("replicasBehindAtServer", fewer)
        .name("differences", rows)
}

/// Compares the reconcile state that the server has stored.
fn reconcile(site: &Site<'_>, here: &SyncState, there: &StateResponse) -> Check {
    const ID: &str = "server.reconcile";
    let stored = there.reconcile_state.as_ref();
    let check = match (here.reconciled.as_ref(), stored) {
        (None, _) => Check::ok(ID, "this replica has acknowledged nothing yet"),
        (Some(_), None) => Check::note(
            ID,
            "the server has no reconcile state of this replica: the next sync stores it again",
        )
        .next(site.command("sync")),
        (Some(own), Some(stored)) if stored.cursor < own.cursor => Check::note(
            ID,
            "the server's reconcile state is behind what this replica has reported: the next sync \
             advances it",
        )
        .next(site.command("sync")),
        (Some(_), Some(_)) => Check::ok(ID, "the server has this replica's reconcile state"),
    };
    check
        .with("stored", stored.map(|stored| stored.cursor.changed_at))
        .with("reported", here.reconciled.as_ref().map(|own| own.cursor.changed_at))
}

/// Opens the stream of live updates, and waits for its first event.
async fn live(transport: &HttpTransport, here: &SyncState) -> Check {
    const ID: &str = "server.live";
    let opened = within(async {
        let mut events = transport.events(&here.client_id).await?;
        loop {
            match events.next().await {
                Some(Ok(LiveEvent::Head { .. } | LiveEvent::Alive)) => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(TransportError::network("the stream ends without an event")),
            }
        }
    });
    match opened.await {
        Ok(()) => Check::ok(ID, "live updates get through"),
        Err(error) => {
            let key = key_of(&error);
            Check::note(ID, format!("live updates do not get through, changes are polled: {error}"))
                .text("error", error.to_string())
                .explained(&key)
        }
    }
}
