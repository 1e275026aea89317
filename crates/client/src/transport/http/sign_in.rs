//! Calls of signing in: how one does it, a credential for the provider's token, its renewal, its end.

use reqwest::header::AUTHORIZATION;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use vfs_sync_core::id::UserId;
use vfs_sync_core::wire::credential::{
    AccessGrant, AuthView, NEXT_SECRET_HEADER, Proposal, RefreshSecret,
};
use vfs_sync_core::wire::device::{CLIENT_HEADER, DEVICE_HEADER};
use vfs_sync_core::wire::{ErrorBody, USER_HEADER, user_header};

use super::{HttpTransport, answer, malformed};
use crate::device::Device;
use crate::transport::error::{Result, TransportError};

/// The reason in a `401` whose secret the server does not know, though the sign-in may be good.
const UNKNOWN: &str = "credential_unknown";

/// A reason why a renewal brought no access token.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NotRenewed {
    /// The sign-in has ended, with the server's sentence.
    #[error("{0}")]
    Ended(String),
    /// The server knows other secrets of the sign-in, the newest of this generation.
    #[error("the server knows the sign-in's secrets up to the {generation}th")]
    Unknown {
        /// The number of the newest secret that the server knows.
        generation: u64,
    },
    /// The call itself has failed.
    #[error(transparent)]
    Failed(#[from] TransportError),
}

impl HttpTransport {
    /// Asks the server how one signs in; a server of an earlier version takes tokens by hand.
    ///
    /// # Errors
    /// [`TransportError`] if the server gives no usable answer.
    pub async fn sign_in_methods(&self) -> Result<AuthView> {
        let request = self.http.get(self.url(&["auth"])).timeout(self.config.request_timeout);
        let response = request.send().await.map_err(answer::network)?;
        answer::read("auth", answer::check_status("auth", response).await?).await
    }

    /// Exchanges the provider's token for a credential of `device`, whose first secret is `first`. A
    /// repetition with the same secret gets the same credential.
    ///
    /// # Errors
    /// [`TransportError::Unauthorized`] if the server rejects the token, [`TransportError::WrongUser`]
    /// if it is not `user`'s.
    pub async fn sign_in(
        &self,
        token: &str,
        device: &Device,
        user: Option<&UserId>,
        first: &RefreshSecret,
    ) -> Result<AccessGrant> {
        let url = self.url(&["auth", "credential"]);
        let mut request = self.as_device(self.http.post(url), token, device, &first.proposal());
        if let Some(user) = user {
            request = request.header(USER_HEADER, user_header(user));
        }
        let response = self.send_plain(request).await?;
        let grant: AccessGrant =
            answer::read("signIn", answer::check_status("signIn", response).await?).await?;
        if grant.client_id != *device.client_id() {
            return Err(malformed("signIn", "clientId", "is not the one sent"));
        }
        Ok(grant)
    }

    /// Renews the access token of `device` by a secret, with the one that the device has kept as the
    /// next.
    ///
    /// # Errors
    /// [`NotRenewed`] says whether the sign-in has ended.
    pub async fn renew(
        &self,
        presented: &RefreshSecret,
        device: &Device,
        next: &RefreshSecret,
    ) -> Result<AccessGrant, NotRenewed> {
        let url = self.url(&["auth", "renewal"]);
        let request =
            self.as_device(self.http.post(url), &presented.text(), device, &next.proposal());
        let response = self.send_plain(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(not_renewed(response).await);
        }
        let grant: AccessGrant =
            answer::read("renewal", answer::check_status("renewal", response).await?).await?;
        if grant.client_id != *device.client_id() {
            return Err(malformed("renewal", "clientId", "is not the one sent").into());
        }
        Ok(grant)
    }

    /// Ends the credential of a secret at the server; the call may be repeated.
    ///
    /// # Errors
    /// [`TransportError`] if the server gives no usable answer.
    pub async fn sign_out(&self, secret: &RefreshSecret) -> Result<()> {
        let request = self.http.request(Method::DELETE, self.url(&["auth", "credential"]));
        let response = self.send_plain(bearing(request, &secret.text())).await?;
        let response = answer::check_status("signOut", response).await?;
        if response.status() != StatusCode::NO_CONTENT {
            return Err(malformed("signOut", "status", "is not 204"));
        }
        Ok(())
    }

    fn as_device(
        &self,
        request: RequestBuilder,
        token: &str,
        device: &Device,
        next: &Proposal,
    ) -> RequestBuilder {
        bearing(request, token)
            .header(CLIENT_HEADER, device.client_header())
            .header(DEVICE_HEADER, device.description_header())
            .header(NEXT_SECRET_HEADER, next.header())
    }

    /// Sends a request that names its bearer itself.
    async fn send_plain(&self, request: RequestBuilder) -> Result<Response> {
        request.timeout(self.config.request_timeout).send().await.map_err(answer::network)
    }
}

fn bearing(request: RequestBuilder, token: &str) -> RequestBuilder {
    match reqwest::header::HeaderValue::try_from(format!("Bearer {token}")) {
        Ok(mut value) => {
            value.set_sensitive(true);
            request.header(AUTHORIZATION, value)
        }
        // The server answers that there is none.
        Err(_) => request,
    }
}

/// Reads why a secret was refused.
async fn not_renewed(response: Response) -> NotRenewed {
    let body = match answer::body("renewal", response).await {
        Ok(body) => body,
        Err(error) => return error.into(),
    };
    let Ok(body) = serde_json::from_slice::<ErrorBody>(&body) else {
        // A proxy, perhaps: it says nothing of the sign-in.
        return TransportError::network("401 without a reason").into();
    };
    let reason = body.details.get("reason").and_then(|reason| reason.as_str());
    let generation = body.details.get("generation").and_then(serde_json::Value::as_u64);
    match (reason, generation) {
        (Some(UNKNOWN), Some(generation)) => NotRenewed::Unknown { generation },
        _ => NotRenewed::Ended(body.error),
    }
}
