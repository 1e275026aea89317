//! Resumable uploads by tus 1.0.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt as _;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use vfs_sync_core::id::StagingId;
use vfs_sync_core::wire::StageRequest;

use super::net::{Body, Response};
use super::{Gives, HttpCall, HttpTransport, answer, malformed};
use crate::host;
use crate::transport::call::ByteStream;
use crate::transport::error::{Result, TransportError};

const VERSION: HeaderValue = HeaderValue::from_static("1.0.0");

fn offset_of(call: &'static str, response: &Response) -> Result<u64> {
    let told = response.headers().get("Upload-Offset").and_then(|value| value.to_str().ok());
    let offset = told.and_then(|text| text.trim().parse().ok());
    offset.ok_or_else(|| malformed(call, "Upload-Offset", "is no number"))
}

fn metadata(stage: &StageRequest) -> String {
    let mut fields = vec![("blobId", stage.blob_id.as_str())];
    fields.extend(stage.staging_id.as_ref().map(|id| ("stagingId", id.as_str())));
    fields.extend(stage.content_type.as_deref().map(|kind| ("contentType", kind)));
    let told: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name} {}", STANDARD.encode(value))).collect();
    told.join(",")
}

impl HttpTransport {
    pub(super) async fn open_upload(&self, stage: &StageRequest, size: u64) -> Result<u64> {
        let call = "openUpload";
        let mut headers = HeaderMap::new();
        headers.insert("Tus-Resumable", VERSION);
        headers.insert("Upload-Length", size.into());
        let told = HeaderValue::try_from(metadata(stage))
            .map_err(|_| TransportError::TooLarge("the upload's names are too long".into()))?;
        headers.insert("Upload-Metadata", told);
        headers.insert(CONTENT_LENGTH, 0.into());
        let url = self.url(&["blobs", "uploads"]);
        let create = HttpCall { method: Method::POST, headers, ..self.get(call, url) };
        let response = answer::check_status(call, self.send(&create).await?).await?;
        if response.status() != StatusCode::CREATED {
            return Err(malformed(call, "status", "is not 201"));
        }
        let offset = offset_of(call, &response)?;
        if offset > size {
            return Err(malformed(call, "Upload-Offset", "is beyond the end"));
        }
        Ok(offset)
    }

    pub(super) async fn append(
        &self,
        staging_id: &StagingId,
        offset: u64,
        size: u64,
        data: ByteStream,
    ) -> Result<()> {
        let call = "append";
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        let data = data.inspect_ok(move |chunk| {
            counted.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        });
        let request = self
            .http
            .patch(self.url(&["blobs", "uploads", staging_id.as_str()]))
            .header("Tus-Resumable", VERSION)
            .header("Upload-Offset", offset)
            .header(CONTENT_LENGTH, size - offset)
            .header(CONTENT_TYPE, "application/offset+octet-stream")
            .body(Body::wrap_stream(data));
        let window = self.config.idle_timeout.max(self.config.request_timeout);
        let response = tokio::select! {
            biased;
            response = self.exchange(request, Gives::Data, false) => response?,
            () = stands_still(&sent, window) => {
                return Err(TransportError::network("the upload stands still"));
            }
        };
        if response.status() == StatusCode::UNAUTHORIZED {
            // It ran out on the way: the next call asks for another.
            return Err(TransportError::network("the token was refused in an upload"));
        }
        let response = answer::check_status(call, response).await?;
        if response.status() != StatusCode::NO_CONTENT {
            return Err(malformed(call, "status", "is not 204"));
        }
        if offset_of(call, &response)? != size {
            return Err(malformed(call, "Upload-Offset", "is not the end"));
        }
        Ok(())
    }
}

/// Returns once nothing more was read for the time `window`.
async fn stands_still(sent: &AtomicU64, window: Duration) {
    let mut before = None;
    loop {
        let now = sent.load(Ordering::Relaxed);
        if before == Some(now) {
            return;
        }
        before = Some(now);
        host::sleep(window).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_moves_is_left_alone_and_one_that_does_not_is_noticed() {
        let (sent, window) = (AtomicU64::new(0), Duration::from_secs(10));
        let moves = async {
            for _ in 0..100 {
                sent.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(9)).await;
            }
        };
        tokio::select! {
            () = stands_still(&sent, window) => panic!("it moves"),
            () = moves => {}
        }
        let noticed = tokio::time::timeout(3 * window, stands_still(&sent, window)).await;
        assert!(noticed.is_ok());
    }

    #[test]
    fn the_names_of_an_upload_are_told_as_tus_has_it() {
        let stage = StageRequest {
            staging_id: Some(StagingId::new("s").unwrap()),
            blob_id: vfs_sync_core::id::BlobId::new("b\u{fc}").unwrap(),
            expires_at: None,
            content_type: Some("text/plain".into()),
            data_base64: None,
        };
        let told = "blobId YsO8,stagingId cw==,contentType dGV4dC9wbGFpbg==";
        assert_eq!(metadata(&stage), told);
    }
}
