//! A key set in a file or behind a URL: cached, and fetched again when it is old or lacks a key.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::config::{Algorithm, AuthConfig, url_problem};
use super::keys::{Key, KeySet};

/// The greatest size of a key set's document, in bytes.
const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;
/// Requests that wait for a key set at one time. They are of callers whose key is not known, who may
/// be anybody.
const MAX_WAITING: usize = 64;

/// The location of a key set.
pub(super) enum Location {
    File(PathBuf),
    Url {
        client: reqwest::Client,
        url: String,
    },
    /// The place that an OpenID provider's configuration names.
    Issuer {
        client: reqwest::Client,
        issuer: String,
    },
}

/// The part of an OpenID provider's configuration that names its keys.
#[derive(Deserialize)]
struct Provider {
    issuer: String,
    jwks_uri: String,
}

impl Location {
    pub(super) fn url(url: String, timeout: Duration) -> Result<Self, String> {
        Ok(Self::Url { client: client(timeout)?, url })
    }

    pub(super) fn issuer(issuer: String, timeout: Duration) -> Result<Self, String> {
        Ok(Self::Issuer { client: client(timeout)?, issuer })
    }

    async fn load(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => tokio::fs::read(path).await.map_err(|error| error.to_string()),
            Self::Url { client, url } => fetch(client, url).await,
            Self::Issuer { client, issuer } => {
                let place = format!("{}{CONFIGURATION}", issuer.trim_end_matches('/'));
                let document = fetch(client, &place).await;
                let document = document.map_err(|reason| format!("its configuration: {reason}"))?;
                let found: Provider = serde_json::from_slice(&document)
                    .map_err(|error| format!("it has no OpenID configuration: {error}"))?;
                if found.issuer != *issuer {
                    return Err(format!(
                        "VFS_SYNC_OIDC_ISSUER is {issuer}, and the provider calls itself {}: they \
                         must be equal to the letter",
                        found.issuer
                    ));
                }
                url_problem(&found.jwks_uri)
                    .map_err(|problem| format!("its jwks_uri {problem}"))?;
                fetch(client, &found.jwks_uri).await
            }
        }
    }
}

/// The place of a provider's configuration under its issuer identifier.
const CONFIGURATION: &str = "/.well-known/openid-configuration";

fn client(timeout: Duration) -> Result<reqwest::Client, String> {
    reqwest::Client::builder()
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| error.to_string())
}

async fn fetch(client: &reqwest::Client, url: &str) -> Result<Vec<u8>, String> {
    let failed = |error: reqwest::Error| error.without_url().to_string();
    let mut answer = client.get(url).send().await.map_err(failed)?;
    if !answer.status().is_success() {
        return Err(format!("the answer is {}", answer.status()));
    }
    let mut document = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        if document.len() + chunk.len() > MAX_DOCUMENT_BYTES {
            return Err(format!("it is larger than {MAX_DOCUMENT_BYTES} bytes"));
        }
        document.extend_from_slice(&chunk);
    }
    Ok(document)
}

/// A cached key set that knows when to fetch again. The last valid set stays in use while fetching
/// fails.
pub(super) struct CachedKeys {
    location: Location,
    only: Option<Algorithm>,
    max_age: Duration,
    min_refresh: Duration,
    current: RwLock<Option<(Arc<KeySet>, Instant)>>,
    /// The time of the last fetch, and whether it succeeded. The lock is held during a fetch, so one
    /// request fetches for all.
    tried: tokio::sync::Mutex<Option<(Instant, bool)>>,
    /// The places of requests that wait for a fetch.
    waiting: Semaphore,
}

/// An error for a look-up of a key that the present set lacks, if the set could not be fetched again,
/// or while too many others wait for it: the issuer may have the key.
pub(super) struct NoKeys;

impl CachedKeys {
    pub(super) fn new(location: Location, config: &AuthConfig) -> Self {
        Self {
            location,
            only: config.algorithm,
            max_age: config.jwks_max_age,
            min_refresh: config.jwks_min_refresh,
            current: RwLock::new(None),
            tried: tokio::sync::Mutex::new(None),
            waiting: Semaphore::new(MAX_WAITING),
        }
    }

    fn current(&self) -> Option<(Arc<KeySet>, Instant)> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches the key set, and uses it if it is valid.
    pub(super) async fn refresh(&self) -> Result<(), String> {
        let document = self.location.load().await?;
        let keys = KeySet::of_jwks(&document, self.only)?;
        let fetched = Some((Arc::new(keys), Instant::now()));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fetched;
        Ok(())
    }

    /// Fetches the key set unless another attempt was made a moment ago. Returns whether the last
    /// attempt succeeded.
    async fn try_refresh(&self) -> bool {
        let asked = Instant::now();
        let mut tried = self.tried.lock().await;
        // A caller that waited for another's attempt shares its outcome.
        if let Some((at, succeeded)) = *tried
            && (at >= asked || at.elapsed() < self.min_refresh)
        {
            return succeeded;
        }
        let outcome = self.refresh().await;
        *tried = Some((Instant::now(), outcome.is_ok()));
        if let Err(reason) = &outcome {
            tracing::warn!(%reason, "the JSON Web Key Set could not be fetched");
        }
        outcome.is_ok()
    }

    /// Returns whether a key set can have keys of an algorithm: it has no symmetric ones.
    fn can_have(&self, algorithm: jsonwebtoken::Algorithm) -> bool {
        [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256]
            .into_iter()
            .filter(|key| self.only.is_none_or(|only| only == *key))
            .any(|key| key.jwa() == algorithm)
    }

    /// Finds the key that a token names. An old key set stays in use while it is fetched again; a
    /// request waits only for a key that the set lacks.
    pub(super) async fn find(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: jsonwebtoken::Algorithm,
    ) -> Result<Option<Arc<Key>>, NoKeys> {
        let found = |keys: &KeySet| keys.find(id, algorithm).cloned();
        if let Some((keys, at)) = self.current()
            && let Some(key) = found(&keys)
        {
            if at.elapsed() >= self.max_age && self.tried.try_lock().is_ok() {
                let this = Arc::clone(self);
                tokio::spawn(async move { this.try_refresh().await });
            }
            return Ok(Some(key));
        }
        if !self.can_have(algorithm) {
            return Ok(None);
        }
        let _place = self.waiting.try_acquire().map_err(|_| NoKeys)?;
        let is_fetched = self.try_refresh().await;
        let (keys, _) = self.current().ok_or(NoKeys)?;
        match found(&keys) {
            None if !is_fetched => Err(NoKeys),
            found => Ok(found),
        }
    }
}
