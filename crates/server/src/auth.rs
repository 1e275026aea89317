//! Authentication of callers: bearer tokens (JWT), verified by keys that are bound to one algorithm
//! each.

pub(crate) mod access;
mod config;
mod jwks;
mod keys;
mod mint;
mod secret;
mod verified;

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::Validation;
use serde::Deserialize;
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::credential::{AuthView, CredentialId, SignInMethod};

pub use access::new_signing_key;
pub use config::{
    Algorithm, AuthConfig, AuthConfigError, KeySource, MIN_SECRET_BYTES, SignInConfig,
};
pub use mint::{MintError, mint_token};
pub use secret::Secret;

use jwks::{CachedKeys, Location};
use keys::{Key, KeySet};
use verified::{Known, Verified};

/// The greatest length of a token: ours are shorter.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The user and rights that a token carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user, from the claim `sub`.
    pub user: UserId,
    /// The claim `scope`, split at spaces.
    pub scopes: Vec<String>,
    /// The time from which the token is rejected as expired; `None` if that is beyond all times.
    pub expires_at: Option<Timestamp>,
    /// The device whose credential the token came from; `None` for a token that was given by hand.
    pub device: Option<DeviceClaim>,
}

/// The device that an access token is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceClaim {
    /// The id of the device's replica.
    pub client: ReplicaId,
    /// The credential that the token came from.
    pub credential: CredentialId,
}

/// A reason why a token is rejected.
#[derive(
    Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
#[allow(missing_docs)]
pub enum TokenError {
    #[error("a bearer token is required")]
    Missing,
    #[error("the bearer token is malformed")]
    Malformed,
    #[error("the bearer token is signed by an unknown key")]
    UnknownKey,
    #[error("the bearer token's signature is wrong")]
    BadSignature,
    #[error("the bearer token has no exp")]
    NoExpiry,
    #[error("the bearer token has expired")]
    Expired,
    #[error("the bearer token is not valid yet")]
    NotYetValid,
    #[error("the bearer token has another issuer")]
    WrongIssuer,
    #[error("the bearer token has another audience")]
    WrongAudience,
    #[error("the bearer token's sub is not a user id")]
    BadSubject,
    /// The keys cannot be fetched, so a token of a key that is not known cannot be verified now.
    #[error("the keys that verify tokens are unavailable")]
    KeysUnavailable,
    #[error("this server takes no token that is given by hand: sign in with vfs-sync login")]
    DeviceCredentialRequired,
    #[error("this device's sign-in has ended: sign in again with vfs-sync login")]
    CredentialEnded,
    #[error(
        "an old secret of this device's sign-in was used again, so it has ended: sign in again with \
         vfs-sync login"
    )]
    CredentialReused,
    #[error("the secret of this device's sign-in is not known")]
    CredentialUnknown,
    #[error("the console's session has ended: sign in again")]
    SessionEnded,
    #[error("the sign-in is of another device")]
    OtherDevice,
}

impl TokenError {
    /// The reason in an error body.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.into()
    }
}

/// Verifies tokens that are given by hand, and those of the provider at which users sign in.
pub struct Authenticator {
    by_hand: Verifier,
    provider: Option<Verifier>,
    sign_in: Option<SignInConfig>,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Loads the verification keys. If a key set behind a URL cannot be fetched, a later request fetches it.
    ///
    /// # Errors
    /// [`AuthConfigError`] if a file cannot be read or has no usable key.
    pub async fn load(config: &AuthConfig) -> Result<Self, AuthConfigError> {
        let by_hand = Verifier::load(config).await?;
        let sign_in = config.sign_in.clone();
        let provider = match &sign_in {
            None => None,
            Some(sign_in) => {
                let audience = sign_in.audience.as_ref().unwrap_or(&sign_in.client_id);
                let of_provider = AuthConfig {
                    keys: KeySource::Issuer(sign_in.issuer.clone()),
                    sign_in: None,
                    algorithm: None,
                    issuer: Some(sign_in.issuer.clone()),
                    audience: Some(audience.clone()),
                    ..config.clone()
                };
                let party = Some(sign_in.client_id.clone());
                Some(Verifier { party, ..Verifier::load(&of_provider).await? })
            }
        };
        Ok(Self { by_hand, provider, sign_in })
    }

    /// Returns the identity that a token given by hand carries at `now`.
    ///
    /// # Errors
    /// [`TokenError`] if the token is rejected.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<Identity, TokenError> {
        self.by_hand.verify(token, now).await
    }

    /// Returns the identity that the provider's token carries at `now`; `None` if no provider is
    /// configured.
    pub(crate) async fn verify_sign_in(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Option<Result<Identity, TokenError>> {
        Some(self.provider.as_ref()?.verify(token, now).await)
    }

    /// Returns whether tokens that are given by hand count only for operators.
    pub(crate) fn requires_device_credentials(&self) -> bool {
        self.sign_in.as_ref().is_some_and(|sign_in| sign_in.requires_device_credentials)
    }

    /// Describes how one signs in.
    pub(crate) fn view(&self) -> AuthView {
        let of = |part: fn(&SignInConfig) -> &String| self.sign_in.as_ref().map(part).cloned();
        AuthView {
            method: match self.sign_in {
                Some(_) => SignInMethod::DeviceFlow,
                None => SignInMethod::Token,
            },
            issuer: of(|sign_in| &sign_in.issuer),
            client_id: of(|sign_in| &sign_in.client_id),
            scope: of(|sign_in| &sign_in.scope),
            requires_device_credentials: self.requires_device_credentials(),
        }
    }
}

/// Verifies the tokens of one source of keys.
struct Verifier {
    keys: Keys,
    issuer: Option<String>,
    audience: Option<String>,
    /// The client that a token has to be made for, if it names one.
    party: Option<String>,
    leeway_millis: f64,
    verified: Verified,
}

enum Keys {
    Fixed(KeySet),
    Cached(Arc<CachedKeys>),
}

impl Verifier {
    async fn load(config: &AuthConfig) -> Result<Self, AuthConfigError> {
        let keys = match &config.keys {
            KeySource::Secret(secret) => Keys::Fixed(KeySet::of_secret(secret)),
            KeySource::PublicKeyFile(path) => {
                let failed = |reason: String| AuthConfigError::File {
                    variable: "VFS_SYNC_JWT_PUBLIC_KEY_FILE",
                    path: path.clone(),
                    reason,
                };
                let pem = tokio::fs::read(path).await.map_err(|error| failed(error.to_string()))?;
                Keys::Fixed(KeySet::of_pem(&pem, config.algorithm).map_err(failed)?)
            }
            KeySource::JwksFile(path) => {
                let keys = CachedKeys::new(Location::File(path.clone()), config);
                keys.refresh().await.map_err(|reason| AuthConfigError::File {
                    variable: "VFS_SYNC_JWKS_FILE",
                    path: path.clone(),
                    reason,
                })?;
                Keys::Cached(Arc::new(keys))
            }
            KeySource::JwksUrl(url) => {
                let location =
                    Location::url(url.clone(), config.jwks_timeout).map_err(|problem| {
                        AuthConfigError::Value { variable: "VFS_SYNC_JWKS_URL", problem }
                    })?;
                let keys = CachedKeys::new(location, config);
                if let Err(reason) = keys.refresh().await {
                    tracing::warn!(%reason, "the JSON Web Key Set could not be fetched yet");
                }
                Keys::Cached(Arc::new(keys))
            }
            KeySource::Issuer(issuer) => {
                let location = Location::issuer(issuer.clone(), config.jwks_timeout);
                let location = location.map_err(|problem| AuthConfigError::Value {
                    variable: "VFS_SYNC_OIDC_ISSUER",
                    problem,
                })?;
                let keys = Arc::new(CachedKeys::new(location, config));
                // A provider that hangs holds up nobody but those who sign in.
                let fetching = Arc::clone(&keys);
                tokio::spawn(async move {
                    if let Err(reason) = fetching.refresh().await {
                        tracing::warn!(%reason, "the keys of the OpenID provider could not be fetched yet");
                    }
                });
                Keys::Cached(keys)
            }
            KeySource::None => Keys::Fixed(KeySet::none()),
        };
        Ok(Self {
            keys,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            party: None,
            leeway_millis: config.leeway.as_secs_f64() * 1_000.0,
            verified: Verified::default(),
        })
    }

    async fn verify(&self, token: &str, now: Timestamp) -> Result<Identity, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        if let Some(known) = self.verified.get(token) {
            let (id, algorithm) = (known.key_id.as_deref(), known.algorithm);
            // A key that counts no longer makes its tokens count no longer.
            if self.key(id, algorithm).await?.is_some_and(|key| Arc::ptr_eq(&key, &known.key)) {
                return self.check(&known.claims, now);
            }
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        // Extensions that must be understood, and are not.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let key = self.key(header.kid.as_deref(), header.alg).await?;
        let key = key.ok_or(TokenError::UnknownKey)?;
        // The library checks the signature alone: what a token says is checked below, by the
        // server's clock.
        let mut validation = Validation::new(key.algorithm.jwa());
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let claims = jsonwebtoken::decode::<Claims>(token, &key.verifier, &validation)
            .map_err(|error| refused(&error))?
            .claims;
        let identity = self.check(&claims, now);
        if identity.is_ok() {
            let (key_id, algorithm) = (header.kid, header.alg);
            self.verified.put(token, Known { key_id, algorithm, key, claims });
        }
        identity
    }

    async fn key(
        &self,
        id: Option<&str>,
        algorithm: jsonwebtoken::Algorithm,
    ) -> Result<Option<Arc<Key>>, TokenError> {
        match &self.keys {
            Keys::Fixed(keys) => Ok(keys.find(id, algorithm).cloned()),
            Keys::Cached(keys) => {
                keys.find(id, algorithm).await.map_err(|_| TokenError::KeysUnavailable)
            }
        }
    }

    fn check(&self, claims: &Claims, now: Timestamp) -> Result<Identity, TokenError> {
        #[allow(clippy::cast_precision_loss)] // milliseconds since 1970 fit a double exactly
        let now = now.as_millis() as f64;
        let expires = claims.exp.ok_or(TokenError::NoExpiry)? * 1_000.0;
        if expires + self.leeway_millis <= now {
            return Err(TokenError::Expired);
        }
        if claims.nbf.is_some_and(|from| from * 1_000.0 > now + self.leeway_millis) {
            return Err(TokenError::NotYetValid);
        }
        if self.issuer.is_some() && claims.iss != self.issuer {
            return Err(TokenError::WrongIssuer);
        }
        if let Some(audience) = &self.audience
            && !claims.aud.as_ref().is_some_and(|given| given.has(audience))
        {
            return Err(TokenError::WrongAudience);
        }
        if self.party.is_some() && claims.azp.is_some() && claims.azp != self.party {
            return Err(TokenError::WrongAudience);
        }
        let user = claims
            .sub
            .as_ref()
            .and_then(|sub| UserId::new(sub).ok())
            .ok_or(TokenError::BadSubject)?;
        let scopes = claims.scope.as_deref().unwrap_or_default();
        let scopes = scopes.split_ascii_whitespace().map(str::to_owned).collect();
        #[allow(clippy::cast_possible_truncation)] // it saturates, and such a time is none
        let expires_at = Timestamp::from_millis((expires + self.leeway_millis) as i64);
        Ok(Identity { user, scopes, expires_at, device: None })
    }
}

fn refused(error: &jsonwebtoken::errors::Error) -> TokenError {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::BadSignature,
        ErrorKind::InvalidAlgorithm => TokenError::UnknownKey,
        _ => TokenError::Malformed,
    }
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
    azp: Option<String>,
    sub: Option<String>,
    scope: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn has(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Several(several) => several.iter().any(|one| one == wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;

    fn verify(token: &str) -> Result<Identity, TokenError> {
        let config = AuthConfig::with_secret(Secret::new([7; 32])).unwrap();
        let verifier = block_on(Authenticator::load(&config)).unwrap();
        block_on(verifier.verify(token, Timestamp::from_millis(0).unwrap()))
    }

    fn mint(scope: Option<&str>) -> String {
        let user = UserId::new("alice").unwrap();
        let day = std::time::Duration::from_secs(24 * 3_600);
        let now = Timestamp::from_millis(0).unwrap();
        mint_token(&Secret::new([7; 32]), &user, scope, day, now).unwrap()
    }

    #[test]
    fn a_token_that_was_minted_counts_and_has_its_scopes() {
        let identity = verify(&mint(Some("vfs:admin  other"))).unwrap();
        assert_eq!(identity.user.as_str(), "alice");
        assert_eq!(identity.scopes, ["vfs:admin", "other"]);
        assert_eq!(verify(&mint(None)).unwrap().scopes, [""; 0]);
    }

    #[test]
    fn a_token_that_counted_once_is_still_checked_by_the_clock() {
        let config = AuthConfig::with_secret(Secret::new([7; 32])).unwrap();
        let verifier = block_on(Authenticator::load(&config)).unwrap();
        let token = mint(Some("a b"));
        let at = |hours: i64| {
            let now = Timestamp::from_millis(hours * 3_600_000).unwrap();
            block_on(verifier.verify(&token, now))
        };
        assert_eq!(at(1).unwrap(), at(2).unwrap());
        assert_eq!(at(25), Err(TokenError::Expired));
        assert_eq!(at(3).unwrap().scopes, ["a", "b"]);
    }

    #[test]
    fn a_short_secret_mints_nothing() {
        let user = UserId::new("alice").unwrap();
        let now = Timestamp::from_millis(0).unwrap();
        let minted = mint_token(&Secret::new([7; 31]), &user, None, Default::default(), now);
        assert_eq!(minted, Err(MintError::ShortSecret));
    }

    proptest! {
        #[test]
        fn no_text_makes_verifying_panic_or_succeed(text in "[ -~]{0,80}(\\.[ -~]{0,40}){0,3}") {
            prop_assert!(verify(&text).is_err());
        }

        #[test]
        fn no_change_to_a_token_leaves_it_good(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
            let good = mint(Some("scope"));
            let at = at.index(good.len());
            let mut changed = good.clone();
            changed.replace_range(at..=at, &to);
            prop_assume!(changed != good);
            // The last digit of base64 has bits that say nothing; a strict decoder refuses them.
            prop_assert!(verify(&changed).is_err(), "{}", changed);
        }
    }
}
