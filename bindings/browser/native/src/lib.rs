//! The WebAssembly part of `@vfs-sync/browser`. Its TypeScript part gives these calls their names,
//! types and errors; an error that is thrown here has the JSON of the failure as its message.
#![cfg(target_family = "wasm")]

mod callback;
mod fetch;

use std::sync::Arc;

use js_sys::{Error as JsError, Function, Promise};
use vfs_sync_ffi::{
    Cancellation, Client, ClientOptions, ContentReader, ContentWriter, Error, PutOptions, Server,
    Subscription, TokenProvider,
};
use wasm_bindgen::prelude::*;

use callback::{Calls, Tokens};
use fetch::CallingFetch;

type Result<T> = std::result::Result<T, JsError>;

/// Converts a failure to an error of JavaScript, whose message is the JSON of the failure.
fn thrown(error: Error) -> JsError {
    JsError::new(&serde_json::to_string(&error).unwrap_or(error.message))
}

/// Makes a promise of a call that has begun.
fn promise<T: Into<JsValue>>(
    call: impl Future<Output = vfs_sync_ffi::Result<T>> + 'static,
) -> Promise {
    wasm_bindgen_futures::future_to_promise(async move {
        call.await.map(Into::into).map_err(|error| thrown(error).into())
    })
}

/// Has a function called with the text of a panic, after which nothing here can be used any more.
#[wasm_bindgen(js_name = onPanic)]
pub fn on_panic(callback: Function) {
    let callback = send_wrapper::SendWrapper::new(callback);
    std::panic::set_hook(Box::new(move |panic| {
        let text = JsValue::from(format!("the call panicked, which is a bug: {panic}"));
        // A page that fails to hear of it gets the error of the call itself.
        let _ = callback.call1(&JsValue::NULL, &text);
    }));
}

/// A means to cancel calls.
#[wasm_bindgen]
#[derive(Default)]
pub struct NativeCancellation {
    inner: Cancellation,
}

#[wasm_bindgen]
impl NativeCancellation {
    /// Creates a cancellation that is not used yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels the calls that have it.
    pub fn cancel(&self) {
        self.inner.cancel();
    }
}

/// A client with its replica.
#[wasm_bindgen]
pub struct NativeClient {
    inner: Client,
}

/// Opens a client over the page's `fetch`, or over a transport in JavaScript, or over `fetch` behind
/// one.
#[wasm_bindgen]
pub fn open(
    options: String,
    fetch: Function,
    tokens: Option<Function>,
    transport: Option<Function>,
) -> Result<Promise> {
    let mut options = ClientOptions::parse(&options).map_err(thrown)?;
    options.fetch = Some(CallingFetch::shared(fetch));
    let tokens = tokens.map(|tokens| Box::new(Tokens::new(tokens)) as Box<dyn TokenProvider>);
    let transport = transport.map(|transport| Arc::new(Calls::new(transport)));
    let server = match (tokens, transport) {
        (Some(tokens), Some(transport)) => Server::Around(tokens, transport),
        (Some(tokens), None) => Server::Http(tokens),
        (None, Some(transport)) => Server::Foreign(transport),
        (None, None) => {
            let missing = "neither `token` nor `transport` is given: one of them is needed";
            return Err(thrown(Error::invalid(missing)));
        }
    };
    let opening = Client::open(options, server);
    Ok(promise(async move { Ok(NativeClient { inner: opening.await? }) }))
}

#[wasm_bindgen]
impl NativeClient {
    /// Makes a call that reads the replica.
    pub fn read(&self, call: &str) -> Result<String> {
        self.inner.read(call).map_err(thrown)
    }

    /// Makes a call that writes the replica.
    pub fn write(&self, call: &str) -> Promise {
        promise(self.inner.write(call))
    }

    /// Makes a call that may need the server.
    pub fn run(&self, call: &str, cancel: &NativeCancellation) -> Promise {
        promise(self.inner.run(call, Some(cancel.inner.clone())))
    }

    /// Opens a stream.
    pub fn subscribe(&self, stream: &str) -> Result<NativeSubscription> {
        let inner = self.inner.subscribe(stream).map_err(thrown)?;
        Ok(NativeSubscription { inner })
    }

    /// Returns the JSON of the violations so far; removes them, if asked to.
    pub fn violations(&self, take: bool) -> String {
        let violations = self.inner.violations();
        let all = if take { violations.take() } else { violations.list() };
        serde_json::to_string(&all).unwrap_or_default()
    }

    /// Stores a content of bytes for an item.
    pub fn put(&self, options: &str, bytes: Vec<u8>) -> Result<Promise> {
        let options = PutOptions::parse(options).map_err(thrown)?;
        let stored = self.inner.put(options, bytes);
        Ok(promise(async move { Ok(stored.await?.to_string()) }))
    }

    /// Opens a writer of a content of an item.
    pub fn writer(&self, options: &str) -> Result<NativeWriter> {
        let options = PutOptions::parse(options).map_err(thrown)?;
        let inner = self.inner.writer(options).map_err(thrown)?;
        Ok(NativeWriter { inner })
    }

    /// Opens the content of an item, or an earlier version of it.
    pub fn reader(
        &self,
        item: String,
        version: Option<String>,
        cancel: &NativeCancellation,
    ) -> Promise {
        let opening = self.inner.reader(item, version, Some(cancel.inner.clone()));
        promise(async move { Ok(NativeReader { inner: opening.await? }) })
    }

    /// Moves the clock of a test's client.
    #[wasm_bindgen(js_name = advanceClock)]
    pub fn advance_clock(&self, millis: f64) -> Result<()> {
        self.inner.advance_clock(millis as i64).map_err(thrown)
    }

    /// Closes the client and releases its replica.
    pub fn close(&self) -> Promise {
        let closing = self.inner.close();
        promise(async move { closing.await.map(|()| JsValue::UNDEFINED) })
    }
}

/// A stream of values.
#[wasm_bindgen]
pub struct NativeSubscription {
    inner: Subscription,
}

#[wasm_bindgen]
impl NativeSubscription {
    /// Returns the next value as JSON; nothing means the end.
    pub fn next(&self, cancel: &NativeCancellation) -> Promise {
        promise(self.inner.next(Some(cancel.inner.clone())))
    }

    /// Ends the stream.
    pub fn close(&self) {
        self.inner.close();
    }
}

/// A content that is read.
#[wasm_bindgen]
pub struct NativeReader {
    inner: ContentReader,
}

#[wasm_bindgen]
impl NativeReader {
    /// Returns the size of the content in bytes.
    #[wasm_bindgen(getter)]
    pub fn size(&self) -> f64 {
        // Exact up to 2^53 bytes, which no page holds.
        self.inner.size() as f64
    }

    /// Returns the digest of the content.
    #[wasm_bindgen(getter)]
    pub fn digest(&self) -> String {
        self.inner.digest().to_owned()
    }

    /// Reads the next bytes; none mean the end.
    pub fn read(&self, at_most: u32) -> Promise {
        let at_most = usize::try_from(at_most).unwrap_or(usize::MAX);
        let reading = self.inner.read(at_most);
        promise(async move { Ok(js_sys::Uint8Array::from(&*reading.await?)) })
    }

    /// Reads the rest of the bytes.
    #[wasm_bindgen(js_name = readRest)]
    pub fn read_rest(&self, cancel: &NativeCancellation) -> Promise {
        let reading = self.inner.read_rest(Some(cancel.inner.clone()));
        promise(async move { Ok(js_sys::Uint8Array::from(&*reading.await?)) })
    }
}

/// A content that is written.
#[wasm_bindgen]
pub struct NativeWriter {
    inner: ContentWriter,
}

#[wasm_bindgen]
impl NativeWriter {
    /// Writes the next bytes.
    pub fn write(&self, bytes: Vec<u8>) -> Promise {
        let writing = self.inner.write(bytes);
        promise(async move { writing.await.map(|()| JsValue::UNDEFINED) })
    }

    /// Queues the content.
    pub fn finish(&self) -> Promise {
        let finishing = self.inner.finish();
        promise(async move { Ok(finishing.await?.to_string()) })
    }

    /// Gives the content up.
    pub fn abort(&self) {
        self.inner.abort();
    }
}
