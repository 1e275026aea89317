//! The digest of what a reader gives.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use vfs_sync_core::content::Sha256Digest;

/// Reads to the end; gives the digest and how many bytes there were.
pub(crate) fn digest(mut reader: impl Read) -> io::Result<(Sha256Digest, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut size = 0;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
    Ok((Sha256Digest(hasher.finalize().into()), size))
}

/// The digest of bytes in memory.
pub(crate) fn digest_bytes(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest(Sha256::digest(bytes).into())
}
