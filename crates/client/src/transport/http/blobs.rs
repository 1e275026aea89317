//! Many small blobs in one answer: a line of JSON before the bytes of each.

use bytes::{Buf as _, Bytes, BytesMut};
use futures::StreamExt as _;
use http::StatusCode;
use vfs_sync_core::id::BlobId;
use vfs_sync_core::limits::{MAX_BLOB_BATCH_BYTES, MAX_INLINE_BLOB_BYTES};
use vfs_sync_core::wire::{BlobReadHead, BlobReadRequest};

use super::{HttpCall, HttpTransport, answer, malformed};
use crate::transport::error::{Result, TransportError};

const CALL: &str = "readBlobs";
/// The greatest size of a head: an error's message, and details that the client ignores.
const MAX_HEAD_BYTES: usize = 16 * 1024;

type Outcomes = Vec<Result<Bytes>>;

impl HttpTransport {
    pub(super) async fn read_blobs(&self, blobs: &[BlobId]) -> Result<Option<Outcomes>> {
        let request = BlobReadRequest { blob_ids: blobs.to_vec() };
        let call =
            HttpCall { timeout: None, ..self.post(CALL, &["blobs", "batch", "read"], &request) };
        let response = self.send(&call).await?;
        // A server from before this call.
        if [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(&response.status()) {
            return Ok(None);
        }
        let response = answer::check_status(CALL, response).await?;
        let mut bytes = Box::pin(self.stream(response));
        let mut parser =
            Parser { asked: blobs, outcomes: Vec::new(), rest: BytesMut::new(), read: 0 };
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk.map_err(|error| TransportError::network(error.to_string()))?;
            parser.feed(&chunk)?;
        }
        parser.finish().map(Some)
    }
}

/// Parses a complete answer to [`crate::TransportExt::read_blobs`], for custom transports: one
/// outcome for each of the `asked` blobs, in their order.
///
/// # Errors
/// [`TransportError::MalformedResponse`] if it is no such answer; [`TransportError::Network`] if it
/// ends too early.
pub fn read_blobs_answer(asked: &[BlobId], body: &[u8]) -> Result<Vec<Result<Bytes>>> {
    let mut parser = Parser { asked, outcomes: Vec::new(), rest: BytesMut::new(), read: 0 };
    parser.feed(body)?;
    parser.finish()
}

/// A parser of an answer as it arrives; it never holds more than the limits of an answer.
struct Parser<'a> {
    asked: &'a [BlobId],
    outcomes: Outcomes,
    rest: BytesMut,
    /// The number of bytes of content read so far.
    read: usize,
}

impl Parser<'_> {
    fn feed(&mut self, chunk: &[u8]) -> Result<()> {
        self.rest.extend_from_slice(chunk);
        while self.one()? {}
        Ok(())
    }

    /// Parses the next blob, if all of it has arrived.
    fn one(&mut self) -> Result<bool> {
        let Some(end) = self.rest.iter().take(MAX_HEAD_BYTES).position(|byte| *byte == b'\n')
        else {
            return match self.rest.len() >= MAX_HEAD_BYTES {
                true => Err(malformed(CALL, "head", "is longer than any")),
                false => Ok(false),
            };
        };
        let head: BlobReadHead = answer::parse(CALL, &self.rest[..end])?;
        if self.asked.get(self.outcomes.len()) != Some(&head.blob_id) {
            return Err(malformed(CALL, "blobId", "is not the next one asked for"));
        }
        let outcome = match (head.size, head.error) {
            (None, Some(error)) => {
                self.rest.advance(end + 1);
                Err(answer::refused(CALL, error.http_status, None, error.body))
            }
            (Some(size), None) => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                if size > MAX_INLINE_BLOB_BYTES || self.read + size > MAX_BLOB_BATCH_BYTES {
                    return Err(malformed(CALL, "size", "is more than such an answer may have"));
                }
                if self.rest.len() < end + 1 + size {
                    return Ok(false);
                }
                self.rest.advance(end + 1);
                self.read += size;
                Ok(self.rest.split_to(size).freeze())
            }
            _ => return Err(malformed(CALL, "head", "has neither size nor error, or both")),
        };
        self.outcomes.push(outcome);
        Ok(true)
    }

    fn finish(self) -> Result<Outcomes> {
        if self.rest.is_empty() && self.outcomes.len() == self.asked.len() {
            return Ok(self.outcomes);
        }
        Err(TransportError::network("an answer of several contents ended before its end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANSWER: &[u8] = b"{\"blobId\":\"a\",\"size\":3}\na\nb{\"blobId\":\"b\",\"error\":\
        {\"httpStatus\":404,\"error\":\"Gone\",\"code\":\"unknown_blob\"}}\n{\"blobId\":\"c\",\"size\":0}\n";

    fn parse(chunks: &[&[u8]]) -> Result<Outcomes> {
        let asked = ["a", "b", "c"].map(|id| BlobId::new(id).unwrap());
        let mut parser =
            Parser { asked: &asked, outcomes: Vec::new(), rest: BytesMut::new(), read: 0 };
        for chunk in chunks {
            parser.feed(chunk)?;
        }
        parser.finish()
    }

    #[test]
    fn an_answer_is_read_however_it_is_cut_into_chunks() {
        for at in 0..=ANSWER.len() {
            let (one, other) = ANSWER.split_at(at);
            let outcomes = parse(&[one, other]).unwrap();
            assert_eq!(outcomes[0].as_deref(), Ok(&b"a\nb"[..]));
            let refused = outcomes[1].as_ref().unwrap_err();
            assert!(matches!(refused, TransportError::Refused { status: 404, .. }), "{refused:?}");
            assert_eq!(outcomes[2].as_deref(), Ok(&b""[..]));
            if at < ANSWER.len() {
                assert!(parse(&[one]).unwrap_err().is_transient(), "cut at {at}");
            }
        }
    }

    #[test]
    fn an_answer_of_another_form_is_malformed() {
        for bad in [
            &b"{\"blobId\":\"b\",\"size\":0}\n"[..],
            b"{\"blobId\":\"a\",\"size\":1048577}\n",
            b"{\"blobId\":\"a\",\"size\":18446744073709551615}\n",
            b"{\"blobId\":\"a\"}\n",
            b"nothing\n",
            &[b'x'; MAX_HEAD_BYTES],
        ] {
            let error = parse(&[bad]).unwrap_err();
            assert!(matches!(error, TransportError::MalformedResponse { .. }), "{error:?}");
        }
        assert!(parse(&[ANSWER, b"more"]).is_err());
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&[&bytes]);
        }
    }
}
