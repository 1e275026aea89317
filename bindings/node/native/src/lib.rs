//! The native part of `@vfs-sync/client`. Its TypeScript part gives these calls their names, types
//! and errors; an error that is thrown here has the JSON of the failure as its message.

mod callback;

use std::sync::Arc;

use napi::bindgen_prelude::{Buffer, Env, Function, PromiseRaw};
use napi_derive::napi;
use vfs_sync_ffi::{
    Cancellation, Client, ClientOptions, ContentReader, ContentWriter, Error, PutOptions, Server,
    Subscription, TokenProvider,
};

use callback::{Calls, PendingCall, PendingToken, Tokens};

/// Converts a failure to an error of Node's, whose message is the JSON of the failure.
fn thrown(error: Error) -> napi::Error {
    napi::Error::from_reason(serde_json::to_string(&error).unwrap_or(error.message))
}

/// Makes a promise of a call that has begun.
fn promise<'env, T>(
    env: &'env Env,
    call: impl Future<Output = vfs_sync_ffi::Result<T>> + Send + 'static,
) -> napi::Result<PromiseRaw<'env, T>>
where
    T: napi::bindgen_prelude::ToNapiValue + Send + 'static,
{
    env.spawn_future(async move { call.await.map_err(thrown) })
}

/// A means to cancel calls.
#[napi]
#[derive(Default)]
pub struct NativeCancellation {
    inner: Cancellation,
}

#[napi]
impl NativeCancellation {
    /// Creates a cancellation that is not used yet.
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels the calls that have it.
    #[napi(catch_unwind)]
    pub fn cancel(&self) {
        self.inner.cancel();
    }
}

fn cancellation(cancel: Option<&NativeCancellation>) -> Option<Cancellation> {
    cancel.map(|cancel| cancel.inner.clone())
}

/// A client with its replica.
#[napi]
pub struct NativeClient {
    inner: Client,
}

/// Opens a client over HTTP, or over a transport in JavaScript, or over HTTP behind one.
#[napi(catch_unwind)]
pub fn open<'env>(
    env: &'env Env,
    options: String,
    tokens: Option<Function<'_, PendingToken, ()>>,
    transport: Option<Function<'_, PendingCall, ()>>,
) -> napi::Result<PromiseRaw<'env, NativeClient>> {
    let options = ClientOptions::parse(&options).map_err(thrown)?;
    let tokens = tokens.map(Tokens::new).transpose()?;
    let tokens = tokens.map(|tokens| Box::new(tokens) as Box<dyn TokenProvider>);
    let server = match (tokens, transport) {
        (Some(tokens), Some(transport)) => Server::Around(tokens, Arc::new(Calls::new(transport)?)),
        (Some(tokens), None) => Server::Http(tokens),
        (None, Some(transport)) => Server::Foreign(Arc::new(Calls::new(transport)?)),
        (None, None) => {
            let missing = "neither `token` nor `transport` is given: one of them is needed";
            return Err(thrown(Error::invalid(missing)));
        }
    };
    let opening = Client::open(options, server);
    promise(env, async move { Ok(NativeClient { inner: opening.await? }) })
}

#[napi]
impl NativeClient {
    /// Makes a call that reads the replica.
    #[napi(catch_unwind)]
    pub fn read(&self, call: String) -> napi::Result<String> {
        self.inner.read(&call).map_err(thrown)
    }

    /// Makes a call that writes the replica.
    #[napi(catch_unwind)]
    pub fn write<'env>(
        &self,
        env: &'env Env,
        call: String,
    ) -> napi::Result<PromiseRaw<'env, String>> {
        promise(env, self.inner.write(&call))
    }

    /// Makes a call that may need the server.
    #[napi(catch_unwind)]
    pub fn run<'env>(
        &self,
        env: &'env Env,
        call: String,
        cancel: Option<&NativeCancellation>,
    ) -> napi::Result<PromiseRaw<'env, String>> {
        promise(env, self.inner.run(&call, cancellation(cancel)))
    }

    /// Opens a stream.
    #[napi(catch_unwind)]
    pub fn subscribe(&self, stream: String) -> napi::Result<NativeSubscription> {
        let inner = self.inner.subscribe(&stream).map_err(thrown)?;
        Ok(NativeSubscription { inner })
    }

    /// Returns the JSON of the violations so far; removes them, if asked to.
    #[napi(catch_unwind)]
    pub fn violations(&self, take: bool) -> String {
        let violations = self.inner.violations();
        let all = if take { violations.take() } else { violations.list() };
        serde_json::to_string(&all).unwrap_or_default()
    }

    /// Stores a content of bytes for an item.
    #[napi(catch_unwind)]
    pub fn put<'env>(
        &self,
        env: &'env Env,
        options: String,
        bytes: Buffer,
    ) -> napi::Result<PromiseRaw<'env, String>> {
        let options = PutOptions::parse(&options).map_err(thrown)?;
        // The buffer is JavaScript's, which may change it during the call.
        let stored = self.inner.put(options, bytes.to_vec());
        promise(env, async move { Ok(stored.await?.to_string()) })
    }

    /// Opens a writer of a content of an item.
    #[napi(catch_unwind)]
    pub fn writer(&self, options: String) -> napi::Result<NativeWriter> {
        let options = PutOptions::parse(&options).map_err(thrown)?;
        let inner = self.inner.writer(options).map_err(thrown)?;
        Ok(NativeWriter { inner })
    }

    /// Opens the content of an item, or an earlier version of it.
    #[napi(catch_unwind)]
    pub fn reader<'env>(
        &self,
        env: &'env Env,
        item: String,
        version: Option<String>,
        cancel: Option<&NativeCancellation>,
    ) -> napi::Result<PromiseRaw<'env, NativeReader>> {
        let opening = self.inner.reader(item, version, cancellation(cancel));
        promise(env, async move { Ok(NativeReader { inner: opening.await? }) })
    }

    /// Moves the clock of a test's client.
    #[napi(catch_unwind)]
    pub fn advance_clock(&self, millis: i64) -> napi::Result<()> {
        self.inner.advance_clock(millis).map_err(thrown)
    }

    /// Closes the client and releases its replica.
    #[napi(catch_unwind)]
    pub fn close<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        promise(env, self.inner.close())
    }
}

/// A stream of values.
#[napi]
pub struct NativeSubscription {
    inner: Subscription,
}

#[napi]
impl NativeSubscription {
    /// Returns the next value as JSON; `null` means the end.
    #[napi(catch_unwind)]
    pub fn next<'env>(
        &self,
        env: &'env Env,
        cancel: Option<&NativeCancellation>,
    ) -> napi::Result<PromiseRaw<'env, Option<String>>> {
        promise(env, self.inner.next(cancellation(cancel)))
    }

    /// Ends the stream.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        self.inner.close();
    }
}

/// A content that is read.
#[napi]
pub struct NativeReader {
    inner: ContentReader,
}

#[napi]
impl NativeReader {
    /// Returns the size of the content in bytes.
    #[napi(getter, catch_unwind)]
    pub fn size(&self) -> f64 {
        // Exact up to 2^53 bytes, which no disk holds.
        self.inner.size() as f64
    }

    /// Returns the digest of the content.
    #[napi(getter, catch_unwind)]
    pub fn digest(&self) -> String {
        self.inner.digest().to_owned()
    }

    /// Reads the next bytes; none mean the end.
    #[napi(catch_unwind)]
    pub fn read<'env>(
        &self,
        env: &'env Env,
        at_most: u32,
    ) -> napi::Result<PromiseRaw<'env, Buffer>> {
        let at_most = usize::try_from(at_most).unwrap_or(usize::MAX);
        let reading = self.inner.read(at_most);
        promise(env, async move { Ok(Buffer::from(reading.await?)) })
    }

    /// Reads the rest of the bytes.
    #[napi(catch_unwind)]
    pub fn read_rest<'env>(
        &self,
        env: &'env Env,
        cancel: Option<&NativeCancellation>,
    ) -> napi::Result<PromiseRaw<'env, Buffer>> {
        let reading = self.inner.read_rest(cancellation(cancel));
        promise(env, async move { Ok(Buffer::from(reading.await?)) })
    }
}

/// A content that is written.
#[napi]
pub struct NativeWriter {
    inner: ContentWriter,
}

#[napi]
impl NativeWriter {
    /// Writes the next bytes.
    #[napi(catch_unwind)]
    pub fn write<'env>(&self, env: &'env Env, bytes: Buffer) -> napi::Result<PromiseRaw<'env, ()>> {
        promise(env, self.inner.write(bytes.to_vec()))
    }

    /// Queues the content.
    #[napi(catch_unwind)]
    pub fn finish<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, String>> {
        let finishing = self.inner.finish();
        promise(env, async move { Ok(finishing.await?.to_string()) })
    }

    /// Gives the content up.
    #[napi(catch_unwind)]
    pub fn abort(&self) {
        self.inner.abort();
    }
}
