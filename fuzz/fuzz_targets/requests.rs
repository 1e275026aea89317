//! The other requests and answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfs_sync_core::server::attach::Checkpoint;
use vfs_sync_core::wire::{AttachRequest, ErrorBody, PushResponse, ReconcileRequest, StageRequest};

fuzz_target!(|body: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<AttachRequest>(body) {
        let _ = Checkpoint::of(&request);
    }
    let _ = serde_json::from_slice::<ReconcileRequest>(body);
    let _ = serde_json::from_slice::<StageRequest>(body);
    let _ = serde_json::from_slice::<PushResponse>(body);
    let _ = serde_json::from_slice::<ErrorBody>(body);
});
