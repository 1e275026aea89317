//! The client for Kotlin and Swift: the surface of `vfs-sync-ffi` with types, from which UniFFI writes both languages.
//! `scripts/package-bindings kotlin swift` makes the sources.

mod callback;
mod client;
mod content;
mod error;
mod json;
mod options;
mod stream;
mod time;
mod value;

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use client::Client;
pub use error::VfsSyncError;
pub use json::JsonValue;

uniffi::setup_scaffolding!("vfs_sync");

type Result<T, E = VfsSyncError> = std::result::Result<T, E>;

/// A means to cancel calls: each call that got it fails with `Cancelled` at its next await. Edits are never cancelled.
#[derive(Default, uniffi::Object)]
pub struct Cancellation(vfs_sync_ffi::Cancellation);

#[uniffi::export]
impl Cancellation {
    /// Creates a cancellation that is not used yet.
    #[uniffi::constructor]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels the calls that have it, now and later.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

fn token(cancel: Option<Arc<Cancellation>>) -> Option<vfs_sync_ffi::Cancellation> {
    cancel.map(|cancel| cancel.0.clone())
}

/// Reads a value that the client made.
fn parsed<T: DeserializeOwned>(json: &str) -> Result<T> {
    let wrong = |reason| {
        let reason =
            format!("a value of the client is not of the form that this version knows: {reason}");
        vfs_sync_ffi::Error::new(vfs_sync_ffi::ErrorCode::Panicked, reason)
    };
    Ok(serde_json::from_str(json).map_err(wrong)?)
}

fn read_value<T: DeserializeOwned>(value: Value) -> Result<T> {
    parsed(&value.to_string())
}
