//! A cache of verified tokens: a caller sends the same token repeatedly, and verifying a signature
//! costs more than most requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jsonwebtoken::Algorithm;
use sha2::{Digest as _, Sha256};

use super::Claims;
use super::keys::Key;

/// The greatest number of cached tokens. Only holders of signed tokens can fill the cache.
const MAX_TOKENS: usize = 1_000;

/// The claims of a verified token, and the key that signed it.
pub(super) struct Known {
    pub(super) key_id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: Arc<Key>,
    pub(super) claims: Claims,
}

/// The verified tokens, by their digests, so that no token stays in memory.
#[derive(Default)]
pub(super) struct Verified(Mutex<HashMap<[u8; 32], Arc<Known>>>);

impl Verified {
    pub(super) fn get(&self, token: &str) -> Option<Arc<Known>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&digest(token)).cloned()
    }

    pub(super) fn put(&self, token: &str, known: Known) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_TOKENS {
            all.clear();
        }
        all.insert(digest(token), Arc::new(known));
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
