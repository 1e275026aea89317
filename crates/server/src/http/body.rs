//! Request bodies, limited in size (before and after decompression) and in time.

use std::io::Read as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, Sleep};
use vfs_sync_core::id::UserId;
use vfs_sync_core::problem::Problem;
use vfs_sync_core::wire::code;

use crate::admission::shares::{Share, Shares};
use crate::error::{ApiError, broken_source};

/// The greatest size of a body that is neither a push nor contains contents.
pub(crate) const MAX_JSON_BYTES: usize = 512 * 1024;
/// The largest window of a zstd frame, as a power of two: the limit of RFC 9659 for HTTP.
const MAX_WINDOW_LOG: u32 = 23;

/// The error of a byte stream, of any type.
pub(crate) type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// A stream of incoming bytes.
pub(crate) type Incoming = futures::stream::BoxStream<'static, Result<Bytes, SourceError>>;

/// An error: the peer sent nothing for too long.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the body came too slowly")]
pub(crate) struct Idle;

/// The least that a peer has to do while the server waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// The time of waiting in which a peer has to send or take the least.
    pub(crate) window: Duration,
    /// The least, in bytes.
    pub(crate) least: u64,
}

/// The unit in which memory is shared, in bytes.
const MEMORY_UNIT: usize = 1024;

/// Returns the units of memory that `bytes` take.
pub(crate) const fn memory_units(bytes: usize) -> usize {
    bytes.div_ceil(MEMORY_UNIT)
}

/// The memory that grows with received bytes, as the user's share.
pub(crate) struct Received {
    share: Share,
    bytes: usize,
}

impl Received {
    pub(crate) fn new(memory: &Shares, user: &UserId) -> Result<Self, ApiError> {
        Ok(Self { share: memory.try_take(user, 0)?, bytes: 0 })
    }

    /// Counts `bytes` more as received.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), ApiError> {
        let all = self.bytes.saturating_add(bytes);
        self.share.grow(memory_units(all).saturating_sub(self.share.units()))?;
        self.bytes = all;
        Ok(())
    }

    /// Counts no more than `bytes`.
    fn shrink_to(&mut self, bytes: usize) {
        self.bytes = bytes;
        self.share.shrink_to(memory_units(bytes));
    }
}

/// A body in memory, with the user's share of the memory.
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    memory: Received,
}

impl Held {
    /// Drops the bytes, and keeps the share for what was made of them.
    pub(crate) fn into_memory(self) -> Received {
        self.memory
    }
}

/// The limits and encodings for reading a body of a user.
pub(crate) struct Reader<'a> {
    pub(crate) memory: &'a Shares,
    pub(crate) user: &'a UserId,
    pub(crate) pace: Pace,
}

impl Reader<'_> {
    /// Reads a JSON body of at most `max` bytes once decompressed.
    pub(crate) async fn json_bytes(
        &self,
        headers: &HeaderMap,
        body: Body,
        max: usize,
    ) -> Result<Held, ApiError> {
        check_json(headers)?;
        let coding = Coding::of(headers)?;
        let mut memory = Received::new(self.memory, self.user)?;
        let mut received = BytesMut::new();
        let mut chunks = std::pin::pin!(timed(body, self.pace));
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| broken_source(&error))?;
            if received.len() + chunk.len() > max {
                return Err(too_large(max));
            }
            memory.add(chunk.len())?;
            received.extend_from_slice(&chunk);
        }
        let bytes = match coding {
            Coding::Identity => received.freeze(),
            coding => {
                memory.add(max)?;
                let decoded = coding.decode(&received, max)?;
                memory.shrink_to(decoded.len());
                decoded.into()
            }
        };
        Ok(Held { bytes, memory })
    }

    /// Reads and parses a JSON body of at most `max` bytes; what is made of it takes the memory that
    /// comes with it.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        headers: &HeaderMap,
        body: Body,
        max: usize,
    ) -> Result<(T, Received), ApiError> {
        let held = self.json_bytes(headers, body, max).await?;
        Ok((parse(&held.bytes)?, held.into_memory()))
    }
}

/// Returns the chunks of a body, whose peer keeps at least `pace`.
pub(crate) fn timed(
    body: Body,
    pace: Pace,
) -> impl Stream<Item = Result<Bytes, SourceError>> + Send {
    Timed {
        chunks: Some(body.into_data_stream()),
        pace,
        waited: Duration::ZERO,
        came: 0,
        since: None,
        alarm: None,
    }
}

/// The chunks of a body. Only the time counts in which the server waits for one.
struct Timed {
    /// The source; `None` once it ended.
    chunks: Option<BodyDataStream>,
    pace: Pace,
    /// The time of waiting since the peer last sent enough, without that since `since`.
    waited: Duration,
    /// The bytes that came in that time.
    came: u64,
    /// The time since which the next chunk is waited for.
    since: Option<Instant>,
    /// A timer that ends at the end of the window or before it. It is set again only when it ends:
    /// chunks come in thousands, and the end only ever moves to a later time.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    fn received(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
        self.came = self.came.saturating_add(bytes as u64);
        if self.came >= self.pace.least {
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
    }

    /// Completes at the end of the window.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let end = since + self.pace.window.saturating_sub(self.waited);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        loop {
            ready!(alarm.as_mut().poll(context));
            if alarm.deadline() >= end {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(end);
        }
    }
}

impl Stream for Timed {
    type Item = Result<Bytes, SourceError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, SourceError>>> {
        let Some(chunks) = &mut self.chunks else { return Poll::Ready(None) };
        let next = match Pin::new(chunks).poll_next(context) {
            Poll::Ready(Some(Ok(chunk))) => {
                self.received(chunk.len());
                return Poll::Ready(Some(Ok(chunk)));
            }
            Poll::Ready(Some(Err(error))) => Some(Err(error.into())),
            Poll::Ready(None) => None,
            Poll::Pending => {
                ready!(self.poll_end(context));
                Some(Err(Idle.into()))
            }
        };
        self.chunks = None;
        Poll::Ready(next)
    }
}

fn too_large(max: usize) -> ApiError {
    ApiError::too_large(format!("The body has at most {max} bytes, decompressed"))
        .with("maxBytes", max)
}

fn unsupported(sentence: &'static str) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", sentence)
}

fn check_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(unsupported("The Content-Type must be application/json"))
}

/// Rejects a body that must be stored unchanged, but is compressed or partial.
pub(crate) fn check_plain(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key(http::header::CONTENT_RANGE) {
        return Err(ApiError::invalid("Content-Range", "is not taken: send the whole content"));
    }
    match Coding::of(headers)? {
        Coding::Identity => Ok(()),
        _ => Err(unsupported("Contents are taken as they are: send no Content-Encoding")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Zstd,
    Gzip,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut given = headers.get_all(CONTENT_ENCODING).iter();
        let Some(first) = given.next() else { return Ok(Self::Identity) };
        match (first.as_bytes().trim_ascii().to_ascii_lowercase().as_slice(), given.next()) {
            (b"identity", None) => Ok(Self::Identity),
            (b"zstd", None) => Ok(Self::Zstd),
            (b"gzip" | b"x-gzip", None) => Ok(Self::Gzip),
            _ => Err(unsupported("The Content-Encoding must be zstd or gzip, once")),
        }
    }

    /// Decompresses at most `max` bytes, regardless of the size that the body claims.
    fn decode(self, body: &[u8], max: usize) -> Result<Vec<u8>, ApiError> {
        let mut decoded = Vec::with_capacity(body.len().saturating_mul(4).min(max));
        let limit = max as u64 + 1;
        let read = match self {
            Self::Identity => body.take(limit).read_to_end(&mut decoded),
            Self::Gzip => {
                flate2::bufread::MultiGzDecoder::new(body).take(limit).read_to_end(&mut decoded)
            }
            Self::Zstd => zstd::stream::read::Decoder::with_buffer(body).and_then(|mut decoder| {
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                decoder.take(limit).read_to_end(&mut decoded)
            }),
        };
        if decoded.len() > max {
            return Err(too_large(max));
        }
        let sentence = "The body does not match its Content-Encoding";
        let refused = |_| ApiError::new(StatusCode::BAD_REQUEST, code::INVALID_REQUEST, sentence);
        read.map_err(refused)?;
        Ok(decoded)
    }
}

/// Parses JSON; an error names the field.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, ApiError> {
    // Serde would take an array for a struct's fields in their order.
    if json.trim_ascii_start().first() == Some(&b'[') {
        return Err(ApiError::invalid("the body", "is malformed: it must be an object"));
    }
    let mut source = serde_json::Deserializer::from_slice(json);
    let parsed = serde_path_to_error::deserialize(&mut source).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "the body" } else { &path };
        match Problem::of::<T>(json) {
            Some(Problem::Cursor) => ApiError::invalid_cursor(field),
            Some(Problem::Missing(name)) if path == "." => ApiError::invalid(name, "is missing"),
            Some(Problem::Missing(name)) => {
                ApiError::invalid(&format!("{path}.{name}"), "is missing")
            }
            _ => ApiError::invalid(field, format_args!("is malformed: {}", error.inner())),
        }
    })?;
    source
        .end()
        .map_err(|error| ApiError::invalid("the body", format_args!("goes on: {error}")))?;
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use vfs_sync_core::wire::ReconcileRequest;

    /// Reads a body of chunks that come after these seconds and have these bytes; returns how many
    /// came, whether the peer was too slow, and the seconds that it took.
    async fn paced(chunks: &'static [(u64, usize)]) -> (usize, bool, u64) {
        let source = futures::stream::iter(chunks).then(|(seconds, bytes)| async move {
            tokio::time::sleep(Duration::from_secs(*seconds)).await;
            Ok::<_, Infallible>(Bytes::from(vec![0; *bytes]))
        });
        let pace = Pace { window: Duration::from_secs(30), least: 100 };
        let began = Instant::now();
        let came: Vec<_> = timed(Body::from_stream(source), pace).collect().await;
        let slow = came.last().is_some_and(Result::is_err);
        (came.iter().filter(|chunk| chunk.is_ok()).count(), slow, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_ends_when_too_little_comes_in_the_window() {
        assert_eq!(paced(&[(0, 1), (29, 99), (29, 50), (29, 1)]).await, (3, true, 59));
        assert_eq!(paced(&[(29, 100), (29, 100), (10, 1), (10, 1), (11, 98)]).await, (4, true, 88));
        assert_eq!(paced(&[(10, 50), (10, 50), (29, 100), (29, 100)]).await, (4, false, 78));
        assert_eq!(paced(&[(0, 100), (31, 100)]).await, (1, true, 30));
        assert_eq!(paced(&[]).await, (0, false, 0));
    }

    fn parsed(json: &str) -> ApiError {
        parse::<ReconcileRequest>(json.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_malformed_body_is_told_by_its_field() {
        let error = parsed(r#"{"clientId": "a:b", "cursor": "x"}"#);
        assert_eq!(error.details["field"], "clientId");
        assert!(error.error.contains("must not contain ':'"), "{}", error.error);
        let error = parsed(r#"{"clientId": "a", "cursor": "x"}"#);
        assert_eq!((&*error.error, error.code), ("Invalid cursor", code::INVALID_CURSOR));
        let error = parsed(r#"{"clientId": "a"}"#);
        assert_eq!(
            (&*error.error, &error.details["field"]),
            ("cursor is missing", &"cursor".into())
        );
        assert_eq!(parsed("[").details["field"], "the body");
    }

    #[test]
    fn a_body_that_grows_beyond_the_limit_is_cut_short() {
        let zeros = vec![b' '; 50_000_000];
        let packed = zstd::bulk::compress(&zeros, 3).unwrap();
        assert!(packed.len() < 10_000);
        let error = Coding::Zstd.decode(&packed, 1_000_000).unwrap_err();
        assert_eq!(error.status, StatusCode::PAYLOAD_TOO_LARGE);
        let exact = zstd::bulk::compress(&zeros[..1_000_000], 3).unwrap();
        assert_eq!(Coding::Zstd.decode(&exact, 1_000_000).unwrap().len(), 1_000_000);
    }

    proptest! {
        #[test]
        fn no_body_makes_a_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            for (coding, magic) in [
                (Coding::Zstd, &[0x28, 0xb5, 0x2f, 0xfd][..]),
                (Coding::Gzip, &[0x1f, 0x8b, 0x08][..]),
            ] {
                let _ = coding.decode(&[magic, &body].concat(), 1_000);
            }
            let _ = parse::<ReconcileRequest>(&body);
        }
    }

    #[test]
    fn a_body_that_is_not_what_it_says_is_refused() {
        for coding in [Coding::Zstd, Coding::Gzip] {
            let error = coding.decode(b"{}", 100).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
            assert_eq!(coding.decode(&[0; 10], 100).unwrap_err().status, StatusCode::BAD_REQUEST);
        }
    }
}
