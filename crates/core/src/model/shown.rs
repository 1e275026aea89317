//! The modification time that an item shows: always the time of its present bytes.

use serde_json::{Value, json};

use crate::id::BlobId;
use crate::item::Metadata;
use crate::time::Timestamp;

/// The metadata key of a modification time that belongs to no particular bytes. An item shows it if
/// it has no content, or a content whose client stated no time.
pub const MTIME: &str = "mtime";
/// The metadata key of a later touch, one register: `{"mtime": …, "blobId": …}`.
pub const TOUCHED: &str = "touched";

/// Returns the time to show for an item with this metadata and content; `None` if there is none.
///
/// `content` is the blob and the time of its attach. A touch applies exactly while its blob is
/// the content, so it never applies to other bytes. Times are not compared: a touch may set an
/// earlier time.
#[must_use]
pub fn shown_time(
    metadata: &Metadata,
    content: Option<(&BlobId, Option<Timestamp>)>,
) -> Option<Timestamp> {
    if let Some((blob_id, modified_at)) = content {
        let touched = touched(metadata).filter(|(_, of)| *of == blob_id.as_str());
        if let Some(time) = touched.map(|(time, _)| time).or(modified_at) {
            return Some(time);
        }
    }
    metadata.get(MTIME).and_then(time)
}

/// The time of the touch in the metadata, and the blob that it belongs to.
#[must_use]
pub fn touched(metadata: &Metadata) -> Option<(Timestamp, &str)> {
    let touched = metadata.get(TOUCHED)?;
    Some((time(touched.get("mtime")?)?, touched.get("blobId")?.as_str()?))
}

/// The metadata key and value that make an item with this content show `time`.
#[must_use]
pub fn touch(content: Option<&BlobId>, time: Timestamp) -> (&'static str, Value) {
    match content {
        Some(blob_id) => (TOUCHED, json!({ "mtime": time, "blobId": blob_id })),
        None => (MTIME, json!(time)),
    }
}

fn time(value: &Value) -> Option<Timestamp> {
    Timestamp::parse(value.as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).unwrap()
    }

    fn metadata(entries: &[(&str, Value)]) -> Metadata {
        entries.iter().map(|(key, value)| ((*key).into(), value.clone())).collect()
    }

    #[test]
    fn a_time_shows_with_the_bytes_that_it_belongs_to() {
        let (old, new) = (BlobId::new("old").unwrap(), BlobId::new("new").unwrap());
        let plain = (MTIME, json!(at(1)));
        let touch_old = touch(Some(&old), at(2));
        let all = metadata(&[plain.clone(), touch_old.clone()]);
        let of = |blob: &BlobId, time| shown_time(&all, Some((blob, time)));
        assert_eq!(of(&old, Some(at(9))), Some(at(2)), "touched, and backwards");
        assert_eq!(of(&new, Some(at(9))), Some(at(9)), "the touch was of other bytes");
        assert_eq!(of(&new, None), Some(at(1)), "an old client's content");
        assert_eq!(of(&old, None), Some(at(2)), "touched by a new client");
        assert_eq!(shown_time(&all, None), Some(at(1)), "no content");
        let only_touch = metadata(&[touch_old]);
        assert_eq!(shown_time(&only_touch, None), None);
        assert_eq!(shown_time(&only_touch, Some((&new, None))), None);
        assert_eq!(touch(None, at(1)), plain);
    }

    #[test]
    fn a_malformed_time_is_none() {
        let blob = BlobId::new("b").unwrap();
        for value in
            [json!(7), json!("b"), json!({"mtime": 7, "blobId": "b"}), json!({"blobId": "b"})]
        {
            let all = metadata(&[(TOUCHED, value.clone()), (MTIME, value)]);
            assert_eq!(shown_time(&all, Some((&blob, Some(at(5))))), Some(at(5)));
            assert_eq!(shown_time(&all, Some((&blob, None))), None);
        }
    }
}
