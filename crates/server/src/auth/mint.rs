//! Minting of tokens, for servers that share a secret with the issuer.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;
use vfs_sync_core::id::UserId;
use vfs_sync_core::time::Timestamp;

use super::config::{AuthConfig, KeySource, MIN_SECRET_BYTES};
use super::secret::Secret;

/// A reason why no token was minted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The server has no secret: tokens are signed elsewhere.
    #[error(
        "this server verifies tokens by public keys: get a token from the holder of the private key"
    )]
    NoSecret,
    /// The secret is too short.
    #[error("the secret needs at least {MIN_SECRET_BYTES} bytes")]
    ShortSecret,
    /// The library failed to sign.
    #[error("the token could not be signed: {0}")]
    Failed(String),
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

/// Makes an HS256 token for `user` that is valid from `now` for `ttl`.
///
/// # Errors
/// [`MintError::ShortSecret`] below 32 bytes.
pub fn mint_token(
    secret: &Secret,
    user: &UserId,
    scope: Option<&str>,
    ttl: Duration,
    now: Timestamp,
) -> Result<String, MintError> {
    sign(secret, user, scope, ttl, now, (None, None))
}

impl AuthConfig {
    /// Makes a token as [`mint_token`] does, with the configured issuer and audience.
    ///
    /// # Errors
    /// [`MintError::NoSecret`] if tokens are verified by public keys.
    pub fn mint(
        &self,
        user: &UserId,
        scope: Option<&str>,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<String, MintError> {
        let KeySource::Secret(secret) = &self.keys else { return Err(MintError::NoSecret) };
        let context = (self.issuer.as_deref(), self.audience.as_deref());
        sign(secret, user, scope, ttl, now, context)
    }
}

fn sign(
    secret: &Secret,
    user: &UserId,
    scope: Option<&str>,
    ttl: Duration,
    now: Timestamp,
    (iss, aud): (Option<&str>, Option<&str>),
) -> Result<String, MintError> {
    if secret.expose().len() < MIN_SECRET_BYTES {
        return Err(MintError::ShortSecret);
    }
    let iat = now.as_millis().div_euclid(1_000);
    let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    // A double, as which other parties may read it, is exact below 2^53.
    let exp = iat.saturating_add(ttl).min((1 << 53) - 1);
    let claims = Claims { sub: user.as_str(), iat, exp, scope, iss, aud };
    let key = EncodingKey::from_secret(secret.expose());
    jsonwebtoken::encode(&Header::default(), &claims, &key)
        .map_err(|error| MintError::Failed(error.to_string()))
}
