//! The connection to a server: one trait with one call, which tests and applications can implement
//! or wrap.

mod call;
mod error;
mod events;
mod ext;
mod http;

pub use call::{Answer, BatchFile, ByteStream, Call, CallKind, PullQuery, Transport};
pub use error::{Result, TransportError};
pub use events::{EventParser, EventStream, LiveEvent};
pub use ext::TransportExt;
pub use http::answer::read_answer;
pub use http::blobs::read_blobs_answer;
pub(crate) use http::is_loopback;
pub use http::meant_for::{MeantFor, token_subject};
#[cfg(target_family = "wasm")]
pub use http::net::{Fetch, FetchRequest, FetchResponse, PageFetch};
#[cfg(not(target_family = "wasm"))]
pub use http::probe::{Probe, ProbeAnswer, ProbeStep, Probed};
#[cfg(not(target_family = "wasm"))]
pub use http::sign_in::NotRenewed;
pub use http::{
    HttpConfig, HttpTransport, StaticToken, TokenProvider, batch_request, batch_results,
};
