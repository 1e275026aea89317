//! Calls from the client to JavaScript: for a token, and to a transport. JavaScript gets an object
//! that it answers when it can; one that it forgets fails once it is collected.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use js_sys::{Function, Object, Promise, Reflect, Uint8Array};
use send_wrapper::SendWrapper;
use tokio::sync::oneshot;
use vfs_sync_ffi::{ForeignAnswer, ForeignCall, ForeignTransport, TokenProvider};
use wasm_bindgen::prelude::*;

const FORGOTTEN: &str = "JavaScript did not answer";

/// The sender of an answer, which is used once.
pub(crate) type Sender<T> = Mutex<Option<oneshot::Sender<Result<T, String>>>>;

pub(crate) fn send<T>(sender: &Sender<T>, answer: Result<T, String>) {
    let sender = sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    // A second answer has no effect, and neither has one to a call that was cancelled.
    drop(sender.map(|sender| sender.send(answer)));
}

/// A function of the page, which has one thread.
pub(crate) type Callback = SendWrapper<Function>;

/// Calls back with what `pending` makes of the sender, and waits for the answer.
pub(crate) async fn ask<T, P: Into<JsValue>>(
    callback: &Callback,
    pending: impl FnOnce(Sender<T>) -> P,
) -> Result<T, String> {
    let (sender, answer) = oneshot::channel();
    let called = callback.call1(&JsValue::NULL, &pending(Mutex::new(Some(sender))).into());
    // A value of the page is not kept over the wait.
    if called.map(drop).is_err() {
        return Err("JavaScript cannot be called".to_owned());
    }
    answer.await.unwrap_or_else(|_| Err(FORGOTTEN.into()))
}

/// A request for a token.
#[wasm_bindgen]
pub struct PendingToken {
    refresh: bool,
    sender: Sender<String>,
}

#[wasm_bindgen]
impl PendingToken {
    /// Returns true if the server has just rejected the previous token.
    #[wasm_bindgen(getter)]
    pub fn refresh(&self) -> bool {
        self.refresh
    }

    /// Answers with a token.
    pub fn resolve(&self, token: String) {
        send(&self.sender, Ok(token));
    }

    /// Answers that there is no token.
    pub fn fail(&self, reason: String) {
        send(&self.sender, Err(reason));
    }
}

/// The tokens of an application in JavaScript.
pub(crate) struct Tokens(Callback);

impl Tokens {
    pub(crate) fn new(callback: Function) -> Self {
        Self(SendWrapper::new(callback))
    }
}

#[async_trait]
impl TokenProvider for Tokens {
    async fn token(&self, refresh: bool) -> Result<String, String> {
        ask(&self.0, |sender| PendingToken { refresh, sender }).await
    }
}

/// A call to a transport in JavaScript.
#[wasm_bindgen]
pub struct PendingCall {
    call: ForeignCall,
    sender: Sender<ForeignAnswer>,
}

#[wasm_bindgen]
impl PendingCall {
    /// Returns the name of the call.
    #[wasm_bindgen(getter)]
    pub fn kind(&self) -> String {
        self.call.kind()
    }

    /// Returns the arguments of the call as JSON.
    #[wasm_bindgen(getter)]
    pub fn body(&self) -> String {
        self.call.body()
    }

    /// Returns the bytes that the call uploads, or `null`.
    #[wasm_bindgen(getter)]
    pub fn data(&self) -> JsValue {
        self.call.data().map_or(JsValue::NULL, |bytes| Uint8Array::from(&*bytes).into())
    }

    /// Makes the call over the transport behind this one.
    pub fn forward(&self) -> Promise {
        let forwarding = self.call.forward();
        crate::promise(async move {
            let ForeignAnswer { status, body, data, .. } = forwarding.await?;
            let answer = Object::new();
            let data = data.map_or(JsValue::NULL, |bytes| Uint8Array::from(&*bytes).into());
            for (name, value) in [("status", status.into()), ("body", body.into()), ("data", data)]
            {
                // A new object takes every field.
                let _ = Reflect::set(&answer, &name.into(), &value);
            }
            Ok(answer)
        })
    }

    /// Answers the call.
    pub fn answer(
        &self,
        status: u32,
        body: String,
        data: Option<Vec<u8>>,
        retry_after: Option<f64>,
    ) {
        let status = u16::try_from(status).unwrap_or(u16::MAX);
        let data = data.map(Into::into);
        send(&self.sender, Ok(ForeignAnswer { status, body, data, retry_after }));
    }

    /// Answers that there is no answer.
    pub fn fail(&self, reason: String) {
        send(&self.sender, Err(reason));
    }
}

/// A transport in JavaScript.
pub(crate) struct Calls(Callback);

impl Calls {
    pub(crate) fn new(callback: Function) -> Self {
        Self(SendWrapper::new(callback))
    }
}

#[async_trait]
impl ForeignTransport for Calls {
    async fn call(&self, call: ForeignCall) -> Result<ForeignAnswer, String> {
        ask(&self.0, |sender| PendingCall { call, sender }).await
    }
}
