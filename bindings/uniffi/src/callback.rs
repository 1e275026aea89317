//! Calls from the client to the application: for a token, and to a transport.

use std::sync::Arc;

use async_trait::async_trait;
use vfs_sync_ffi::{ForeignAnswer, ForeignCall, ForeignTransport};

use crate::Result;

/// The reason why an application has no token, or its transport no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error, uniffi::Error)]
pub enum CallbackError {
    /// The reason in words. The client takes it for a failure of the network.
    #[error("{reason}")]
    Failed {
        /// The reason.
        reason: String,
    },
}

impl From<uniffi::UnexpectedUniFFICallbackError> for CallbackError {
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        Self::Failed { reason: error.reason }
    }
}

/// The tokens of an application.
#[uniffi::export(with_foreign)]
#[async_trait]
pub trait TokenProvider: Send + Sync {
    /// Returns a bearer token; with `refresh` the server has just rejected the previous one.
    async fn token(&self, refresh: bool) -> std::result::Result<String, CallbackError>;
}

pub(crate) struct Tokens(pub(crate) Arc<dyn TokenProvider>);

#[async_trait]
impl vfs_sync_ffi::TokenProvider for Tokens {
    async fn token(&self, refresh: bool) -> std::result::Result<String, String> {
        self.0.token(refresh).await.map_err(|error| error.to_string())
    }
}

/// An answer to a call, in the form of HTTP.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct TransportAnswer {
    /// The status: 200, or that of an error.
    pub status: u16,
    /// The JSON of the answer, or of the error.
    pub body: String,
    /// The bytes of a download.
    #[uniffi(default = None)]
    pub data: Option<Vec<u8>>,
    /// The seconds that the server asks to wait.
    #[uniffi(default = None)]
    pub retry_after: Option<f64>,
}

/// A call to the server, for a transport of the application's own.
#[derive(uniffi::Object)]
pub struct TransportCall(ForeignCall);

#[uniffi::export]
impl TransportCall {
    /// Returns the name of the call, such as `pull` or `stageState`.
    pub fn kind(&self) -> String {
        self.0.kind()
    }

    /// Returns the arguments of the call as JSON.
    pub fn body(&self) -> String {
        self.0.body()
    }

    /// Returns the bytes that the call uploads.
    pub fn data(&self) -> Option<Vec<u8>> {
        self.0.data().map(|data| data.to_vec())
    }

    /// Makes the call to the server, if the client has one behind this transport.
    pub async fn forward(&self) -> Result<TransportAnswer> {
        let ForeignAnswer { status, body, data, retry_after } = self.0.forward().await?;
        Ok(TransportAnswer { status, body, data: data.map(|data| data.to_vec()), retry_after })
    }
}

/// A transport of the application's own: it answers calls itself, or forwards them.
#[uniffi::export(with_foreign)]
#[async_trait]
pub trait Transport: Send + Sync {
    /// Answers a call to the server.
    async fn call(
        &self,
        call: Arc<TransportCall>,
    ) -> std::result::Result<TransportAnswer, CallbackError>;
}

pub(crate) struct Calls(pub(crate) Arc<dyn Transport>);

#[async_trait]
impl ForeignTransport for Calls {
    async fn call(&self, call: ForeignCall) -> std::result::Result<ForeignAnswer, String> {
        let answer = self.0.call(Arc::new(TransportCall(call))).await;
        let TransportAnswer { status, body, data, retry_after } =
            answer.map_err(|error| error.to_string())?;
        Ok(ForeignAnswer { status, body, data: data.map(Into::into), retry_after })
    }
}
