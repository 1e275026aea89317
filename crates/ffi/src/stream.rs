//! Streams of values, and the violations so far.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::json;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{
    ChangeEvent, Node, Observer, Progress, Query, ResultChange, SyncClient, TreeChange, Violation,
};

use crate::call::{Read, Stream};
use crate::runtime::{Cancellation, blocking, spawned, turn};
use crate::{Error, Result, value};

/// The number of violations that are kept: the latest ones.
const VIOLATIONS_KEPT: usize = 10_000;

/// Values as JSON text.
type Values = BoxStream<'static, Result<String>>;
/// A read that does not keep the client open.
pub(crate) type Reading = Box<dyn Fn(Read) -> Result<String> + Send + Sync>;
/// A query that does not keep the client open.
pub(crate) type Finding = Arc<dyn Fn(&Query) -> Result<Vec<Node>> + Send + Sync>;

/// The violations that a client has emitted, in order.
#[derive(Debug, Clone, Default)]
pub struct Violations(Arc<Mutex<VecDeque<Error>>>);

impl Violations {
    fn all(&self) -> MutexGuard<'_, VecDeque<Error>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the violations so far, the latest 10,000.
    #[must_use]
    pub fn list(&self) -> Vec<Error> {
        self.all().iter().cloned().collect()
    }

    /// Removes and returns the violations so far.
    #[must_use]
    pub fn take(&self) -> Vec<Error> {
        self.all().drain(..).collect()
    }
}

/// The sources of a client's streams.
pub(crate) struct Feeds {
    violations: Violations,
    progress: watch::Sender<Progress>,
}

struct Collector {
    violations: Violations,
    progress: watch::Sender<Progress>,
}

impl Observer for Collector {
    fn violation(&self, violation: &Violation) {
        let mut all = self.violations.all();
        if all.len() == VIOLATIONS_KEPT {
            all.pop_front();
        }
        all.push_back(violation.into());
    }

    fn progress(&self, progress: &Progress) {
        self.progress.send_replace(*progress);
    }
}

impl Feeds {
    pub(crate) fn of(client: &SyncClient) -> Self {
        let violations = Violations::default();
        let progress = watch::channel(Progress::default()).0;
        let collector = Collector { violations: violations.clone(), progress: progress.clone() };
        client.observe(Arc::new(collector));
        Self { violations, progress }
    }

    pub(crate) fn violations(&self) -> Violations {
        self.violations.clone()
    }

    pub(crate) fn subscribe(
        &self,
        client: &SyncClient,
        stream: Stream,
        (read, find): (Reading, Finding),
        closed: CancellationToken,
    ) -> Result<Subscription> {
        let values: Values = match stream {
            Stream::Changes {} => received(client.tree_changes(), |change: TreeChange| {
                Some(value::tree_change(&change))
            }),
            Stream::Events {} => received(client.subscribe(), |event: ChangeEvent| {
                value::event(&event).map(|event| event.to_string())
            }),
            Stream::Progress {} => {
                let progress = self.progress.subscribe();
                Box::pin(futures::stream::unfold(progress, |mut progress| async move {
                    progress.changed().await.ok()?;
                    let value = value::progress(&progress.borrow_and_update());
                    Some((Ok(value.to_string()), progress))
                }))
            }
            Stream::SyncState {} => {
                // Each of the three may change the state.
                let ticks = [
                    ticks(client.connection()),
                    ticks(client.tree_version()),
                    received(client.subscribe(), |_| Some(String::new())),
                ];
                distinct(ticks, move || read(Read::SyncState {}))?
            }
            Stream::Children { parent } => {
                let ticks = [ticks(client.tree_version())];
                distinct(ticks, move || read(Read::Children { parent: parent.clone() }))?
            }
            Stream::Query { query } => {
                let query = Arc::new(Query::try_from(*query)?);
                results(client.tree_version(), query, find)
            }
        };
        Ok(Subscription { values: Arc::new(tokio::sync::Mutex::new(values)), closed })
    }
}

fn ticks<T: Send + Sync + 'static>(changes: watch::Receiver<T>) -> Values {
    Box::pin(futures::stream::unfold(changes, |mut changes| async move {
        changes.changed().await.ok()?;
        Some((Ok(String::new()), changes))
    }))
}

/// Returns what arrives on a channel; a gap is `{"type": "missed", "count": …}`.
fn received<T: Clone + Send + 'static>(
    channel: broadcast::Receiver<T>,
    value: impl Fn(T) -> Option<String> + Send + Sync + Copy + 'static,
) -> Values {
    let all = futures::stream::unfold(channel, move |mut channel| async move {
        loop {
            let value = match channel.recv().await {
                Ok(one) => value(one),
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    Some(json!({ "type": "missed", "count": count }).to_string())
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            if let Some(value) = value {
                return Some((Ok(value), channel));
            }
        }
    });
    Box::pin(all)
}

/// Reads a value at first and after ticks, and returns it where it differs from the one before.
fn distinct<const N: usize>(
    ticks: [Values; N],
    read: impl Fn() -> Result<String> + Send + 'static,
) -> Result<Values> {
    let first = read()?;
    let ticks = futures::stream::select_all(ticks).ready_chunks(1_024);
    let start = futures::stream::once(std::future::ready(Ok(first.clone())));
    let state = (ticks, first, read);
    let rest = futures::stream::unfold(state, |(mut ticks, mut last, read)| async move {
        loop {
            ticks.next().await?;
            let value = match read() {
                Ok(value) => value,
                Err(error) => return Some((Err(error), (ticks, last, read))),
            };
            if value != last {
                last.clone_from(&value);
                return Some((Ok(value), (ticks, last, read)));
            }
        }
    });
    Ok(Box::pin(start.chain(rest)))
}

/// Returns the first result of a query, and each difference after it.
fn results(version: watch::Receiver<u64>, query: Arc<Query>, find: Finding) -> Values {
    let state = (version, query, find, None::<Vec<Node>>);
    Box::pin(futures::stream::unfold(state, |(mut version, query, find, mut last)| async move {
        loop {
            if last.is_some() {
                version.changed().await.ok()?;
            }
            version.borrow_and_update();
            let (wanted, finding) = (Arc::clone(&query), Arc::clone(&find));
            let now = match blocking(move || finding(&wanted)).await {
                Ok(now) => now,
                Err(error) => return Some((Err(error), (version, query, find, last))),
            };
            let first = last.is_none();
            let change = ResultChange::between(last.as_deref().unwrap_or_default(), &now);
            last = Some(now);
            if change.is_some() || first {
                let value = value::result_change(&change.unwrap_or_default());
                return Some((Ok(value), (version, query, find, last)));
            }
        }
    }))
}

/// A stream of values. It ends when it or the client is closed.
#[derive(Clone)]
pub struct Subscription {
    values: Arc<tokio::sync::Mutex<Values>>,
    closed: CancellationToken,
}

impl Subscription {
    /// Returns the next value as JSON text; `None` means the end. Of several calls, an earlier one gets the
    /// earlier value.
    ///
    /// # Errors
    /// [`crate::ErrorCode::Cancelled`], and those of the read that makes the value.
    pub fn next(
        &self,
        cancel: Option<Cancellation>,
    ) -> impl Future<Output = Result<Option<String>>> + Send + use<> {
        let (turn, closed) = (turn(&self.values), self.closed.clone());
        let next = async move {
            let next = async { turn.await.next().await };
            tokio::select! {
                biased;
                () = closed.cancelled() => Ok(None),
                value = next => value.transpose(),
            }
        };
        spawned(cancel.unwrap_or_default().over(next))
    }

    /// Ends the stream; a call that waits for the next value gets the end.
    pub fn close(&self) {
        self.closed.cancel();
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}
