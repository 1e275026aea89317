//! SHA-256 digests of readers and bytes.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use vfs_sync_core::content::Sha256Digest;

/// Reads to the end; returns the digest and the number of bytes.
pub fn digest(mut reader: impl Read) -> io::Result<(Sha256Digest, u64)> {
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

/// Returns the digest of bytes in memory.
pub fn digest_bytes(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest(Sha256::digest(bytes).into())
}
