//! A transport to a real server, with faults that a test controls.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use vfs_sync_client::transport::{Answer, ByteStream, Call, CallKind, Result};
use vfs_sync_client::{Device, Transport, TransportExt as _};
use vfs_sync_core::id::{StagingId, UserId};

use super::bytes::{
    cut_after, damaged, damaged_call, gathered, kept, of_bytes, reread, truncated, with_damage,
};
use super::{Fault, lost};
use crate::environment::Random;
use crate::record::{Record, without_data};

/// The number of answers that are kept of each kind of call.
const ANSWERS_KEPT: usize = 64;

/// A transport that passes every call on to another one, except for the configured faults.
pub struct FaultyTransport {
    to: Arc<dyn Transport>,
    state: Mutex<State>,
    record: Record,
    /// The numbers of downloads in progress: the present one, and the greatest so far.
    under_way: Arc<(AtomicUsize, AtomicUsize)>,
}

#[derive(Default)]
struct State {
    next: HashMap<CallKind, VecDeque<Fault>>,
    cut: bool,
    storm: Option<(Random, usize)>,
    late: Vec<Call>,
    answers: HashMap<CallKind, VecDeque<Answer>>,
}

impl FaultyTransport {
    /// Creates a line to `to` without faults.
    #[must_use]
    pub fn new(to: Arc<dyn Transport>) -> Self {
        let record = Record::default();
        Self { to, state: Mutex::default(), record, under_way: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Assigns `fault` to the next call of `kind` that has no fault yet.
    pub fn next(&self, kind: CallKind, fault: Fault) {
        self.state().next.entry(kind).or_default().push_back(fault);
    }

    /// Stops all calls until [`Self::heal`].
    pub fn cut(&self) {
        self.state().cut = true;
    }

    /// Gives one call in `one_in` a fault of a bad network, until [`Self::heal`]: requests and
    /// answers are lost, cut, doubled, delayed by up to ten milliseconds and reordered.
    pub fn storm(&self, random: Random, one_in: usize) {
        self.state().storm = Some((random, one_in));
    }

    /// Ends all faults, except those assigned to calls that have not arrived yet.
    pub fn heal(&self) {
        let mut state = self.state();
        state.cut = false;
        state.storm = None;
    }

    /// Returns the calls that the transport received, faulty or not.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Returns the greatest number of downloads that were in progress at one time.
    #[must_use]
    pub fn most_downloads(&self) -> usize {
        self.under_way.1.load(Ordering::SeqCst)
    }

    /// Returns the fault of the call that just arrived.
    fn fault(&self, kind: CallKind) -> Option<Fault> {
        let mut state = self.state();
        if state.cut {
            return Some(Fault::DropRequest);
        }
        if let Some(fault) = state.next.get_mut(&kind).and_then(VecDeque::pop_front) {
            return Some(fault);
        }
        let (random, one_in) = state.storm.as_mut()?;
        (random.below(*one_in) == 0).then(|| match random.below(7) {
            0 => Fault::DropRequest,
            1 => Fault::DropAnswer,
            2 => Fault::Delay(Duration::from_millis(random.below(11) as u64)),
            3 => Fault::Duplicate,
            4 => Fault::Reorder,
            5 => Fault::CutRequest(random.below(4_096) as u64),
            _ => Fault::CutAnswer(random.below(4_096) as u64),
        })
    }

    fn stale(&self, kind: CallKind, ago: usize) -> Option<Answer> {
        let state = self.state();
        let answers = state.answers.get(&kind)?;
        answers.get(answers.len().checked_sub(ago)?).and_then(kept)
    }

    async fn pass(&self, call: Call) -> Result<Answer> {
        let kind = call.kind();
        let downloads = matches!(kind, CallKind::Download | CallKind::ReadBlobs);
        let under_way = downloads.then(|| UnderWay::begin(&self.under_way));
        let answer = match self.to.call(call).await? {
            Answer::Download(stream) => {
                let stream: ByteStream = Box::pin(stream.inspect(move |_| {
                    let _ = &under_way;
                }));
                Answer::Download(stream)
            }
            other => other,
        };
        if let Some(copy) = kept(&answer) {
            let mut state = self.state();
            let answers = state.answers.entry(kind).or_default();
            answers.push_back(copy);
            if answers.len() > ANSWERS_KEPT {
                answers.pop_front();
            }
        }
        Ok(answer)
    }

    /// Sends the first `bytes` of an upload; sends nothing of any other call.
    async fn cut_request(&self, call: Call, bytes: u64) -> Result<Answer> {
        match call {
            Call::Upload { staging_id, size, digest, data } => {
                let data = Box::pin(cut_after(data, bytes));
                self.pass(Call::Upload { staging_id, size, digest, data }).await
            }
            Call::Append { staging_id, offset, size, data } => {
                let stage = staging_id.clone();
                let data = Box::pin(cut_after(data, bytes));
                let answer = self.pass(Call::Append { staging_id, offset, size, data }).await;
                if answer.is_err() && bytes > 0 {
                    self.noticed(&stage, offset).await;
                }
                answer
            }
            _ => Err(lost()),
        }
    }

    /// Waits until the server has noticed that an upload was cut, and has kept some of its bytes.
    async fn noticed(&self, staging_id: &StagingId, offset: u64) {
        let kept = async {
            loop {
                let stage = self.to.stage_state(staging_id).await;
                if stage.is_ok_and(|stage| stage.offset > Some(offset)) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let noticed = tokio::time::timeout(Duration::from_secs(20), kept).await;
        noticed.expect("the server keeps what came before the cut");
    }

    async fn under(&self, fault: Fault, call: Call) -> Result<Answer> {
        match fault {
            Fault::Refuse(error) => Err(error),
            Fault::DropRequest => Err(lost()),
            Fault::DropAnswer => {
                // A download is its answer: asking for it changes nothing.
                self.pass(call).await?;
                Err(lost())
            }
            Fault::Delay(by) => {
                tokio::time::sleep(by).await;
                self.pass(call).await
            }
            Fault::Duplicate => {
                let (call, again) = twice(call).await?;
                self.pass(call).await?;
                self.pass(again).await
            }
            Fault::Reorder => {
                let (call, _) = twice(call).await?;
                self.state().late.push(call);
                Err(lost())
            }
            Fault::CutRequest(bytes) => self.cut_request(call, bytes).await,
            Fault::DamageRequest(at) => self.pass(damaged_call(call, at)).await,
            Fault::CutAnswer(bytes) => match self.pass(call).await? {
                Answer::Download(stream) => {
                    Ok(Answer::Download(Box::pin(cut_after(stream, bytes))))
                }
                _ => Err(lost()),
            },
            Fault::TruncateAnswer(bytes) => match self.pass(call).await? {
                Answer::Download(stream) => Ok(Answer::Download(truncated(stream, bytes))),
                other => reread(other, |json| {
                    json.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
                }),
            },
            Fault::DamageAnswer(at) => match self.pass(call).await? {
                Answer::Download(stream) => Ok(Answer::Download(damaged(stream, at))),
                Answer::ReadBlobs(contents) => {
                    Ok(Answer::ReadBlobs(contents.map(|contents| with_damage(contents, at))))
                }
                other => reread(other, |json| {
                    let byte = usize::try_from(at).ok().and_then(|at| json.get_mut(at));
                    // No JSON has it outside a string, and no string as it is.
                    byte.into_iter().for_each(|byte| *byte = 0);
                }),
            },
            Fault::Stale(ago) => match self.stale(call.kind(), ago) {
                Some(answer) => Ok(answer),
                None => self.pass(call).await,
            },
        }
    }
}

/// Duplicates a call, to make it twice.
async fn twice(call: Call) -> Result<(Call, Call)> {
    let mut again = without_data(&call);
    let mut first = call;
    if let (Call::Upload { data, .. }, Call::Upload { data: copy, .. })
    | (Call::Append { data, .. }, Call::Append { data: copy, .. }) = (&mut first, &mut again)
    {
        let bytes = gathered(data).await?;
        (*data, *copy) = (of_bytes(bytes.clone()), of_bytes(bytes));
    }
    Ok((first, again))
}

#[async_trait]
impl Transport for FaultyTransport {
    fn bind_user(&self, user: &UserId) -> Result<(), UserId> {
        self.to.bind_user(user)
    }

    fn bind_device(&self, device: &Arc<Device>) {
        self.to.bind_device(device);
    }

    async fn call(&self, call: Call) -> Result<Answer> {
        self.record.add(None, &call);
        let fault = self.fault(call.kind());
        let gets_through = !matches!(
            fault,
            Some(Fault::Refuse(_) | Fault::DropRequest | Fault::Reorder | Fault::Stale(_))
        );
        let late = if gets_through { std::mem::take(&mut self.state().late) } else { Vec::new() };
        let answer = match fault {
            Some(fault) => self.under(fault, call).await,
            None => self.pass(call).await,
        };
        for call in late {
            // Nobody waits for the outcome.
            let _ = self.to.call(call).await;
        }
        answer
    }
}

/// A guard that counts a download as in progress until it is dropped.
struct UnderWay(Arc<(AtomicUsize, AtomicUsize)>);

impl UnderWay {
    fn begin(counts: &Arc<(AtomicUsize, AtomicUsize)>) -> Self {
        let now = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
        counts.1.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(counts))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}
