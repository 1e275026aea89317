//! A transport that goes to a real server, over a line that a test can cut.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use vfs_sync_client::transport::{BatchFile, ByteStream, PullQuery};
use vfs_sync_client::{Transport, TransportError};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, StagingId};
use vfs_sync_core::limits::Limits;
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PullPage, PushRequest, PushResponse, ReconcileRequest,
    ReconcileResponse, StageRequest, StageResponse, StateResponse, UploadResponse,
    VersionsResponse,
};

/// What happens to the next download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadFault {
    /// It is refused as a server that is busy does.
    Refused,
    /// It is cut after as many bytes.
    CutAfter(u64),
    /// It ends after as many bytes as if it was whole.
    EndsAfter(u64),
    /// Its first byte is another one.
    Damaged,
}

/// Passes every call on to another transport, but for the faults that it was told of.
pub struct FaultyTransport {
    to: Arc<dyn Transport>,
    faults: Mutex<Faults>,
    /// Downloads that are under way, and the most that were.
    under_way: Arc<(AtomicUsize, AtomicUsize)>,
}

#[derive(Default)]
struct Faults {
    downloads: VecDeque<DownloadFault>,
    downloaded: Vec<(BlobId, u64)>,
    appends: VecDeque<u64>,
    appended: Vec<(StagingId, u64)>,
    refusals: HashMap<&'static str, VecDeque<TransportError>>,
    calls: HashMap<&'static str, usize>,
}

impl FaultyTransport {
    /// A line to `to` that has no faults yet.
    #[must_use]
    pub fn new(to: Arc<dyn Transport>) -> Self {
        Self { to, faults: Mutex::default(), under_way: Arc::default() }
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next download that has no fault yet gets this one.
    pub fn on_download(&self, fault: DownloadFault) {
        self.faults().downloads.push_back(fault);
    }

    /// The downloads so far: of what, and from which byte on.
    #[must_use]
    pub fn downloaded(&self) -> Vec<(BlobId, u64)> {
        self.faults().downloaded.clone()
    }

    /// The next part of an upload that has no fault yet is cut after as many bytes; the call
    /// returns when the server has noticed, and kept some of them.
    pub fn cut_append_after(&self, bytes: u64) {
        self.faults().appends.push_back(bytes);
    }

    /// The parts of uploads so far: of what, and from which byte on.
    #[must_use]
    pub fn appended(&self) -> Vec<(StagingId, u64)> {
        self.faults().appended.clone()
    }

    /// The next call of this name, a method of [`Transport`], is answered with `error` and goes
    /// nowhere. Knows `reconcile`, `attach`, `blob_batch` and `open_upload`.
    pub fn refuse(&self, call: &'static str, error: TransportError) {
        self.faults().refusals.entry(call).or_default().push_back(error);
    }

    /// How often a call that [`Self::refuse`] knows was made.
    #[must_use]
    pub fn calls(&self, call: &'static str) -> usize {
        self.faults().calls.get(call).copied().unwrap_or(0)
    }

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

    fn pass(&self, call: &'static str) -> Result<(), TransportError> {
        let mut faults = self.faults();
        *faults.calls.entry(call).or_default() += 1;
        let refusal = faults.refusals.get_mut(call).and_then(VecDeque::pop_front);
        refusal.map_or(Ok(()), Err)
    }

    /// The most downloads that were under way at one time.
    #[must_use]
    pub fn most_downloads(&self) -> usize {
        self.under_way.1.load(Ordering::SeqCst)
    }
}

/// Counts as under way while it lives.
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

/// The first `bytes` of a stream, then a failure.
fn cut_after(
    stream: ByteStream,
    bytes: u64,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    stream.scan(Some(bytes), |left, chunk| {
        let step = match (*left, chunk) {
            (None, _) => None,
            (Some(0), _) => {
                *left = None;
                Some(Err(std::io::Error::other("the line was cut")))
            }
            (Some(bytes), Ok(mut chunk)) => {
                chunk.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
                *left = Some(bytes - chunk.len() as u64);
                Some(Ok(chunk))
            }
            (_, failed) => Some(failed),
        };
        std::future::ready(step)
    })
}

#[async_trait]
impl Transport for FaultyTransport {
    async fn push(&self, request: &PushRequest) -> Result<PushResponse, TransportError> {
        self.to.push(request).await
    }

    async fn pull(&self, query: &PullQuery) -> Result<PullPage, TransportError> {
        self.to.pull(query).await
    }

    async fn reconcile(
        &self,
        request: &ReconcileRequest,
    ) -> Result<ReconcileResponse, TransportError> {
        self.pass("reconcile")?;
        self.to.reconcile(request).await
    }

    async fn state(&self, client_id: &ReplicaId) -> Result<StateResponse, TransportError> {
        self.to.state(client_id).await
    }

    async fn limits(&self) -> Result<Limits, TransportError> {
        self.to.limits().await
    }

    async fn stage(&self, request: &StageRequest) -> Result<StageResponse, TransportError> {
        self.to.stage(request).await
    }

    async fn upload(
        &self,
        staging_id: &StagingId,
        size: u64,
        digest: Sha256Digest,
        data: ByteStream,
    ) -> Result<UploadResponse, TransportError> {
        self.to.upload(staging_id, size, digest, data).await
    }

    async fn stage_state(&self, staging_id: &StagingId) -> Result<StageResponse, TransportError> {
        self.to.stage_state(staging_id).await
    }
    async fn open_upload(&self, stage: &StageRequest, size: u64) -> Result<u64, TransportError> {
        self.pass("open_upload")?;
        self.to.open_upload(stage, size).await
    }
    async fn append(
        &self,
        staging_id: &StagingId,
        offset: u64,
        size: u64,
        data: ByteStream,
    ) -> Result<(), TransportError> {
        let cut = {
            let mut faults = self.faults();
            faults.appended.push((staging_id.clone(), offset));
            faults.appends.pop_front()
        };
        let data: ByteStream = match cut {
            Some(bytes) => Box::pin(cut_after(data, bytes)),
            None => data,
        };
        let answer = self.to.append(staging_id, offset, size, data).await;
        if answer.is_err() && cut.is_some_and(|bytes| bytes > 0) {
            self.noticed(staging_id, offset).await;
        }
        answer
    }
    async fn attach(
        &self,
        staging_id: &StagingId,
        request: &AttachRequest,
    ) -> Result<AttachResponse, TransportError> {
        self.pass("attach")?;
        self.to.attach(staging_id, request).await
    }

    async fn blob_batch(
        &self,
        files: Vec<BatchFile>,
    ) -> Result<Vec<Result<AttachResponse, TransportError>>, TransportError> {
        self.pass("blob_batch")?;
        self.to.blob_batch(files).await
    }

    async fn versions(&self, item_id: &ItemId) -> Result<VersionsResponse, TransportError> {
        self.to.versions(item_id).await
    }

    async fn download(&self, blob_id: &BlobId, offset: u64) -> Result<ByteStream, TransportError> {
        let fault = {
            let mut faults = self.faults();
            faults.downloaded.push((blob_id.clone(), offset));
            faults.downloads.pop_front()
        };
        if fault == Some(DownloadFault::Refused) {
            return Err(TransportError::network("the line is down"));
        }
        let under_way = UnderWay::begin(&self.under_way);
        let stream = self.to.download(blob_id, offset).await?;
        let mut stream: ByteStream = match fault {
            Some(DownloadFault::CutAfter(bytes)) => Box::pin(cut_after(stream, bytes)),
            Some(DownloadFault::EndsAfter(bytes)) => {
                let cut = cut_after(stream, bytes);
                Box::pin(cut.take_while(|chunk| std::future::ready(chunk.is_ok())))
            }
            _ => stream,
        };
        if fault == Some(DownloadFault::Damaged) {
            let mut first = true;
            stream = Box::pin(stream.map(move |chunk| {
                let mut bytes = Vec::from(chunk?);
                if let (true, Some(byte)) = (std::mem::take(&mut first), bytes.first_mut()) {
                    *byte ^= 1;
                }
                Ok(bytes.into())
            }));
        }
        Ok(Box::pin(stream.inspect(move |_| {
            let _ = &under_way;
        })))
    }
}
