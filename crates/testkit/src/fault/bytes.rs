//! Damages requests and answers, byte by byte.

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use vfs_sync_client::TransportError;
use vfs_sync_client::transport::{Answer, ByteStream, Call, CallKind, Result};

/// Returns the first `bytes` of a stream, then a failure.
pub(super) fn cut_after(
    stream: ByteStream,
    bytes: u64,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    stream.scan(Some(bytes), |left, chunk| {
        let step = match (*left, chunk) {
            (None, _) => None,
            (Some(0), _) => {
                *left = None;
                Some(Err(std::io::Error::other("the line was cut")))
            }
            (Some(bytes), Ok(mut chunk)) => {
                chunk.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
                *left = Some(bytes - chunk.len() as u64);
                Some(Ok(chunk))
            }
            (_, failed) => Some(failed),
        };
        std::future::ready(step)
    })
}

/// Returns the first `bytes` of a stream, as if the stream ended there.
pub(super) fn truncated(stream: ByteStream, bytes: u64) -> ByteStream {
    let cut = cut_after(stream, bytes);
    Box::pin(cut.take_while(|chunk| std::future::ready(chunk.is_ok())))
}

/// Returns the stream with one byte changed.
pub(super) fn damaged(stream: ByteStream, at: u64) -> ByteStream {
    let mut passed = 0;
    Box::pin(stream.map(move |chunk| {
        let mut bytes = Vec::from(chunk?);
        let index = at.checked_sub(passed).and_then(|index| usize::try_from(index).ok());
        passed += bytes.len() as u64;
        if let Some(byte) = index.and_then(|index| bytes.get_mut(index)) {
            *byte ^= 1;
        }
        Ok(bytes.into())
    }))
}

/// Changes one byte of the contents: the one at offset `at` of all contents together.
pub(super) fn with_damage(mut contents: Vec<Result<Bytes>>, at: u64) -> Vec<Result<Bytes>> {
    let mut at = usize::try_from(at).unwrap_or(usize::MAX);
    for content in contents.iter_mut().flatten() {
        if at < content.len() {
            let mut bytes = content.to_vec();
            bytes[at] ^= 1;
            *content = bytes.into();
            break;
        }
        at -= content.len();
    }
    contents
}

/// Changes one byte of the contents that the call sends.
pub(super) fn damaged_call(call: Call, at: u64) -> Call {
    match call {
        Call::Upload { staging_id, size, digest, data } => {
            Call::Upload { staging_id, size, digest, data: damaged(data, at) }
        }
        Call::Append { staging_id, offset, size, data } => {
            Call::Append { staging_id, offset, size, data: damaged(data, at) }
        }
        Call::BlobBatch(mut files) => {
            let contents = files.iter().map(|file| Ok(file.data.clone())).collect();
            let damaged = with_damage(contents, at).into_iter().flatten();
            files.iter_mut().zip(damaged).for_each(|(file, data)| file.data = data);
            Call::BlobBatch(files)
        }
        other => other,
    }
}

/// Collects all bytes of a stream.
pub(super) async fn gathered(stream: &mut ByteStream) -> Result<Bytes> {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend(chunk.map_err(|error| TransportError::network(error.to_string()))?);
    }
    Ok(bytes.into())
}

pub(super) fn of_bytes(bytes: Bytes) -> ByteStream {
    Box::pin(futures::stream::iter([Ok(bytes)]))
}

macro_rules! of_json {
    ($answer:expr, $kind:ident, $json:pat => $then:expr, $($of:ident),*) => {
        match $answer {
            $(Answer::$of(body) => {
                let $kind = CallKind::$of;
                let $json = serde_json::to_vec(&body).expect("an answer is JSON");
                $then.map(Answer::$of)
            })*
            // Nothing is in their answer but that it was given.
            Answer::OpenUpload(_) | Answer::Append(()) | Answer::BlobBatch(_)
            | Answer::ReadBlobs(_) | Answer::Download(_) | Answer::Events(_)
            | Answer::Telemetry(()) => Err(super::lost()),
        }
    };
}

/// Damages an answer's JSON, and returns what the client reads from it.
pub(super) fn reread(answer: Answer, spoil: impl FnOnce(&mut Vec<u8>)) -> Result<Answer> {
    of_json!(
        answer,
        kind,
        mut json => {
            spoil(&mut json);
            vfs_sync_client::transport::read_answer(kind.as_str(), 200, None, &json)
        },
        Push, Pull, Reconcile, State, Limits, Stage, Upload, StageState, Attach, Versions, Trash,
        Restore, Purge
    )
}

/// Returns a copy of an answer, unless the answer is a stream.
pub(super) fn kept(answer: &Answer) -> Option<Answer> {
    Some(match answer {
        Answer::Push(body) => Answer::Push(body.clone()),
        Answer::Pull(body) => Answer::Pull(body.clone()),
        Answer::Reconcile(body) => Answer::Reconcile(body.clone()),
        Answer::State(body) => Answer::State(body.clone()),
        Answer::Limits(body) => Answer::Limits(body.clone()),
        Answer::Stage(body) => Answer::Stage(body.clone()),
        Answer::Upload(body) => Answer::Upload(body.clone()),
        Answer::StageState(body) => Answer::StageState(body.clone()),
        Answer::OpenUpload(offset) => Answer::OpenUpload(*offset),
        Answer::Append(()) => Answer::Append(()),
        Answer::Attach(body) => Answer::Attach(body.clone()),
        Answer::BlobBatch(results) => Answer::BlobBatch(results.clone()),
        Answer::Versions(body) => Answer::Versions(body.clone()),
        Answer::Trash(body) => Answer::Trash(body.clone()),
        Answer::Restore(body) => Answer::Restore(body.clone()),
        Answer::Purge(body) => Answer::Purge(body.clone()),
        Answer::ReadBlobs(contents) => Answer::ReadBlobs(contents.clone()),
        Answer::Telemetry(()) => Answer::Telemetry(()),
        Answer::Download(_) | Answer::Events(_) => return None,
    })
}
