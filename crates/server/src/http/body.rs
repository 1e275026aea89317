//! Request bodies, limited in size (before and after decompression) and in time.

use std::io::Read as _;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use vfs_sync_core::id::UserId;
use vfs_sync_core::problem::Problem;
use vfs_sync_core::wire::code;

use crate::error::{ApiError, broken_source};
use crate::shares::{Share, Shares};

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
    let start = (body.into_data_stream(), Duration::ZERO, 0_u64);
    futures::stream::unfold(Some(start), move |state| async move {
        let (mut chunks, mut waited, mut came) = state?;
        let began = Instant::now();
        let left = pace.window.saturating_sub(waited);
        match tokio::time::timeout(left, chunks.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(chunk))) => {
                waited += began.elapsed();
                came = came.saturating_add(chunk.len() as u64);
                if came >= pace.least {
                    (waited, came) = (Duration::ZERO, 0);
                }
                Some((Ok(chunk), Some((chunks, waited, came))))
            }
            Ok(Some(Err(error))) => Some((Err(error.into()), None)),
            Err(_) => Some((Err(Idle.into()), None)),
        }
    })
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
    use proptest::prelude::*;

    use super::*;
    use vfs_sync_core::wire::ReconcileRequest;

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
