//! Contents as streams of bytes.

use std::sync::Arc;

use crate::value::StoredContent;
use crate::{Cancellation, Result, read_value, token};

/// A content of an item, read once from its start to its end. It stays on this machine as long as this lives.
#[derive(uniffi::Object)]
pub struct Content(pub(crate) vfs_sync_ffi::ContentReader);

#[uniffi::export]
impl Content {
    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.0.size()
    }

    /// Returns the SHA-256 digest.
    pub fn digest(&self) -> String {
        self.0.digest().to_owned()
    }

    /// Reads the next bytes, at most so many and at most 1 MiB; none mean the end. One read at a time.
    #[uniffi::method(default(at_most = 262144))]
    pub async fn read(&self, at_most: u32) -> Result<Vec<u8>> {
        Ok(self.0.read(usize::try_from(at_most).unwrap_or(usize::MAX)).await?)
    }

    /// Reads the rest of the bytes.
    #[uniffi::method(default(cancel = None))]
    pub async fn read_all(&self, cancel: Option<Arc<Cancellation>>) -> Result<Vec<u8>> {
        Ok(self.0.read_rest(token(cancel)).await?)
    }
}

/// A content that is written from its start to its end. Without `finish` nothing of it stays.
#[derive(uniffi::Object)]
pub struct ContentWriter(pub(crate) vfs_sync_ffi::ContentWriter);

#[uniffi::export]
impl ContentWriter {
    /// Writes the next bytes.
    pub async fn write(&self, bytes: Vec<u8>) -> Result<()> {
        Ok(self.0.write(bytes).await?)
    }

    /// Queues the content: from then on it is durable, and shown.
    pub async fn finish(&self) -> Result<StoredContent> {
        read_value(self.0.finish().await?)
    }

    /// Gives the content up.
    pub fn abort(&self) {
        self.0.abort();
    }
}
