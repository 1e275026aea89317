//! The page's `fetch`: JavaScript gets each request as an object, and answers with status and
//! headers, then with the chunks of the body as they are asked for.

use std::sync::{Mutex, PoisonError};
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use js_sys::{Function, Uint8Array};
use send_wrapper::SendWrapper;
use vfs_sync_ffi::{Fetch, FetchRequest, FetchResponse, PageFetch};
use wasm_bindgen::prelude::*;

use crate::callback::{Callback, Sender, ask, send};

/// The functions by which a request is given up and its body is read.
struct Handle {
    /// Gives up the request.
    abort: Callback,
    /// Called with a [`PendingChunk`] for each next chunk.
    pull: Callback,
    /// True once there is nothing left to give up.
    over: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.over {
            // A page that cannot give it up gets an answer that nobody reads.
            let _ = self.abort.call0(&JsValue::NULL);
        }
    }
}

struct Head {
    status: u16,
    headers: Vec<(String, String)>,
    pull: Callback,
}

/// A request for the page's `fetch`.
#[wasm_bindgen]
pub struct PendingFetch {
    request: FetchRequest,
    abort: Mutex<Option<tokio::sync::oneshot::Sender<Callback>>>,
    sender: Sender<Head>,
}

#[wasm_bindgen]
impl PendingFetch {
    /// Returns the method.
    #[wasm_bindgen(getter)]
    pub fn method(&self) -> String {
        self.request.method.clone()
    }

    /// Returns the URL.
    #[wasm_bindgen(getter)]
    pub fn url(&self) -> String {
        self.request.url.clone()
    }

    /// Returns the headers: each name, then its value.
    #[wasm_bindgen(getter)]
    pub fn headers(&self) -> Vec<String> {
        let headers = self.request.headers.iter();
        headers.flat_map(|(name, value)| [name.clone(), value.clone()]).collect()
    }

    /// Returns the body, or `null`.
    #[wasm_bindgen(getter)]
    pub fn body(&self) -> JsValue {
        self.request.body.as_ref().map_or(JsValue::NULL, |bytes| Uint8Array::from(&**bytes).into())
    }

    /// Names the function that gives up the request.
    #[wasm_bindgen(js_name = onAbort)]
    pub fn on_abort(&self, abort: Function) {
        let sender = self.abort.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(sender.map(|sender| sender.send(SendWrapper::new(abort))));
    }

    /// Answers with the status, the headers (each name, then its value), and the function that is
    /// called for each chunk.
    pub fn answer(&self, status: u16, headers: Vec<String>, pull: Function) {
        let mut headers = headers.into_iter();
        let pairs = std::iter::from_fn(|| Some((headers.next()?, headers.next()?))).collect();
        let pull = SendWrapper::new(pull);
        send(&self.sender, Ok(Head { status, headers: pairs, pull }));
    }

    /// Answers that there is no answer.
    pub fn fail(&self, reason: String) {
        send(&self.sender, Err(reason));
    }
}

/// A request for the next chunk of a body.
#[wasm_bindgen]
pub struct PendingChunk {
    sender: Sender<Option<Bytes>>,
}

#[wasm_bindgen]
impl PendingChunk {
    /// Answers with a chunk; nothing means the end.
    pub fn resolve(&self, chunk: Option<Vec<u8>>) {
        send(&self.sender, Ok(chunk.map(Bytes::from)));
    }

    /// Answers that the body broke off.
    pub fn fail(&self, reason: String) {
        send(&self.sender, Err(reason));
    }
}

/// The `fetch` of a page.
pub(crate) struct CallingFetch(Callback);

impl CallingFetch {
    pub(crate) fn shared(callback: Function) -> PageFetch {
        PageFetch::new(Self(SendWrapper::new(callback)))
    }
}

#[async_trait]
impl Fetch for CallingFetch {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchResponse, String> {
        let (sender, mut aborts) = tokio::sync::oneshot::channel();
        let mut answer = Box::pin(ask(&self.0, |answer| {
            let abort = Mutex::new(Some(sender));
            PendingFetch { request, abort, sender: answer }
        }));
        // The page is called, and names the end of the request, before there is an answer.
        let early = futures::poll!(&mut answer);
        let abort = aborts.try_recv().map_err(|_| "the page names no end of a request")?;
        let nothing = SendWrapper::new(Function::default());
        let mut handle = Handle { abort, pull: nothing, over: false };
        let head = match early {
            Poll::Ready(head) => head,
            Poll::Pending => answer.await,
        };
        handle.over = head.is_err();
        let Head { status, headers, pull } = head?;
        handle.pull = pull;
        let body = futures::stream::unfold(handle, |mut handle| async move {
            if handle.over {
                return None;
            }
            let asked = ask(&handle.pull, |sender| PendingChunk { sender });
            let chunk = asked.await;
            handle.over = !matches!(chunk, Ok(Some(_)));
            match chunk {
                Ok(chunk) => Some((Ok(chunk?), handle)),
                Err(reason) => Some((Err(std::io::Error::other(reason)), handle)),
            }
        });
        Ok(FetchResponse { status, headers, body: Box::pin(body) })
    }
}
