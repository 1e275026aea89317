//! Signing this device in and out: `login`, `logout`.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::sign_in::{CredentialFile, DeviceCode, Provider, SignInError};
use vfs_sync_client::{Device, HttpTransport, StaticToken, TransportError};
use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::wire::credential::{AccessGrant, AuthView, RefreshSecret, SignInMethod};

use crate::args::{Global, Login};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::Output;
use crate::replica::{self, Settings};
use crate::shutdown;

/// Attempts to exchange the provider's token while the server cannot be reached, a second apart.
const ATTEMPTS: u32 = 10;

/// The device that signs in, and its replica if there is one.
struct SigningIn<'g> {
    directory: &'g Path,
    settings: Settings,
    client: ReplicaId,
    /// The user of the replica; `None` if there is none yet.
    user: Option<UserId>,
}

pub(in crate::commands) async fn login(
    global: &Global,
    args: Login,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let directory = replica::directory(global)?;
    let device = device(global, &directory, args)?;
    shutdown::unless_stopped(&stop, sign_in(&device, output)).await
}

/// Finds out which replica is to be signed in, or prepares a new one.
fn device<'g>(global: &Global, directory: &'g Path, args: Login) -> Result<SigningIn<'g>> {
    match replica::read_settings(directory) {
        Ok(mut settings) => {
            if let Some(server) = &args.server
                && server.trim_end_matches('/') != settings.server
            {
                let text = format!("the replica is one of {}, not of {server}", settings.server);
                return Err(Failure::usage(text)
                    .hint("leave out --server, or name another replica with --replica"));
            }
            if args.device.is_some() {
                return Err(Failure::usage(
                    "the replica has a name already: --device is for a new one",
                )
                .hint("`vfs-sync devices rename` gives the device another name"));
            }
            settings.insecure_http |= global.insecure_http;
            let status = replica::open(global, replica::config())?.status()?;
            let (client, user) = (status.client_id, Some(status.user));
            Ok(SigningIn { directory, settings, client, user })
        }
        Err(failure) if failure.kind == Kind::NotFound => {
            let Some(server) = &args.server else {
                return Err(failure.hint("name the server: `vfs-sync login --server URL`"));
            };
            let mut settings = Settings::new(server.trim_end_matches('/'), None);
            settings.insecure_http = global.insecure_http;
            settings.device = args.device.or_else(replica::host_name);
            let client = ReplicaId::new(uuid::Uuid::now_v7().to_string());
            let client = client.expect("a UUID is an id");
            Ok(SigningIn { directory, settings, client, user: None })
        }
        Err(failure) => Err(failure),
    }
}

async fn sign_in(device: &SigningIn<'_>, output: Output) -> Result<()> {
    let SigningIn { directory, settings, client, user } = device;
    let credential = settings.credential_in(directory)?;
    // Its calls name their bearers themselves.
    let server = HttpTransport::new(settings.http_config(), StaticToken::new("none"))?;
    let auth = match server.sign_in_methods().await {
        Ok(auth) => auth,
        Err(TransportError::Refused { status: 404, .. }) => return Err(by_hand(&settings.server)),
        Err(error) => return Err(error.into()),
    };
    if auth.method == SignInMethod::Token {
        return Err(by_hand(&settings.server));
    }
    let token = confirmed(&auth, settings, output).await?;
    let name = settings.device.clone().or_else(replica::host_name);
    let own = Device::new(client.clone(), name);
    let first = credential.first_secret()?;
    let grant = exchange(&server, &token, &own, user.as_ref(), &first).await?;
    if let Err(failure) = keep(device, &credential, &grant, &first).await {
        // Nobody has its secret.
        let _ = server.sign_out(&first).await;
        return Err(failure);
    }
    output.json(&json!({
        "event": "signedIn", "user": grant.user_id, "clientId": client, "server": settings.server,
        "replica": directory.to_string_lossy(), "created": user.is_none(),
    }))?;
    let shown = escaped(grant.user_id.as_str());
    output.say(format_args!("signed in as {shown}; the sign-in renews itself"))?;
    match user {
        Some(_) => Ok(()),
        None => output.say(format_args!(
            "created a replica of {shown}'s tree in {}; `vfs-sync up DIR` keeps a directory in step",
            escaped(&directory.to_string_lossy())
        )),
    }
}

/// Takes the user through the provider's device flow, and returns its token.
async fn confirmed(auth: &AuthView, settings: &Settings, output: Output) -> Result<String> {
    let provider = Provider::discover(auth, settings.insecure_http).await?;
    let code = provider.code().await?;
    show(&code, settings, output)?;
    Ok(provider.token(&code).await?)
}

fn show(code: &DeviceCode, settings: &Settings, output: Output) -> Result<()> {
    let name = settings.device.clone().or_else(replica::host_name).unwrap_or_default();
    if output.json {
        return output.json(&json!({
            "event": "code", "userCode": code.user_code,
            "verificationUri": code.verification_uri,
            "verificationUriComplete": code.verification_uri_complete,
            "expiresIn": code.expires_in.as_secs(), "device": name, "server": settings.server,
        }));
    }
    let page = code.verification_uri_complete.as_ref().unwrap_or(&code.verification_uri);
    output.text(format_args!(
        "to sign in {} at {}, open\n  {}\nand confirm the code\n  {}\nwithin {} minutes; confirm \
         none that you did not ask for",
        if name.is_empty() { "this device".to_owned() } else { escaped(&name) },
        escaped(&settings.server),
        escaped(page),
        escaped(&code.user_code),
        code.expires_in.as_secs().div_ceil(60),
    ))
}

/// Exchanges the provider's token for a credential; while the server cannot be reached, again.
async fn exchange(
    server: &HttpTransport,
    token: &str,
    device: &Device,
    user: Option<&UserId>,
    first: &RefreshSecret,
) -> Result<AccessGrant> {
    for _ in 1..ATTEMPTS {
        match server.sign_in(token, device, user, first).await {
            Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_secs(1)).await,
            done => return Ok(done?),
        }
    }
    Ok(server.sign_in(token, device, user, first).await?)
}

/// Keeps the credential in the replica's directory, and makes the replica if there is none.
async fn keep(
    device: &SigningIn<'_>,
    credential: &CredentialFile,
    grant: &AccessGrant,
    first: &RefreshSecret,
) -> Result<()> {
    if device.user.is_none() {
        let (client, user) = (device.client.clone(), grant.user_id.clone());
        replica::create_signed_in(device.directory, &device.settings, client, user)?;
    }
    Ok(credential.create(grant, first).await?)
}

fn by_hand(server: &str) -> Failure {
    let text =
        format!("{server} has no identity provider to sign in with: it takes tokens by hand");
    Failure::new(Kind::Auth, text).hint(format!(
        "ask its operator for a token, put it into a file that only you can read, and name the file: \
         `vfs-sync init --server {server} --token-file FILE`"
    ))
}

pub(in crate::commands) async fn logout(
    global: &Global,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let directory = replica::directory(global)?;
    let settings = replica::read_settings(&directory)?;
    if settings.signed_in().is_none() {
        return Err(Failure::new(Kind::NotFound, "this device is not signed in")
            .hint("a token that was given by hand ends with its time, or at its issuer"));
    }
    let credential = settings.credential_in(&directory)?;
    let ended = tokio::select! {
        ended = credential.sign_out() => ended,
        () = stop.cancelled() => return Err(shutdown::interrupted()),
    };
    match ended {
        Ok(()) => {
            output.json(&json!({ "signedOut": true, "server": settings.server }))?;
            output.say("signed out: everything on this device stays, and nothing is exchanged")?;
            match &settings.token_file {
                Some(file) => output.say(format_args!(
                    "the token in {} counts again",
                    escaped(&file.to_string_lossy())
                )),
                None => Ok(()),
            }
        }
        Err(SignInError::Transport(error)) => {
            let text = format!("this device has forgotten its sign-in, but {error}");
            Err(Failure::new(Kind::Partial, text).hint(
                "to end it at the server too, sign in again and out, or use `vfs-sync devices revoke` \
                 on another device",
            ))
        }
        Err(error) => Err(error.into()),
    }
}

impl From<SignInError> for Failure {
    fn from(error: SignInError) -> Self {
        let message = error.to_string();
        match error {
            SignInError::Transport(error) => error.into(),
            SignInError::Provider { .. } => Self::new(Kind::Network, message).hint(
                "try again; if it lasts, the server's operator can check VFS_SYNC_OIDC_ISSUER and \
                 VFS_SYNC_OIDC_CLIENT_ID, and that the provider allows the device flow",
            ),
            SignInError::Refused => Self::new(Kind::Auth, message).hint(
                "`vfs-sync login` asks again; whoever runs the provider knows why it refuses",
            ),
            SignInError::Expired => {
                Self::new(Kind::Auth, message).hint("`vfs-sync login` shows a new code")
            }
            SignInError::File { .. } => {
                Self::failed(message).hint("check whether the disk is full or read-only")
            }
        }
    }
}
