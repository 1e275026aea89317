//! Checks the user of requests and answers, in the one function through which all of them pass.
//!
//! A replica belongs to its user. Each request names that user, and a server rejects a token of
//! another user before anything else. Servers of earlier versions ignore the name and do not return
//! one. With those the token itself has to name the user, as the JWTs that such servers use do;
//! otherwise the client sends no data to them and takes none from their answers.

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderValue};
use vfs_sync_core::id::UserId;
use vfs_sync_core::wire::USER_HEADER;
use vfs_sync_core::wire::device::{CLIENT_HEADER, DEVICE_HEADER};

use super::meant_for::token_subject;
use super::net::{RequestBuilder, Response};
use super::{Gives, HttpTransport, answer};
use crate::transport::error::{Result, TransportError};

/// A token, and the user that it names.
struct Bearer {
    value: HeaderValue,
    owner: Option<UserId>,
}

impl HttpTransport {
    async fn bearer(&self, refresh: bool) -> Result<Bearer> {
        let token = self.token.provide(refresh).await?;
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| TransportError::Unauthorized("the token is no header value".into()))?;
        value.set_sensitive(true);
        let owner = token_subject(&token).and_then(|name| UserId::new(name).ok());
        Ok(Bearer { value, owner })
    }

    /// Sends a request with a token and the user that it is meant for. Returns an answer that is
    /// for that user, or that names no user.
    pub(super) async fn exchange(
        &self,
        request: RequestBuilder,
        gives: Gives,
        refresh: bool,
    ) -> Result<Response> {
        let bearer = self.bearer(refresh).await?;
        if gives == Gives::Data && !self.meant_for.may_give(bearer.owner.as_ref()) {
            self.ask_whose(&bearer).await?;
        }
        self.send_as(&bearer, request).await
    }

    /// Asks the server for the token's user, by a call that neither sends nor changes data.
    async fn ask_whose(&self, bearer: &Bearer) -> Result<()> {
        let url = self.url(&["limits"]);
        let request = self.http.get(url).timeout(self.config.request_timeout);
        let response = self.send_as(bearer, request).await?;
        // The request itself is going to be refused for the same reason.
        if response.status() == StatusCode::UNAUTHORIZED {
            return Ok(());
        }
        answer::check_status("limits", response).await.map(drop)
    }

    async fn send_as(&self, bearer: &Bearer, request: RequestBuilder) -> Result<Response> {
        let mut request = request.header(AUTHORIZATION, bearer.value.clone());
        if let Some(user) = self.meant_for.header() {
            request = request.header(USER_HEADER, user);
        }
        if let Some(device) = self.device.get() {
            request = request.header(CLIENT_HEADER, device.client_header());
            request = request.header(DEVICE_HEADER, device.description_header());
        }
        let response = request.send().await.map_err(answer::network)?;
        let named = response.headers().get(USER_HEADER);
        // A header that is no text names no user, but counts as present.
        let named = named.map(|value| value.to_str().unwrap_or_default());
        let status = response.status().as_u16();
        self.meant_for.check(status, named, bearer.owner.as_ref()).map(|()| response)
    }
}
