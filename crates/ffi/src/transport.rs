//! Transports of the host language.

mod wire;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use vfs_sync_client::core::id::UserId;
use vfs_sync_client::transport::{Answer, Call, CallKind};
use vfs_sync_client::{Device, Transport, TransportError};

use self::wire::Kept;
use crate::{Error, Result};

/// The greatest size of a content that crosses to the host language in one call.
const MAX_DATA: usize = 64 << 20;
/// The longest time that an answer can make a client wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// The answer to a [`ForeignCall`], in the form of HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct ForeignAnswer {
    /// The status: 200, or that of an error.
    pub status: u16,
    /// The JSON of the answer, or of the error.
    pub body: String,
    /// The bytes of a download.
    pub data: Option<Bytes>,
    /// The seconds that the server asks to wait.
    pub retry_after: Option<f64>,
}

/// A call to the server, for a transport of the host language.
#[derive(Clone)]
pub struct ForeignCall {
    kept: Arc<Kept>,
    forward: Option<Arc<Forward>>,
}

/// The transport behind a foreign one.
struct Forward {
    to: Arc<dyn Transport>,
    /// The last failure, with which the call fails if the foreign transport fails after it.
    failed: Mutex<Option<TransportError>>,
}

impl ForeignCall {
    /// Returns the name of the call, such as `pull` or `stageState`.
    #[must_use]
    pub fn kind(&self) -> String {
        wire::camel(self.kept.kind().as_str())
    }

    /// Returns the arguments of the call as JSON.
    #[must_use]
    pub fn body(&self) -> String {
        self.kept.body()
    }

    /// Returns the bytes that the call uploads.
    #[must_use]
    pub fn data(&self) -> Option<Bytes> {
        self.kept.data.clone()
    }

    /// Makes the call over the transport behind this one; it may be made again, and later.
    ///
    /// # Errors
    /// The failure of the call; [`crate::ErrorCode::Invalid`] if there is no transport behind this
    /// one.
    pub fn forward(&self) -> impl Future<Output = Result<ForeignAnswer>> + Send + use<> {
        let call = self.clone();
        crate::runtime::spawned(async move {
            let none = || Error::invalid("there is no transport to forward to");
            let forward = call.forward.as_ref().ok_or_else(none)?;
            let answer = match forward.to.call(call.kept.again()).await {
                Ok(answer) => call.kept.answered(answer).await,
                Err(error) => Err(error),
            };
            answer.map_err(|error| {
                let mut failed = forward.failed.lock().unwrap_or_else(PoisonError::into_inner);
                *failed = Some(error.clone());
                error.into()
            })
        })
    }
}

/// A transport that the host language implements. It answers calls itself, as a script or a hostile
/// server does, or forwards them.
#[async_trait]
pub trait ForeignTransport: Send + Sync + 'static {
    /// Answers a call to the server.
    ///
    /// # Errors
    /// A sentence that says why there is no answer: the client takes it for a failure of the
    /// network.
    async fn call(&self, call: ForeignCall) -> std::result::Result<ForeignAnswer, String>;
}

/// A foreign transport as one of the client.
pub(crate) struct Adapter {
    foreign: Arc<dyn ForeignTransport>,
    behind: Option<Arc<dyn Transport>>,
}

impl Adapter {
    pub(crate) fn new(
        foreign: Arc<dyn ForeignTransport>,
        behind: Option<Arc<dyn Transport>>,
    ) -> Self {
        Self { foreign, behind }
    }
}

#[async_trait]
impl Transport for Adapter {
    fn bind_user(&self, user: &UserId) -> std::result::Result<(), UserId> {
        self.behind.as_ref().map_or(Ok(()), |behind| behind.bind_user(user))
    }

    fn bind_device(&self, device: &Arc<Device>) {
        if let Some(behind) = &self.behind {
            behind.bind_device(device);
        }
    }

    async fn call(&self, call: Call) -> std::result::Result<Answer, TransportError> {
        match (call.kind(), &self.behind) {
            // Several small contents in one answer, and a stream that never ends, do not cross.
            (CallKind::ReadBlobs, _) => return Ok(Answer::ReadBlobs(None)),
            // Reports are for the server alone.
            (CallKind::Events | CallKind::Telemetry, Some(behind)) => {
                return behind.call(call).await;
            }
            (kind @ (CallKind::Events | CallKind::Telemetry), None) => {
                return Err(TransportError::unsupported(kind.as_str()));
            }
            _ => {}
        }
        let kept = Arc::new(Kept::of(call).await?);
        let forward = self.behind.clone().map(|to| Forward { to, failed: Mutex::default() });
        let forward = forward.map(Arc::new);
        let foreign = ForeignCall { kept: Arc::clone(&kept), forward: forward.clone() };
        match self.foreign.call(foreign).await {
            Ok(answer) => kept.read(answer),
            Err(reason) => {
                let failed = forward
                    .and_then(|f| f.failed.lock().unwrap_or_else(PoisonError::into_inner).take());
                Err(failed.unwrap_or_else(|| TransportError::network(reason)))
            }
        }
    }
}
