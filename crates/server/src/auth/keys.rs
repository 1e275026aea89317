//! Verification keys, each bound to one algorithm.

use std::sync::Arc;

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, OctetKeyPairParameters, PublicKeyUse,
};
use serde::Deserialize;

use super::config::Algorithm;
use super::secret::Secret;

/// A key with its verification rules.
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) verifier: DecodingKey,
}

/// The keys that may sign tokens.
pub(super) struct KeySet {
    keys: Vec<Arc<Key>>,
}

/// The least size of an RSA key in bytes: keys below 2048 bits can be broken.
const MIN_RSA_MODULUS_BYTES: usize = 256;

impl KeySet {
    pub(super) const fn none() -> Self {
        Self { keys: Vec::new() }
    }

    pub(super) fn of_secret(secret: &Secret) -> Self {
        let verifier = DecodingKey::from_secret(secret.expose());
        Self { keys: vec![Arc::new(Key { id: None, algorithm: Algorithm::Hs256, verifier })] }
    }

    /// Reads the public key of a PEM file; the key determines its algorithm.
    pub(super) fn of_pem(pem: &[u8], only: Option<Algorithm>) -> Result<Self, String> {
        let candidates = [
            (Algorithm::EdDsa, DecodingKey::from_ed_pem(pem)),
            (Algorithm::Es256, DecodingKey::from_ec_pem(pem)),
            (Algorithm::Rs256, DecodingKey::from_rsa_pem(pem)),
        ];
        let (algorithm, verifier) = candidates
            .into_iter()
            .find_map(|(algorithm, key)| Some((algorithm, key.ok()?)))
            .filter(|(algorithm, key)| is_strong(*algorithm, key))
            .ok_or(
                "it is not a PEM file of a public key: Ed25519, P-256, or RSA of at least 2048 bits",
            )?;
        match only {
            Some(only) if only != algorithm => Err(format!(
                "its key is for {}, and VFS_SYNC_JWT_ALGORITHM says {}",
                algorithm.as_str(),
                only.as_str()
            )),
            _ => Ok(Self { keys: vec![Arc::new(Key { id: None, algorithm, verifier })] }),
        }
    }

    /// Reads the keys of a JSON Web Key Set that this server can use. It skips others, including
    /// symmetric ones.
    pub(super) fn of_jwks(json: &[u8], only: Option<Algorithm>) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<serde_json::Value>,
        }
        let document: Document = serde_json::from_slice(json)
            .map_err(|error| format!("it is not a JSON Web Key Set: {error}"))?;
        let keys: Vec<Arc<Key>> = document
            .keys
            .into_iter()
            .filter_map(|key| usable(&serde_json::from_value(key).ok()?))
            .filter(|key| only.is_none_or(|only| only == key.algorithm))
            .map(Arc::new)
            .collect();
        if keys.is_empty() {
            return Err("it has no key for EdDSA, ES256 or RS256 that this server can use".into());
        }
        Ok(Self { keys })
    }

    /// Finds the key that a token names, or the only key of its algorithm if the token names none.
    pub(super) fn find(
        &self,
        id: Option<&str>,
        algorithm: jsonwebtoken::Algorithm,
    ) -> Option<&Arc<Key>> {
        let mut fitting = self.keys.iter().filter(|key| {
            key.algorithm.jwa() == algorithm
                && (id.is_none() || key.id.is_none() || key.id.as_deref() == id)
        });
        let first = fitting.next()?;
        (id.is_some() || fitting.next().is_none()).then_some(first)
    }
}

/// Returns whether a PEM key has the curve, or the minimum size, that its algorithm requires.
fn is_strong(algorithm: Algorithm, key: &DecodingKey) -> bool {
    let length = key.try_get_as_bytes().map_or(0, <[u8]>::len);
    match algorithm {
        // A point: a byte that says so, and two numbers of 256 bits.
        Algorithm::Es256 => length == 65,
        // The modulus, and the encoding around it.
        Algorithm::Rs256 => length > MIN_RSA_MODULUS_BYTES,
        Algorithm::EdDsa | Algorithm::Hs256 => true,
    }
}

fn usable(jwk: &Jwk) -> Option<Key> {
    if jwk.common.public_key_use.as_ref().is_some_and(|use_| *use_ != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
            curve: EllipticCurve::Ed25519,
            ..
        }) => Algorithm::EdDsa,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            Algorithm::Es256
        }
        AlgorithmParameters::RSA(key) if key.n.len() * 3 / 4 >= MIN_RSA_MODULUS_BYTES => {
            Algorithm::Rs256
        }
        _ => return None,
    };
    let named = match jwk.common.key_algorithm {
        None => algorithm,
        Some(KeyAlgorithm::EdDSA) => Algorithm::EdDsa,
        Some(KeyAlgorithm::ES256) => Algorithm::Es256,
        Some(KeyAlgorithm::RS256) => Algorithm::Rs256,
        Some(_) => return None,
    };
    if named != algorithm {
        return None;
    }
    let verifier = DecodingKey::from_jwk(jwk).ok()?;
    Some(Key { id: jwk.common.key_id.clone(), algorithm, verifier })
}
