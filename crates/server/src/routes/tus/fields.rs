//! The header fields of the tus protocol.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, StatusCode};
use sha2::Digest as _;
use vfs_sync_core::id::{BlobId, StagingId, to_path_step};
use vfs_sync_core::server::stage::StageRow;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::code;

use super::{UPLOAD_DEFER_LENGTH, UPLOAD_LENGTH, UPLOAD_METADATA};
use crate::error::ApiError;

const UPLOAD_CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
const MAX_METADATA_BYTES: usize = 8 * 1024;
/// The greatest number accepted in a header; larger ones exceed every limit anyway.
const MAX_NUMBER: u64 = i64::MAX as u64;

/// Parses a numeric field, if it is present.
pub(super) fn number(
    headers: &HeaderMap,
    name: &HeaderName,
    field: &str,
) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let number = digits.and_then(|text| text.parse::<u64>().ok());
    number
        .filter(|number| *number <= MAX_NUMBER)
        .map(Some)
        .ok_or_else(|| ApiError::invalid(field, "must be a number of bytes"))
}

/// Parses the length of a new upload; `None` if the client sends it later.
pub(super) fn length_to_be(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let length = number(headers, &UPLOAD_LENGTH, "Upload-Length")?;
    match (length, headers.get(UPLOAD_DEFER_LENGTH).map(|value| value.as_bytes())) {
        (Some(_), None) => Ok(length),
        (None, Some(b"1")) => Ok(None),
        (None, None) => Err(ApiError::invalid("Upload-Length", "is missing")),
        (Some(_), Some(_)) => {
            Err(ApiError::invalid("Upload-Defer-Length", "contradicts Upload-Length"))
        }
        (None, Some(_)) => Err(ApiError::invalid("Upload-Defer-Length", "must be 1")),
    }
}

/// The upload metadata that a client sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) staging_id: Option<StagingId>,
    pub(super) blob_id: Option<BlobId>,
    pub(super) content_type: Option<String>,
    /// The header's value as the client sent it.
    text: String,
}

impl Metadata {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let field = "Upload-Metadata";
        let Some(value) = headers.get(UPLOAD_METADATA) else { return Ok(Self::default()) };
        let text = value.to_str().map_err(|_| ApiError::invalid(field, "must be ASCII"))?;
        if text.len() > MAX_METADATA_BYTES {
            let problem = format_args!("has at most {MAX_METADATA_BYTES} bytes");
            return Err(ApiError::invalid(field, problem));
        }
        let mut found = Self { text: text.trim().to_owned(), ..Self::default() };
        let mut keys = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
            if keys.contains(&key) {
                return Err(ApiError::invalid(field, "has a key twice"));
            }
            keys.push(key);
            let malformed = |problem: &dyn std::fmt::Display| {
                ApiError::invalid(&format!("{field}: {key}"), problem)
            };
            let value = STANDARD.decode(value).map_err(|error| malformed(&error))?;
            if !matches!(key, "stagingId" | "blobId" | "contentType") {
                continue;
            }
            let value = String::from_utf8(value).map_err(|error| malformed(&error))?;
            match key {
                "stagingId" => {
                    let id = StagingId::new(value).map_err(|error| malformed(&error))?;
                    found.staging_id = Some(id);
                }
                "blobId" => {
                    found.blob_id = Some(BlobId::new(value).map_err(|error| malformed(&error))?);
                }
                _ => found.content_type = Some(value),
            }
        }
        Ok(found)
    }

    /// Returns the client's metadata, completed by the ids that the server chose.
    pub(super) fn completed(&self, stage: &StageRow) -> String {
        let mut text = self.text.clone();
        let mut add = |key: &str, value: &str| {
            let comma = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{comma}{key} {}", STANDARD.encode(value));
        };
        if self.staging_id.is_none() {
            add("stagingId", stage.staging_id.as_str());
        }
        if self.blob_id.is_none() {
            add("blobId", stage.blob_id.as_str());
        }
        if let (None, Some(kind)) = (&self.content_type, &stage.content_type) {
            add("contentType", kind);
        }
        text
    }
}

/// The checksum of a request's bytes.
pub(super) struct Checksum {
    hash: Hash,
    expected: Vec<u8>,
}

enum Hash {
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Checksum {
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let field = "Upload-Checksum";
        let Some(value) = headers.get(UPLOAD_CHECKSUM) else { return Ok(None) };
        let malformed = || ApiError::invalid(field, "must be an algorithm and base64");
        let text = value.to_str().map_err(|_| malformed())?;
        let (algorithm, digest) = text.trim().split_once(' ').ok_or_else(malformed)?;
        let expected = STANDARD.decode(digest.trim()).map_err(|_| malformed())?;
        let hash = match algorithm {
            "sha1" => Hash::Sha1(sha1::Sha1::new()),
            "sha256" => Hash::Sha256(sha2::Sha256::new()),
            _ => return Err(ApiError::invalid(field, "has an unknown algorithm: sha1 or sha256")),
        };
        Ok(Some(Self { hash, expected }))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.hash {
            Hash::Sha1(hash) => hash.update(bytes),
            Hash::Sha256(hash) => hash.update(bytes),
        }
    }

    pub(super) fn verify(self) -> Result<(), ApiError> {
        let actual = match self.hash {
            Hash::Sha1(hash) => hash.finalize().to_vec(),
            Hash::Sha256(hash) => hash.finalize().to_vec(),
        };
        if actual == self.expected {
            return Ok(());
        }
        let status = StatusCode::from_u16(460).unwrap_or(StatusCode::BAD_REQUEST);
        let sentence = "The bytes do not match the checksum and were discarded";
        Err(ApiError::new(status, code::CHECKSUM_MISMATCH, sentence))
    }
}

/// Formats a time for an HTTP header.
pub(super) fn http_date(at: Timestamp) -> String {
    let since = u64::try_from(at.as_millis()).unwrap_or(0);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(since))
}

/// Escapes an id as one segment of a path.
pub(super) fn escaped(id: &str) -> String {
    let mut text = String::with_capacity(id.len());
    for byte in to_path_step(id).bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn metadata_is_read_and_what_is_not_ours_stays() {
        let read = |text: &str| Metadata::of(&headers(UPLOAD_METADATA, text));
        let found = read("filename d29ybGQ=, stagingId cw==,is_confidential").unwrap();
        assert_eq!(found.staging_id, Some(StagingId::new("s").unwrap()));
        assert!(found.text.contains("is_confidential"));
        for bad in ["stagingId", "stagingId !", "a YQ==,a YQ==", "blobId IGI="] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_length_is_told_once() {
        let with = |fields: &[(&HeaderName, &str)]| {
            let one = |(name, value): &(&HeaderName, &str)| {
                ((*name).clone(), HeaderValue::from_str(value).unwrap())
            };
            length_to_be(&fields.iter().map(one).collect())
        };
        assert_eq!(with(&[(&UPLOAD_LENGTH, "5")]).unwrap(), Some(5));
        assert_eq!(with(&[(&UPLOAD_DEFER_LENGTH, "1")]).unwrap(), None);
        for bad in [
            &[][..],
            &[(&UPLOAD_LENGTH, "5"), (&UPLOAD_DEFER_LENGTH, "1")],
            &[(&UPLOAD_DEFER_LENGTH, "0")],
            &[(&UPLOAD_LENGTH, "-1")],
            &[(&UPLOAD_LENGTH, "9223372036854775808")],
            &[(&UPLOAD_LENGTH, "99999999999999999999")],
        ] {
            assert!(with(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_is_one_segment() {
        assert_eq!(escaped("a/b ?é..%"), "a%2Fb%20%3F%C3%A9%2E%2E%25");
        assert_eq!(escaped(".."), "%20%2E%2E");
    }

    proptest! {
        #[test]
        fn no_field_makes_a_parser_panic(text in "[ -~]{0,80}") {
            let _ = Metadata::of(&headers(UPLOAD_METADATA, &text));
            let _ = Checksum::of(&headers(UPLOAD_CHECKSUM, &text));
            let _ = length_to_be(&headers(UPLOAD_LENGTH, &text));
        }
    }
}
