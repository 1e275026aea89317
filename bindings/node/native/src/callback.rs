//! Calls from the client to JavaScript: for a token, and to a transport. JavaScript gets an object
//! that it answers when it can; one that it forgets fails once it is collected.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use napi::Status;
use napi::bindgen_prelude::{Buffer, Env, Function, JsValuesTupleIntoVec, PromiseRaw};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;
use tokio::sync::oneshot;
use vfs_sync_ffi::{ForeignAnswer, ForeignCall, ForeignTransport, TokenProvider};

/// A callback that does not keep the process running.
type Weak<T> = ThreadsafeFunction<T, (), T, Status, false, true>;

const FORGOTTEN: &str = "JavaScript did not answer";

/// The sender of an answer, which is used once.
type Sender<T> = Mutex<Option<oneshot::Sender<Result<T, String>>>>;

fn send<T>(sender: &Sender<T>, answer: Result<T, String>) {
    let sender = sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    // A second answer has no effect, and neither has one to a call that was cancelled.
    drop(sender.map(|sender| sender.send(answer)));
}

/// Calls back with what `pending` makes of the sender, and waits for the answer.
async fn ask<T, P: JsValuesTupleIntoVec>(
    callback: &Weak<P>,
    pending: impl FnOnce(Sender<T>) -> P,
) -> Result<T, String> {
    let (sender, answer) = oneshot::channel();
    let status =
        callback.call(pending(Mutex::new(Some(sender))), ThreadsafeFunctionCallMode::NonBlocking);
    if status != Status::Ok {
        return Err(format!("JavaScript cannot be called: {status}"));
    }
    answer.await.unwrap_or_else(|_| Err(FORGOTTEN.into()))
}

/// A request for a token.
#[napi]
pub struct PendingToken {
    refresh: bool,
    sender: Sender<String>,
}

#[napi]
impl PendingToken {
    /// Returns true if the server has just rejected the previous token.
    #[napi(getter, catch_unwind)]
    pub fn refresh(&self) -> bool {
        self.refresh
    }

    /// Answers with a token.
    #[napi(catch_unwind)]
    pub fn resolve(&self, token: String) {
        send(&self.sender, Ok(token));
    }

    /// Answers that there is no token.
    #[napi(catch_unwind)]
    pub fn fail(&self, reason: String) {
        send(&self.sender, Err(reason));
    }
}

/// The tokens of an application in JavaScript.
pub(crate) struct Tokens(Weak<PendingToken>);

impl Tokens {
    pub(crate) fn new(callback: Function<'_, PendingToken, ()>) -> napi::Result<Self> {
        callback.build_threadsafe_function().weak::<true>().build().map(Self)
    }
}

#[async_trait]
impl TokenProvider for Tokens {
    async fn token(&self, refresh: bool) -> Result<String, String> {
        ask(&self.0, |sender| PendingToken { refresh, sender }).await
    }
}

/// A call to a transport in JavaScript.
#[napi]
pub struct PendingCall {
    call: ForeignCall,
    sender: Sender<ForeignAnswer>,
}

/// The answer of the transport behind one in JavaScript.
#[napi(object)]
pub struct ForwardedAnswer {
    /// The status of the answer.
    pub status: u32,
    /// The JSON of the answer.
    pub body: String,
    /// The bytes of a download.
    pub data: Option<Buffer>,
}

#[napi]
impl PendingCall {
    /// Returns the name of the call.
    #[napi(getter, catch_unwind)]
    pub fn kind(&self) -> String {
        self.call.kind()
    }

    /// Returns the arguments of the call as JSON.
    #[napi(getter, catch_unwind)]
    pub fn body(&self) -> String {
        self.call.body()
    }

    /// Returns the bytes that the call uploads.
    #[napi(getter, catch_unwind)]
    pub fn data(&self) -> Option<Buffer> {
        self.call.data().map(|bytes| Buffer::from(bytes.to_vec()))
    }

    /// Makes the call over the transport behind this one.
    #[napi(catch_unwind)]
    pub fn forward<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ForwardedAnswer>> {
        let forwarding = self.call.forward();
        crate::promise(env, async move {
            let ForeignAnswer { status, body, data, .. } = forwarding.await?;
            let data = data.map(|bytes| Buffer::from(bytes.to_vec()));
            Ok(ForwardedAnswer { status: status.into(), body, data })
        })
    }

    /// Answers the call.
    #[napi(catch_unwind)]
    pub fn answer(
        &self,
        status: u32,
        body: String,
        data: Option<Buffer>,
        retry_after: Option<f64>,
    ) {
        let status = u16::try_from(status).unwrap_or(u16::MAX);
        let data = data.map(|bytes| bytes.to_vec().into());
        send(&self.sender, Ok(ForeignAnswer { status, body, data, retry_after }));
    }

    /// Answers that there is no answer.
    #[napi(catch_unwind)]
    pub fn fail(&self, reason: String) {
        send(&self.sender, Err(reason));
    }
}

/// A transport in JavaScript.
pub(crate) struct Calls(Weak<PendingCall>);

impl Calls {
    pub(crate) fn new(callback: Function<'_, PendingCall, ()>) -> napi::Result<Self> {
        callback.build_threadsafe_function().weak::<true>().build().map(Self)
    }
}

#[async_trait]
impl ForeignTransport for Calls {
    async fn call(&self, call: ForeignCall) -> Result<ForeignAnswer, String> {
        ask(&self.0, |sender| PendingCall { call, sender }).await
    }
}
