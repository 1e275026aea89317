//! Access tokens of devices: signed by keys that all server processes of a database share.
//!
//! The keys are in the database, so they survive a start, and a token of one process counts in the
//! others. A token names the credential that it came from; whether that one is good still is looked up
//! at each call with the device's admission.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::server::credential::{ACCESS_SECONDS, SigningKey, is_key_due, verifying_keys};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::credential::CredentialId;
use vfs_sync_store::MetadataStore;

use super::{DeviceClaim, Identity, MAX_TOKEN_BYTES, TokenError};
use crate::error::ApiError;

/// The type in the header of access tokens, by which they are told from tokens given by hand.
const TYPE: &str = "vfs-sync-access+jwt";
/// The issuer and the audience of access tokens.
const SELF: &str = "vfs-sync";
/// The difference between the clocks of server processes that is accepted.
const LEEWAY_MILLIS: i64 = 30_000;
/// The time for which the keys count as known.
const KNOWN_FOR: Duration = Duration::from_secs(5);
/// The least time between two looks that unknown keys cause.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    /// The id of the replica.
    cid: String,
    /// The id of the credential.
    jti: String,
    iat: i64,
    exp: i64,
}

/// The keys that a process has read.
#[derive(Default)]
struct Known {
    keys: Arc<[SigningKey]>,
    at: Option<Instant>,
}

impl Known {
    fn is_fresh(&self, within: Duration) -> bool {
        self.at.is_some_and(|at| at.elapsed() < within)
    }
}

/// Signs and verifies access tokens.
#[derive(Default)]
pub(crate) struct AccessTokens {
    known: RwLock<Known>,
    /// The turn of one look at the database after the other.
    looking: tokio::sync::Mutex<()>,
}

/// Returns whether a token says that it is an access token of a device.
pub(crate) fn is_access_token(token: &str) -> bool {
    token.len() <= MAX_TOKEN_BYTES
        && jsonwebtoken::decode_header(token)
            .is_ok_and(|header| header.typ.as_deref() == Some(TYPE))
}

/// Returns random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.secure_random.fill(&mut bytes).ok()?;
    Some(bytes)
}

/// Makes a key that signs access tokens; `None` if the operating system gives no random bytes.
#[must_use]
pub fn new_signing_key(now: Timestamp) -> Option<SigningKey> {
    let id = format!("{:032x}", u128::from_be_bytes(random()?));
    Some(SigningKey { id, secret: random()?, made_at: now })
}

impl AccessTokens {
    fn fresh(&self, within: Duration) -> Option<Arc<[SigningKey]>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.is_fresh(within).then(|| Arc::clone(&known.keys))
    }

    fn put(&self, keys: Vec<SigningKey>, at: Instant) -> Arc<[SigningKey]> {
        let keys: Arc<[SigningKey]> = keys.into();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        *known = Known { keys: Arc::clone(&keys), at: Some(at) };
        keys
    }

    /// Returns the keys as the database had them at most `within` ago.
    async fn keys(
        &self,
        store: &dyn MetadataStore,
        within: Duration,
    ) -> Result<Arc<[SigningKey]>, ApiError> {
        if let Some(keys) = self.fresh(within) {
            return Ok(keys);
        }
        let _turn = self.looking.lock().await;
        if let Some(keys) = self.fresh(within) {
            return Ok(keys);
        }
        let begun = Instant::now();
        let keys = store.signing_keys().await?;
        Ok(self.put(keys, begun))
    }

    /// Returns the identity that an access token carries at `now`.
    ///
    /// # Errors
    /// [`TokenError`] if the token is rejected, or the failure of the database.
    pub(crate) async fn verify(
        &self,
        store: &dyn MetadataStore,
        token: &str,
        now: Timestamp,
    ) -> Result<Result<Identity, TokenError>, ApiError> {
        let header = match jsonwebtoken::decode_header(token) {
            Ok(header) if header.alg == Algorithm::HS256 && header.crit.is_none() => header,
            _ => return Ok(Err(TokenError::Malformed)),
        };
        let Some(id) = header.kid else { return Ok(Err(TokenError::UnknownKey)) };
        let find = |keys: &[SigningKey]| {
            let verifying = &keys[..verifying_keys(keys, now)];
            verifying.iter().find(|key| key.id == id).map(|key| key.secret)
        };
        let found = match find(&self.keys(store, KNOWN_FOR).await?) {
            Some(found) => Some(found),
            // Another process may have made it since.
            None => find(&self.keys(store, LOOK_EVERY).await?),
        };
        let Some(secret) = found else { return Ok(Err(TokenError::UnknownKey)) };
        Ok(check(token, &secret, now))
    }

    /// Makes an access token for a replica that is valid from `now` for [`ACCESS_SECONDS`]. Makes a
    /// key first, if one is due.
    ///
    /// # Errors
    /// The failure of the database.
    pub(crate) async fn sign(
        &self,
        store: &dyn MetadataStore,
        user: &UserId,
        device: &DeviceClaim,
        now: Timestamp,
    ) -> Result<String, ApiError> {
        let mut keys = self.keys(store, KNOWN_FOR).await?;
        if is_key_due(keys.first(), now) {
            let key = new_signing_key(now).ok_or_else(ApiError::internal)?;
            let begun = Instant::now();
            keys = self.put(store.add_signing_key(key, false).await?, begun);
        }
        let key = keys.first().ok_or_else(ApiError::internal)?;
        let iat = now.as_millis().div_euclid(1_000);
        let claims = Claims {
            iss: SELF.to_owned(),
            aud: SELF.to_owned(),
            sub: user.as_str().to_owned(),
            cid: device.client.as_str().to_owned(),
            jti: device.credential.to_string(),
            iat,
            exp: iat.saturating_add_unsigned(ACCESS_SECONDS),
        };
        let header = Header {
            typ: Some(TYPE.to_owned()),
            kid: Some(key.id.clone()),
            ..Header::new(Algorithm::HS256)
        };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&key.secret))
            .map_err(|_| ApiError::internal())
    }
}

/// Checks the signature and the claims of a token.
fn check(token: &str, secret: &[u8], now: Timestamp) -> Result<Identity, TokenError> {
    let mut validation = Validation::new(Algorithm::HS256);
    // The library checks the signature alone: times count by the server's clock.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let claims =
        jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(secret), &validation)
            .map_err(|error| super::refused(&error))?
            .claims;
    if claims.iss != SELF {
        return Err(TokenError::WrongIssuer);
    }
    if claims.aud != SELF {
        return Err(TokenError::WrongAudience);
    }
    let end = claims.exp.saturating_mul(1_000).saturating_add(LEEWAY_MILLIS);
    if end <= now.as_millis() {
        return Err(TokenError::Expired);
    }
    let user = UserId::new(&claims.sub).map_err(|_| TokenError::BadSubject)?;
    let client = ReplicaId::new(&claims.cid).map_err(|_| TokenError::Malformed)?;
    let credential = CredentialId::parse(&claims.jti).ok_or(TokenError::Malformed)?;
    let device = Some(DeviceClaim { client, credential });
    Ok(Identity { user, scopes: Vec::new(), expires_at: Timestamp::from_millis(end), device })
}

#[cfg(test)]
mod tests {
    use vfs_sync_core::wire::credential::RefreshSecret;
    use vfs_sync_store::memory::MemoryStore;

    use super::*;

    const DAY: i64 = 24 * 3_600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(1_767_225_600_000 + second * 1_000).unwrap()
    }

    fn laptop() -> DeviceClaim {
        let credential = RefreshSecret::first([1; 16], [2; 32]).id();
        DeviceClaim { client: ReplicaId::new("laptop").unwrap(), credential }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_counts_in_every_process_for_an_hour_and_across_a_change_of_keys() {
        let store: Arc<dyn MetadataStore> = Arc::new(MemoryStore::new(at(0)));
        let alice = UserId::new("alice").unwrap();
        let (here, there) = (AccessTokens::default(), AccessTokens::default());
        let verify = async |process: &AccessTokens, token: &str, second: i64| {
            process.verify(&*store, token, at(second)).await.unwrap()
        };
        let sign =
            async |second: i64| here.sign(&*store, &alice, &laptop(), at(second)).await.unwrap();
        let token = sign(0).await;
        assert!(is_access_token(&token));
        for process in [&here, &there] {
            let identity = verify(process, &token, 0).await.unwrap();
            assert_eq!((&identity.user, identity.device), (&alice, Some(laptop())));
            assert_eq!(identity.scopes, [""; 0]);
            assert!(verify(process, &token, 3_600).await.is_ok());
            assert_eq!(verify(process, &token, 3_630).await, Err(TokenError::Expired));
        }
        assert_eq!(store.signing_keys().await.unwrap().len(), 1);

        let last = sign(30 * DAY - 1).await;
        let first = sign(30 * DAY).await;
        assert_eq!(store.signing_keys().await.unwrap().len(), 2);
        tokio::time::advance(LOOK_EVERY).await;
        for token in [&last, &first] {
            assert!(verify(&here, token, 30 * DAY + 1).await.is_ok());
            assert!(verify(&there, token, 30 * DAY + 1).await.is_ok());
        }
        assert_eq!(verify(&here, &last, 31 * DAY).await, Err(TokenError::UnknownKey));

        // An operator who replaces all keys.
        let key = SigningKey { id: "new".into(), secret: [9; 32], made_at: at(31 * DAY) };
        assert_eq!(store.add_signing_key(&key, true).await.unwrap(), [key]);
        let token = sign(31 * DAY).await;
        assert!(verify(&here, &token, 31 * DAY).await.is_ok());
        tokio::time::advance(KNOWN_FOR).await;
        assert_eq!(verify(&here, &token, 31 * DAY).await, Err(TokenError::UnknownKey));
    }

    #[tokio::test]
    async fn no_change_to_a_token_leaves_it_good() {
        let store: Arc<dyn MetadataStore> = Arc::new(MemoryStore::new(at(0)));
        let tokens = AccessTokens::default();
        let alice = UserId::new("alice").unwrap();
        let token = tokens.sign(&*store, &alice, &laptop(), at(0)).await.unwrap();
        for place in 0..token.len() - 1 {
            let mut changed = token.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(tokens.verify(&*store, &changed, at(0)).await.unwrap().is_err(), "{changed}");
        }
        assert!(!is_access_token("a.b.c"));
    }
}
