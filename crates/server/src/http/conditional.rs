//! The HTTP fields about contents: ranges, entity tags, digests (RFC 9110, RFC 9530).

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use vfs_sync_core::content::Sha256Digest;
use vfs_sync_store::BlobRow;

use crate::error::ApiError;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// The part of a blob that an answer carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    Whole,
    Part(Range<u64>),
    /// The caller already has the content.
    Unchanged,
    Unsatisfiable,
}

/// Decides which part the request's conditions and ranges select.
pub(crate) fn select(method: &Method, headers: &HeaderMap, blob: &BlobRow) -> Selection {
    let tag = entity_tag(blob);
    let listed = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    for list in listed {
        if list
            .split(',')
            .map(str::trim)
            .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
        {
            return Selection::Unchanged;
        }
    }
    // Ranges are of GET alone (RFC 9110, 14.2).
    if method != Method::GET {
        return Selection::Whole;
    }
    // The caller wants a range of the content that it knows; if the content differs, all of it.
    if headers.get(IF_RANGE).is_some_and(|value| value.as_bytes() != tag.as_bytes()) {
        return Selection::Whole;
    }
    headers
        .get(RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| one_range(text, blob.size))
        .unwrap_or(Selection::Whole)
}

/// Parses a single range of bytes; `None` for anything that a server may ignore: other units,
/// several ranges, malformed ones, and ranges of an empty blob.
fn one_range(text: &str, size: u64) -> Option<Selection> {
    let (unit, spec) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || size == 0 {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // A number too large for us is beyond any end.
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    if first.is_empty() {
        let length = number(last)?;
        return Some(match length {
            0 => Selection::Unsatisfiable,
            length => Selection::Part(size.saturating_sub(length)..size),
        });
    }
    let first = number(first)?;
    let end = if last.is_empty() { size } else { number(last)?.saturating_add(1).min(size) };
    if first >= size {
        return Some(Selection::Unsatisfiable);
    }
    (first < end).then_some(Selection::Part(first..end))
}

fn entity_tag(blob: &BlobRow) -> String {
    format!("\"{}\"", blob.digest)
}

/// Returns status and header fields of an answer. The content is a user's: a browser must not run
/// it.
pub(crate) fn answer_head(blob: &BlobRow, selection: &Selection) -> (StatusCode, HeaderMap) {
    let mut fields = HeaderMap::new();
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            fields.insert(name, value);
        }
    };
    set(ETAG, &entity_tag(blob));
    set(ACCEPT_RANGES, "bytes");
    // To be kept, but asked about again each time: access may have ended.
    set(CACHE_CONTROL, "private, no-cache");
    let digest = format!("sha-256=:{}:", STANDARD.encode(blob.digest.0));
    if !matches!(selection, Selection::Unsatisfiable) {
        set(REPR_DIGEST, &digest);
    }
    let status = match selection {
        Selection::Unchanged => return (StatusCode::NOT_MODIFIED, fields),
        Selection::Unsatisfiable => {
            set(CONTENT_RANGE, &format!("bytes */{}", blob.size));
            return (StatusCode::RANGE_NOT_SATISFIABLE, fields);
        }
        Selection::Whole => {
            set(CONTENT_DIGEST, &digest);
            set(CONTENT_LENGTH, &blob.size.to_string());
            StatusCode::OK
        }
        Selection::Part(range) => {
            let last = range.end - 1;
            set(CONTENT_RANGE, &format!("bytes {}-{last}/{}", range.start, blob.size));
            set(CONTENT_LENGTH, &(range.end - range.start).to_string());
            StatusCode::PARTIAL_CONTENT
        }
    };
    set(CONTENT_TYPE, blob.content_type.as_deref().unwrap_or("application/octet-stream"));
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(CONTENT_DISPOSITION, "attachment");
    set(CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox");
    (status, fields)
}

/// The SHA-256 digest that a `Content-Digest` header names, if there is one.
pub(crate) fn named_digest(headers: &HeaderMap) -> Result<Option<Sha256Digest>, ApiError> {
    let malformed = || ApiError::invalid("Content-Digest", "must have the form sha-256=:<base64>:");
    let mut found = None;
    for value in headers.get_all(CONTENT_DIGEST) {
        for member in value.to_str().map_err(|_| malformed())?.split(',') {
            let (name, value) = member.trim().split_once('=').ok_or_else(malformed)?;
            if name != "sha-256" {
                continue;
            }
            let bytes = value
                .strip_prefix(':')
                .and_then(|value| value.strip_suffix(':'))
                .and_then(|value| STANDARD.decode(value).ok())
                .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            found = Some(Sha256Digest(bytes.ok_or_else(malformed)?));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use vfs_sync_core::id::BlobId;

    fn blob(size: u64) -> BlobRow {
        let blob_id = BlobId::new("b").unwrap();
        BlobRow { blob_id, size, digest: Sha256Digest([7; 32]), content_type: None }
    }

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(n, v)| (n.clone(), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn a_range_selects_what_rfc_9110_says() {
        for (text, expected) in [
            ("bytes=0-0", Selection::Part(0..1)),
            ("bytes=2-", Selection::Part(2..10)),
            ("bytes=2-99", Selection::Part(2..10)),
            ("bytes=-3", Selection::Part(7..10)),
            ("bytes=-99", Selection::Part(0..10)),
            ("bytes=9-18446744073709551615", Selection::Part(9..10)),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=10-", Selection::Unsatisfiable),
            ("bytes=99999999999999999999-", Selection::Unsatisfiable),
            ("bytes=5-4", Selection::Whole),
            ("bytes=0-1,3-4", Selection::Whole),
            ("bytes=", Selection::Whole),
            ("bytes=a-b", Selection::Whole),
            ("bytes=+1-2", Selection::Whole),
            ("lines=0-1", Selection::Whole),
        ] {
            assert_eq!(
                select(&Method::GET, &headers(&[(RANGE, text)]), &blob(10)),
                expected,
                "{text}"
            );
        }
        assert_eq!(
            select(&Method::GET, &headers(&[(RANGE, "bytes=0-")]), &blob(0)),
            Selection::Whole
        );
    }

    #[test]
    fn conditions_come_before_ranges() {
        let tag = entity_tag(&blob(10));
        let select =
            |fields: &[(HeaderName, &str)]| select(&Method::GET, &headers(fields), &blob(10));
        for same in [&*tag, "*", &format!("\"x\", W/{tag}")] {
            let fields = [(IF_NONE_MATCH, same), (RANGE, "bytes=0-1")];
            assert_eq!(select(&fields), Selection::Unchanged);
        }
        assert_eq!(select(&[(IF_NONE_MATCH, "\"x\"")]), Selection::Whole);
        let ranged = |tag| select(&[(IF_RANGE, tag), (RANGE, "bytes=0-1")]);
        assert_eq!(ranged(&tag), Selection::Part(0..2));
        assert_eq!(ranged("\"x\""), Selection::Whole);
    }

    #[test]
    fn a_digest_that_is_named_is_read_or_refused() {
        let named = |text: &str| named_digest(&headers(&[(CONTENT_DIGEST, text)]));
        let good = format!("sha-256=:{}:", STANDARD.encode([7; 32]));
        assert_eq!(named(&good).unwrap(), Some(Sha256Digest([7; 32])));
        assert_eq!(named(&format!("sha-512=:AA==:, {good}")).unwrap(), Some(Sha256Digest([7; 32])));
        assert_eq!(named("sha-512=:AA==:").unwrap(), None);
        for bad in ["", "sha-256", "sha-256=AA==", "sha-256=:AA==:", "sha-256=:!:"] {
            assert!(named(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_range_reaches_outside_the_blob(
            spec in "(bytes=)?[ -]?[0-9]{0,21}-?[0-9]{0,21}[,x]?",
            size in prop_oneof![0u64..20, Just(u64::MAX)],
        ) {
            if let Selection::Part(range) = select(&Method::GET, &headers(&[(RANGE, &spec)]), &blob(size)) {
                prop_assert!(range.start < range.end && range.end <= size, "{:?}", range);
            }
        }

        #[test]
        fn no_field_makes_a_parser_panic(text in "[ -~]{0,60}") {
            for name in [RANGE, IF_RANGE, IF_NONE_MATCH, CONTENT_DIGEST] {
                let fields = headers(&[(name, &text)]);
                select(&Method::GET, &fields, &blob(10));
                let _ = named_digest(&fields);
            }
        }
    }
}
