//! OpenID Connect's device flow (RFC 8628), from the side of the device.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use vfs_sync_core::wire::credential::AuthView;

use super::SignInError;

/// The place of a provider's configuration under its issuer identifier.
const CONFIGURATION: &str = "/.well-known/openid-configuration";
/// The grant type of the device flow.
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// The greatest size of a provider's answer in bytes.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// The time of one call to the provider.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pause between two questions if the provider names none, as the standard says.
const USUAL_INTERVAL: Duration = Duration::from_secs(5);
/// The longest pause between two questions.
const MAX_INTERVAL: Duration = Duration::from_secs(60);
/// The longest time that a code is waited for.
const MAX_LIFETIME: Duration = Duration::from_secs(3_600);

/// An OpenID provider with the device flow.
#[derive(Debug)]
pub struct Provider {
    http: reqwest::Client,
    issuer: String,
    client_id: String,
    scope: String,
    insecure_http: bool,
    device_authorization_endpoint: Url,
    token_endpoint: Url,
}

/// A code that the user confirms on another device.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceCode {
    /// The code that the user types in, or compares.
    pub user_code: String,
    /// The page at which the code is confirmed.
    pub verification_uri: String,
    /// The page with the code filled in, if the provider has one.
    pub verification_uri_complete: Option<String>,
    /// The time for which the code can be confirmed.
    pub expires_in: Duration,
    interval: Duration,
    device_code: String,
}

impl std::fmt::Debug for DeviceCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceCode").field("user_code", &self.user_code).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    token_endpoint: String,
    device_authorization_endpoint: Option<String>,
}

#[derive(Deserialize)]
struct Authorization {
    device_code: String,
    user_code: String,
    #[serde(alias = "verification_url")]
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    error_description: Option<String>,
}

/// An answer of the provider: what was asked for, or the error of the standard.
enum Answered<T> {
    Yes(T),
    No(Refusal),
}

impl Provider {
    /// Reads the configuration of the provider that a server names. `insecure_http` allows one that is
    /// neither encrypted nor on this machine.
    ///
    /// # Errors
    /// [`SignInError::Provider`] if there is none with a device flow.
    pub async fn discover(auth: &AuthView, insecure_http: bool) -> Result<Self, SignInError> {
        let issuer = auth.issuer.clone().unwrap_or_default();
        let failed = |reason: String| SignInError::Provider { issuer: issuer.clone(), reason };
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            // Codes go to nobody but the provider.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("vfs-sync/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let place = format!("{}{CONFIGURATION}", issuer.trim_end_matches('/'));
        let place = address("issuer", &place, insecure_http).map_err(&failed)?;
        let request = http.get(place).header(ACCEPT, "application/json");
        let found: Configuration = match answered(request).await.map_err(&failed)? {
            Answered::Yes(found) => found,
            Answered::No(refusal) => return Err(failed(refusal.text())),
        };
        if found.issuer != issuer {
            return Err(failed(format!("it calls itself {}", found.issuer)));
        }
        let device = found.device_authorization_endpoint.ok_or_else(|| {
            failed("it has no device flow: its operator can enable it".to_owned())
        })?;
        let endpoint = |name, url: &str| address(name, url, insecure_http).map_err(&failed);
        Ok(Self {
            device_authorization_endpoint: endpoint("device_authorization_endpoint", &device)?,
            token_endpoint: endpoint("token_endpoint", &found.token_endpoint)?,
            client_id: auth.client_id.clone().unwrap_or_default(),
            scope: auth.scope.clone().unwrap_or_else(|| "openid".to_owned()),
            http,
            issuer,
            insecure_http,
        })
    }

    fn failed(&self, reason: impl Into<String>) -> SignInError {
        SignInError::Provider { issuer: self.issuer.clone(), reason: reason.into() }
    }

    async fn post<T: DeserializeOwned>(
        &self,
        url: &Url,
        fields: &[(&str, &str)],
    ) -> Result<Answered<T>, String> {
        // A form is encoded as the query of a URL is.
        let mut form = url.clone();
        form.query_pairs_mut().clear().extend_pairs(fields);
        let body = form.query().unwrap_or_default().to_owned();
        let request = self
            .http
            .post(url.clone())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        answered(request).await
    }

    /// Asks for a code that the user can confirm.
    ///
    /// # Errors
    /// [`SignInError::Provider`] if the provider gives none.
    pub async fn code(&self) -> Result<DeviceCode, SignInError> {
        let fields = [("client_id", &*self.client_id), ("scope", &*self.scope)];
        let answer = self.post(&self.device_authorization_endpoint, &fields).await;
        let found: Authorization = match answer.map_err(|reason| self.failed(reason))? {
            Answered::Yes(found) => found,
            Answered::No(refusal) => return Err(self.failed(refusal.text())),
        };
        // They are shown to the user: nothing but addresses.
        for url in std::iter::once(&found.verification_uri).chain(&found.verification_uri_complete)
        {
            address("verification_uri", url, self.insecure_http)
                .map_err(|reason| self.failed(reason))?;
        }
        let interval = found.interval.map_or(USUAL_INTERVAL, Duration::from_secs);
        Ok(DeviceCode {
            user_code: found.user_code,
            verification_uri: found.verification_uri,
            verification_uri_complete: found.verification_uri_complete,
            expires_in: Duration::from_secs(found.expires_in).min(MAX_LIFETIME),
            interval: interval.clamp(Duration::from_secs(1), MAX_INTERVAL),
            device_code: found.device_code,
        })
    }

    /// Waits until the user has confirmed a code, and returns the provider's token for the server.
    ///
    /// # Errors
    /// [`SignInError::Refused`], [`SignInError::Expired`], or [`SignInError::Provider`] if an answer
    /// does not follow the standard. While the provider cannot be reached it is asked less often.
    pub async fn token(&self, code: &DeviceCode) -> Result<String, SignInError> {
        let end = Instant::now() + code.expires_in;
        let mut interval = code.interval;
        let fields = [
            ("grant_type", DEVICE_GRANT),
            ("device_code", &*code.device_code),
            ("client_id", &*self.client_id),
        ];
        loop {
            if Instant::now() + interval >= end {
                tokio::time::sleep_until(end).await;
                return Err(SignInError::Expired);
            }
            tokio::time::sleep(interval).await;
            let refusal = match self.post::<Tokens>(&self.token_endpoint, &fields).await {
                Ok(Answered::Yes(tokens)) => {
                    return tokens.id_token.ok_or_else(|| {
                        self.failed("it gave no ID token: the scope openid may not be allowed")
                    });
                }
                Ok(Answered::No(refusal)) => refusal,
                Err(reason) => {
                    tracing::debug!(reason, "the provider gave no answer");
                    interval = (interval * 2).min(MAX_INTERVAL);
                    continue;
                }
            };
            match &*refusal.error {
                "authorization_pending" => {}
                "slow_down" => interval = (interval + USUAL_INTERVAL).min(MAX_INTERVAL),
                "access_denied" => return Err(SignInError::Refused),
                "expired_token" => return Err(SignInError::Expired),
                _ => return Err(self.failed(refusal.text())),
            }
        }
    }
}

impl Refusal {
    fn text(&self) -> String {
        let bounded = |text: &str| text.chars().take(300).collect::<String>();
        match &self.error_description {
            Some(description) => format!("{}: {}", bounded(&self.error), bounded(description)),
            None => bounded(&self.error),
        }
    }
}

/// Parses an address that a provider names: encrypted, or on this machine.
fn address(name: &str, text: &str, insecure_http: bool) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("its {name} is no URL: {error}"))?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if insecure_http || crate::transport::is_loopback(&url) => Ok(url),
        _ => Err(format!("its {name} is not encrypted")),
    }
}

/// Sends a request; errors are those of the way, and answers that are none of the standard.
async fn answered<T: DeserializeOwned>(
    request: reqwest::RequestBuilder,
) -> Result<Answered<T>, String> {
    let failed = |error: reqwest::Error| {
        use std::error::Error as _;
        let error = error.without_url();
        error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
    };
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err("its answer is too long".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        let parsed = serde_json::from_slice(&body);
        return parsed.map(Answered::Yes).map_err(|error| format!("its answer: {error}"));
    }
    match serde_json::from_slice(&body) {
        Ok(refusal) if status.is_client_error() => Ok(Answered::No(refusal)),
        _ => Err(format!("its answer is {status}")),
    }
}
