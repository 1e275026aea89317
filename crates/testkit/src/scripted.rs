//! A transport that answers what a test tells it to.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use vfs_sync_client::transport::{BatchFile, ByteStream, PullQuery};
use vfs_sync_client::{Transport, TransportError};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_core::id::{BlobId, ItemId, ReplicaId, StagingId};
use vfs_sync_core::limits::Limits;
use vfs_sync_core::wire::{
    AttachRequest, AttachResponse, PullPage, PushRequest, PushResponse, PushResult, PushStatus,
    ReconcileRequest, ReconcileResponse, StageRequest, StageResponse, StateResponse,
    UploadResponse, VersionsResponse, WriteIds,
};

type Answer<Q, A> = Box<dyn FnOnce(&Q) -> Result<A, TransportError> + Send>;

/// Answers from a script, and keeps what it was asked.
///
/// Where the script has no answer, it answers as the plainest of servers would: a push is applied
/// whole, a pull is settled with nothing new, a reconcile is acknowledged as sent. It knows no
/// contents.
#[derive(Default)]
pub struct ScriptedTransport(Mutex<Script>);

#[derive(Default)]
struct Script {
    push: VecDeque<Answer<PushRequest, PushResponse>>,
    pull: VecDeque<Answer<PullQuery, PullPage>>,
    reconcile: VecDeque<Answer<ReconcileRequest, ReconcileResponse>>,
    pushed: Vec<PushRequest>,
    pulled: Vec<PullQuery>,
    reconciled: Vec<ReconcileRequest>,
}

impl ScriptedTransport {
    /// A transport with an empty script.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next push that has no answer yet gets this one.
    pub fn on_push(
        &self,
        answer: impl FnOnce(&PushRequest) -> Result<PushResponse, TransportError> + Send + 'static,
    ) {
        self.script().push.push_back(Box::new(answer));
    }

    /// The next pull that has no answer yet gets this one.
    pub fn on_pull(&self, answer: Result<PullPage, TransportError>) {
        self.script().pull.push_back(Box::new(move |_| answer));
    }

    /// The next reconcile that has no answer yet gets this one.
    pub fn on_reconcile(
        &self,
        answer: impl FnOnce(&ReconcileRequest) -> Result<ReconcileResponse, TransportError>
        + Send
        + 'static,
    ) {
        self.script().reconcile.push_back(Box::new(answer));
    }

    /// The pushes so far.
    #[must_use]
    pub fn pushed(&self) -> Vec<PushRequest> {
        self.script().pushed.clone()
    }

    /// The pulls so far.
    #[must_use]
    pub fn pulled(&self) -> Vec<PullQuery> {
        self.script().pulled.clone()
    }

    /// The reconciles so far.
    #[must_use]
    pub fn reconciled(&self) -> Vec<ReconcileRequest> {
        self.script().reconciled.clone()
    }
}

/// The answer that gives every operation of `request` the same status.
#[must_use]
pub fn all_results(request: &PushRequest, status: PushStatus) -> PushResponse {
    let result = |op_id| PushResult {
        op_id: Some(op_id),
        status,
        reason: None,
        detail: None,
        authored_at: None,
        last_write_id: None,
    };
    let results = request.operations.iter().map(|op| result(op.op_id.clone())).collect();
    PushResponse { client_id: request.client_id.clone(), results }
}

fn unknown() -> TransportError {
    TransportError::Refused {
        status: 404,
        code: "not_found".into(),
        message: "The script knows no contents".into(),
        details: serde_json::Map::new(),
    }
}

#[async_trait]
impl Transport for ScriptedTransport {
    async fn push(&self, request: &PushRequest) -> Result<PushResponse, TransportError> {
        let answer = {
            let mut script = self.script();
            script.pushed.push(request.clone());
            script.push.pop_front()
        };
        match answer {
            Some(answer) => answer(request),
            None => Ok(all_results(request, PushStatus::Applied)),
        }
    }

    async fn pull(&self, query: &PullQuery) -> Result<PullPage, TransportError> {
        let answer = {
            let mut script = self.script();
            script.pulled.push(query.clone());
            script.pull.pop_front()
        };
        match answer {
            Some(answer) => answer(query),
            None => Ok(PullPage {
                items: Vec::new(),
                next_cursor: None,
                has_more: false,
                last_reconciled_write_ids: WriteIds::new(),
                baseline: None,
            }),
        }
    }

    async fn reconcile(
        &self,
        request: &ReconcileRequest,
    ) -> Result<ReconcileResponse, TransportError> {
        let answer = {
            let mut script = self.script();
            script.reconciled.push(request.clone());
            script.reconcile.pop_front()
        };
        match answer {
            Some(answer) => answer(request),
            None => Ok(request.clone()),
        }
    }

    async fn state(&self, client_id: &ReplicaId) -> Result<StateResponse, TransportError> {
        Ok(StateResponse {
            client_id: client_id.clone(),
            reconcile_state: None,
            feed_head: None,
            epoch: None,
            pruned_through: None,
            last_write_ids: WriteIds::new(),
        })
    }

    async fn limits(&self) -> Result<Limits, TransportError> {
        Ok(Limits::default())
    }

    async fn stage(&self, _request: &StageRequest) -> Result<StageResponse, TransportError> {
        Err(unknown())
    }

    async fn upload(
        &self,
        _staging_id: &StagingId,
        _size: u64,
        _digest: Sha256Digest,
        _data: ByteStream,
    ) -> Result<UploadResponse, TransportError> {
        Err(unknown())
    }

    async fn stage_state(&self, _: &StagingId) -> Result<StageResponse, TransportError> {
        Err(unknown())
    }

    async fn open_upload(&self, _: &StageRequest, _: u64) -> Result<u64, TransportError> {
        Err(unknown())
    }

    async fn append(
        &self,
        _: &StagingId,
        _: u64,
        _: u64,
        _: ByteStream,
    ) -> Result<(), TransportError> {
        Err(unknown())
    }

    async fn attach(
        &self,
        _staging_id: &StagingId,
        _request: &AttachRequest,
    ) -> Result<AttachResponse, TransportError> {
        Err(unknown())
    }

    async fn blob_batch(
        &self,
        files: Vec<BatchFile>,
    ) -> Result<Vec<Result<AttachResponse, TransportError>>, TransportError> {
        Ok(files.iter().map(|_| Err(unknown())).collect())
    }

    async fn versions(&self, _: &ItemId) -> Result<VersionsResponse, TransportError> {
        Err(unknown())
    }

    async fn download(
        &self,
        _blob_id: &BlobId,
        _offset: u64,
    ) -> Result<ByteStream, TransportError> {
        Err(unknown())
    }
}
