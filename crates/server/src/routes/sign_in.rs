//! Signing in: how one does it, a device's credential for the provider's token, its renewal, its end.
//!
//! The calls carry no body: the token or secret is the bearer token, and headers name the device and
//! the digest of its next secret.

use axum::Json;
use axum::extract::{Request, State};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use vfs_sync_core::id::UserId;
use vfs_sync_core::server::credential::ACCESS_SECONDS;
use vfs_sync_core::wire::credential::{
    AccessGrant, AuthView, CredentialId, NEXT_SECRET_HEADER, Proposal, RefreshSecret,
};
use vfs_sync_core::wire::device::CLIENT_HEADER;
use vfs_sync_store::{Admission, RenewAnswer, SignInAnswer};

use crate::admission::Denial;
use crate::admission::fair_store::calling_for;
use crate::admission::rates::Origin;
use crate::auth::{DeviceClaim, TokenError};
use crate::background::devices::Caller;
use crate::error::ApiError;
use crate::http::extract::{bearer, caller_of, intended, refused};
use crate::operator::audit;
use crate::router::address_of;
use crate::routes::sync::NO_STORE;
use crate::state::App;

type NoStore = [(HeaderName, HeaderValue); 1];
type Granted = (NoStore, Json<AccessGrant>);

pub(crate) async fn methods(State(app): State<App>) -> (NoStore, Json<AuthView>) {
    ([NO_STORE], Json(app.auth.view()))
}

/// Reads the device of a request, which its headers have to name.
fn device(app: &App, request: &Request) -> Result<Caller, ApiError> {
    let address = address_of(app, request);
    let caller = caller_of(request.headers(), None, address)?;
    caller.ok_or_else(|| ApiError::invalid(CLIENT_HEADER, "must name the device's client id"))
}

/// Reads the digest of the secret that the device is going to use.
fn proposal(headers: &HeaderMap) -> Result<Proposal, ApiError> {
    let mut given = headers.get_all(NEXT_SECRET_HEADER).iter();
    let value = given.next().and_then(|value| value.to_str().ok());
    let proposal = value.and_then(Proposal::of_header).filter(|_| given.next().is_none());
    proposal.ok_or_else(|| {
        ApiError::invalid(NEXT_SECRET_HEADER, "must be one credential id and digest of a secret")
    })
}

/// Reads the secret of a credential, which is the request's bearer token.
fn secret(headers: &HeaderMap) -> Result<RefreshSecret, ApiError> {
    let text = bearer(headers).map_err(refused)?;
    RefreshSecret::parse(text).ok_or_else(|| refused(TokenError::Malformed))
}

fn denied(admission: Admission) -> ApiError {
    Denial::of(admission).map_or_else(ApiError::internal, ApiError::from)
}

/// Makes an access token for a device, which has the credential by now.
async fn granted(
    app: &App,
    user: UserId,
    caller: Caller,
    credential: CredentialId,
) -> Result<Granted, ApiError> {
    let device = DeviceClaim { client: caller.client.clone(), credential };
    let caller = Caller { credential: Some(credential), ..caller };
    calling_for(&user, app.admit(&user, Some(&caller))).await?;
    let access_token = app.access.sign(&*app.store, &user, &device, app.now()).await?;
    let client_id = device.client;
    let grant = AccessGrant { user_id: user, client_id, access_token, expires_in: ACCESS_SECONDS };
    Ok(([NO_STORE], Json(grant)))
}

pub(crate) async fn sign_in(State(app): State<App>, request: Request) -> Result<Granted, ApiError> {
    let headers = request.headers();
    let token = bearer(headers).map_err(refused)?;
    let (caller, first) = (device(&app, &request)?, proposal(headers)?);
    let verified = app.auth.verify_sign_in(token, app.now()).await;
    let identity = verified.ok_or_else(ApiError::no_provider)?.map_err(refused)?;
    let user = intended(headers, identity)?.user;
    let origin = Origin { user: user.clone(), address: caller.address };
    let _share = app.request_share(&origin).await?;
    let done = app.store.sign_in(&user, &caller.client, first, app.now());
    match calling_for(&user, done).await? {
        SignInAnswer::SignedIn => {}
        SignInAnswer::Denied(admission) => return Err(denied(admission)),
        SignInAnswer::Taken => {
            return Err(ApiError::invalid(NEXT_SECRET_HEADER, "names a credential that exists"));
        }
    }
    app.admissions.changed();
    let client = caller.client.clone();
    let granted = granted(&app, user.clone(), caller, first.id).await?;
    audit::note(&app, &user, "device_signed_in", &user, client.as_str());
    Ok(granted)
}

pub(crate) async fn renew(State(app): State<App>, request: Request) -> Result<Granted, ApiError> {
    let headers = request.headers();
    let presented = secret(headers)?;
    let (caller, next) = (device(&app, &request)?, proposal(headers)?);
    if next.id != presented.id() {
        return Err(ApiError::invalid(NEXT_SECRET_HEADER, "must be of the same credential"));
    }
    let answer = app.store.renew_credential(&presented, &caller.client, next.hash, app.now());
    match answer.await? {
        RenewAnswer::Granted { user, .. } => granted(&app, user, caller, presented.id()).await,
        RenewAnswer::Reused { user, client } => {
            app.admissions.changed();
            app.pseudonyms.load(&*app.store).await?;
            audit::note(&app, &user, "credential_reused", &user, client.as_str());
            Err(refused(TokenError::CredentialReused))
        }
        RenewAnswer::Ended => Err(refused(TokenError::CredentialEnded)),
        RenewAnswer::Unknown { generation } => {
            Err(refused(TokenError::CredentialUnknown).with("generation", generation))
        }
        RenewAnswer::OtherClient => Err(refused(TokenError::OtherDevice)),
        RenewAnswer::Denied(admission) => Err(denied(admission)),
    }
}

pub(crate) async fn sign_out(
    State(app): State<App>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let presented = secret(request.headers())?;
    if let Some((user, client)) = app.store.end_credential(&presented).await? {
        app.admissions.changed();
        app.pseudonyms.load(&*app.store).await?;
        audit::note(&app, &user, "device_signed_out", &user, client.as_str());
    }
    // What has ended before is ended, too: the call may be repeated.
    Ok(StatusCode::NO_CONTENT)
}
