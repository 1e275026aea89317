//! The stream of live updates over HTTP.

use futures::{StreamExt as _, TryStreamExt as _};
use http::StatusCode;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderValue};
use vfs_sync_core::id::ReplicaId;

use super::{HttpCall, HttpTransport, answer, malformed};
use crate::transport::error::Result;
use crate::transport::events::{EventParser, EventStream};

/// The media type of server-sent events.
const EVENTS: &str = "text/event-stream";

impl HttpTransport {
    /// Opens the stream of live updates. The transport's idle time-out ends a stream on which
    /// nothing comes.
    pub(super) async fn events(&self, client_id: &ReplicaId) -> Result<EventStream> {
        let mut url = self.url(&["crdt", "events"]);
        url.query_pairs_mut().append_pair("clientId", client_id.as_str());
        let mut call = HttpCall { timeout: None, ..self.get("events", url) };
        call.headers.insert(ACCEPT, HeaderValue::from_static(EVENTS));
        // A proxy that compresses may hold events back until it has a block of them.
        call.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let response = answer::check_status(call.name, self.send(&call).await?).await?;
        if response.status() != StatusCode::OK {
            let status = format!("is {}", response.status());
            return Err(malformed("events", "status", &status));
        }
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !media_type.is_some_and(|media_type| media_type.trim_start().starts_with(EVENTS)) {
            return Err(malformed("events", "Content-Type", "is not that of events"));
        }
        let bytes = response.bytes_stream().map_err(answer::network);
        let begin = (bytes, EventParser::new(), false);
        let events = futures::stream::unfold(begin, |(mut bytes, mut parser, over)| async move {
            if over {
                return None;
            }
            let events = match bytes.next().await? {
                Ok(bytes) => parser.push(&bytes),
                Err(error) => Err(error),
            };
            let over = events.is_err();
            let items = match events {
                Ok(events) => events.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            Some((futures::stream::iter(items), (bytes, parser, over)))
        });
        Ok(Box::pin(events.flatten()))
    }
}
