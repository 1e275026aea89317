//! Checks of the token: present, private, the user's, valid now.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use vfs_sync_client::sign_in::CredentialState;
use vfs_sync_core::id::UserId;
use vfs_sync_core::time::Timestamp;

use super::check::Check;
use super::site::{Site, quoted};
use crate::args::TOKEN_VARIABLE;
use crate::replica::{Settings, TokenPlace};

/// The time before its expiry from which a token is worth a note, in milliseconds.
const SOON: i64 = 24 * 3_600 * 1_000;
/// The difference of clocks that is tolerated, in milliseconds.
const LEEWAY: i64 = 60_000;

/// Checks the token; returns whether there is one.
pub(super) fn checks(
    site: &Site<'_>,
    settings: &Settings,
    user: Option<&UserId>,
    now: Timestamp,
    checks: &mut Vec<Check>,
) -> bool {
    // The old file stays until there is a new one.
    let renew = match &settings.token_file {
        _ if settings.signed_in().is_some() => site.command("login"),
        Some(file) => {
            let new = quoted(&file.with_extension("new"));
            let user = shown(user);
            format!(
                "(umask 077; vfs-sync token --user {user} > {new} && mv {new} {})",
                quoted(file)
            )
        }
        None => format!("export {TOKEN_VARIABLE}=$(vfs-sync token --user {})", shown(user)),
    };
    let (token, place) = match settings.token() {
        Ok(found) => found,
        Err(reason) => {
            checks.push(
                Check::problem("token.present", format!("there is no token: {reason}"))
                    .text("reason", &reason)
                    .explained("missing")
                    .next(renew),
            );
            for id in ["token.file", "token.user", "token.expiry", "token.scopes"] {
                checks.push(Check::skipped(id, "there is no token"));
            }
            return false;
        }
    };
    let from = match &place {
        TokenPlace::Variable => TOKEN_VARIABLE.to_owned(),
        TokenPlace::File(file) | TokenPlace::Credential(file) => file.display().to_string(),
    };
    checks.push(
        Check::ok("token.present", format!("there is a token in {from}"))
            .with("bytes", token.len())
            .name("place", &from),
    );
    checks.push(file_check(&place));
    let claims = claims(&token);
    checks.push(user_check(claims.as_ref(), user, &renew));
    checks.push(match &place {
        TokenPlace::Credential(file) => sign_in_check(file, &renew),
        TokenPlace::Variable | TokenPlace::File(_) => expiry_check(claims.as_ref(), now, &renew),
    });
    let scopes = claims.as_ref().and_then(|claims| claims.get("scope")?.as_str());
    checks.push(match scopes {
        Some(scopes) => Check::ok("token.scopes", format!("the token has the scopes {scopes}"))
            .text("scopes", scopes),
        None => Check::ok("token.scopes", "the token names no scopes: synchronising needs none"),
    });
    true
}

fn shown(user: Option<&UserId>) -> String {
    user.map_or("NAME".to_owned(), |user| quoted(std::path::Path::new(user.as_str())))
}

/// Reads the claims of a JSON Web Token, without verifying them.
fn claims(token: &str) -> Option<Map<String, Value>> {
    let payload = token.split('.').nth(1)?;
    let json = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    match serde_json::from_slice(&json).ok()? {
        Value::Object(claims) => Some(claims),
        _ => None,
    }
}

fn file_check(place: &TokenPlace) -> Check {
    let file = match place {
        TokenPlace::File(file) | TokenPlace::Credential(file) => file,
        TokenPlace::Variable => {
            return Check::ok("token.file", format!("the token is in {TOKEN_VARIABLE}"));
        }
    };
    let mode = match std::fs::metadata(file) {
        Ok(meta) => meta.permissions().mode() & 0o777,
        Err(error) => {
            return Check::note("token.file", format!("cannot look at its file: {error}"))
                .text("reason", error.to_string());
        }
    };
    let check = if mode & 0o077 == 0 {
        Check::ok("token.file", format!("only its owner reads the token's file (mode {mode:o})"))
    } else {
        Check::note("token.file", format!("others may read the token's file (mode {mode:o})"))
            .next(format!("chmod 600 {}", quoted(file)))
    };
    check.with("mode", format!("{mode:o}"))
}

fn user_check(claims: Option<&Map<String, Value>>, user: Option<&UserId>, renew: &str) -> Check {
    const ID: &str = "token.user";
    let subject = claims.and_then(|claims| claims.get("sub")?.as_str());
    match (subject, user) {
        (None, _) => Check::note(ID, "the token does not name its user: the server decides"),
        (Some(subject), None) => {
            Check::note(ID, format!("the token is of {subject}; the replica's user is not known"))
                .name("subject", subject)
        }
        (Some(subject), Some(user)) if subject == user.as_str() => {
            Check::ok(ID, format!("the token is of {subject}, as the replica is"))
                .name("subject", subject)
        }
        (Some(subject), Some(user)) => {
            let text = format!(
                "the token is of {subject}, and the replica belongs to {user}: nothing is exchanged"
            );
            Check::problem(ID, text)
                .name("subject", subject)
                .name("user", user)
                .explained("wrong_user")
                .next(renew)
        }
    }
}

/// Checks whether the device is signed in still, as far as it was told.
fn sign_in_check(file: &Path, renew: &str) -> Check {
    const ID: &str = "token.expiry";
    match CredentialState::read(file) {
        Ok(CredentialState { ended: Some(reason), .. }) => {
            Check::problem(ID, format!("the sign-in of this device has ended: {reason}"))
                .text("reason", &reason)
                .explained("credential_ended")
                .next(renew)
        }
        Ok(_) => Check::ok(ID, "the device is signed in, and renews its token by itself"),
        Err(reason) => Check::problem(ID, format!("the sign-in cannot be read: {reason}"))
            .text("reason", &reason)
            .explained("credential_ended")
            .next(renew),
    }
}

fn expiry_check(claims: Option<&Map<String, Value>>, now: Timestamp, renew: &str) -> Check {
    const ID: &str = "token.expiry";
    let time = |name: &str| {
        let seconds = claims?.get(name)?.as_f64()?;
        // Beyond all times is never.
        #[allow(clippy::cast_possible_truncation, reason = "a float saturates")]
        Timestamp::from_millis((seconds * 1_000.0) as i64)
    };
    let away = |at: Timestamp| at.as_millis().saturating_sub(now.as_millis());
    if let Some(from) = time("nbf").or_else(|| time("iat")).filter(|from| away(*from) > LEEWAY) {
        return Check::problem(
            ID,
            format!(
                "the token is valid from {from}: this device's clock, or the issuer's, is wrong"
            ),
        )
        .with("validFrom", from)
        .with("now", now)
        .explained("not_yet_valid")
        .next("date --utc");
    }
    let Some(expires) = time("exp") else {
        return Check::note(ID, "the token names no expiry: the server decides");
    };
    let check = match away(expires) {
        left if left <= 0 => Check::problem(ID, format!("the token expired at {expires}"))
            .explained("expired")
            .next(renew),
        left if left < SOON => {
            Check::note(ID, format!("the token expires soon, at {expires}")).next(renew)
        }
        _ => Check::ok(ID, format!("the token is valid until {expires}")),
    };
    check.with("expires", expires).with("now", now)
}
