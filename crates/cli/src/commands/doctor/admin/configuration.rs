//! Checks of the server's settings in this environment, its keys, certificate, address and backups.

use std::path::Path;

use clap::{Args as _, FromArgMatches as _};
use vfs_sync_client::HttpConfig;
use vfs_sync_core::time::Timestamp;
use vfs_sync_server::ServerConfig;
use vfs_sync_server::auth::{Authenticator, KeySource};
use vfs_sync_store::MetadataStore;

use super::super::check::{Check, Outcome};
use super::super::network::{PATIENCE, probed};
use super::super::site::quoted;
use super::Ground;
use super::database::failed;
use crate::args::Serve;
use crate::commands::operator::backup::newest;
use crate::machine;
use crate::output::{count_text, counted};
use crate::replica::{self, Settings};
use crate::server;

const DAY: i64 = 24 * 3_600 * 1_000;
/// The age of the newest backup from which it is a note, in milliseconds, and a problem.
const BACKUP_NOTE: i64 = 2 * DAY;
const BACKUP_PROBLEM: i64 = 8 * DAY;
/// The age that a signing key reaches, in milliseconds, if keys are replaced as they should be.
const SIGNING_KEY_OLD: i64 = 32 * DAY;
/// The time before a certificate's end from which it is a note, in milliseconds, and a problem.
const CERTIFICATE_NOTE: i64 = 21 * DAY;
const CERTIFICATE_PROBLEM: i64 = 7 * DAY;

/// Reads the settings of `serve` from the environment, as `serve` would.
///
/// # Errors
/// The sentence of the first setting that cannot be used.
pub(super) fn serve(data: Option<&Path>) -> Result<Serve, String> {
    let command = Serve::augment_args(clap::Command::new("serve"));
    let mut words = vec!["serve".into()];
    if std::env::var_os("VFS_SYNC_LISTEN").is_none() {
        words.extend(["--listen".into(), "127.0.0.1:0".into()]);
    }
    words.extend(["--data".into(), data.unwrap_or(Path::new(".")).as_os_str().to_owned()]);
    let sentence = |error: clap::Error| {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    };
    let matches = command.try_get_matches_from(words).map_err(sentence)?;
    Serve::from_arg_matches(&matches).map_err(sentence)
}

pub(super) async fn checks(ground: &Ground<'_>, checks: &mut Vec<Check>) {
    checks.push(settings(ground));
    checks.push(descriptors(&ground.config));
    checks.push(token_keys().await);
    if let Ok(Serve { tls_cert: Some(certificate), tls_key: Some(key), .. }) = &ground.serve {
        checks.push(certificate_pair(certificate, key, ground.now));
    }
    if let Some(url) = &ground.args.url {
        address(url, checks).await;
    }
    if let Some(directory) = &ground.args.backups {
        checks.push(backup(directory, ground.now));
    }
}

fn settings(ground: &Ground<'_>) -> Check {
    const ID: &str = "config.settings";
    match &ground.serve {
        Ok(_) => Check::ok(ID, "the server's settings in this environment can be used"),
        Err(error) => {
            let text = format!("a server with this environment would not start: {error}");
            Check::problem(ID, text).text("error", error).next("vfs-sync serve --help")
        }
    }
}

/// Checks the limits of the settings against the descriptors that a process may have here.
fn descriptors(config: &ServerConfig) -> Check {
    const ID: &str = "config.descriptors";
    let Some(descriptors) = machine::raise_descriptors() else {
        return Check::ok(ID, "a process may have any number of descriptors");
    };
    let fitted = config.clone().fitted_to_descriptors(descriptors);
    let text = format!("a process may have {} descriptors", count_text(descriptors));
    let check = if fitted.max_connections == config.max_connections {
        Check::ok(ID, text)
    } else {
        let text = format!(
            "{text}: a server here takes {} connections instead of {}",
            count_text(fitted.max_connections as u64),
            count_text(config.max_connections as u64)
        );
        Check::note(ID, text).next("ulimit -Hn; systemctl show vfs-sync -p LimitNOFILE")
    };
    check.with("descriptors", descriptors).with("maxConnections", fitted.max_connections)
}

/// Checks the keys that verify tokens, as far as this environment names them.
async fn token_keys() -> Check {
    const ID: &str = "keys.tokens";
    let auth = match server::auth() {
        Ok(auth) => auth,
        Err(failure) if failure.hint.is_some() => {
            return Check::skipped(ID, "this environment names no key");
        }
        Err(failure) => {
            return Check::problem(ID, failure.message.clone())
                .text("error", failure.message)
                .next("vfs-sync serve --help");
        }
    };
    if let Err(error) = Authenticator::load(&auth).await {
        let text = format!("the keys of tokens cannot be used: {error}");
        return Check::problem(ID, text)
            .text("error", error.to_string())
            .next("vfs-sync serve --help");
    }
    let file = match &auth.keys {
        KeySource::Secret(_) => std::env::var_os("VFS_SYNC_JWT_SECRET_FILE").map(Into::into),
        KeySource::PublicKeyFile(file) | KeySource::JwksFile(file) => Some(file.clone()),
        _ => None,
    };
    let check = Check::ok(ID, format!("tokens are verified by a key of {}", auth.source()))
        .with("source", auth.source());
    let Some(file) = file else { return check };
    let Ok(metadata) = std::fs::metadata(&file) else { return check };
    let age = metadata.modified().ok().and_then(|at| at.elapsed().ok());
    let check = check.name("file", &file).with("ageDays", age.map(|age| age.as_secs() / 86_400));
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
    if matches!(auth.keys, KeySource::Secret(_)) && mode & 0o077 != 0 {
        return check
            .becomes(Outcome::Problem, "others may read the file of the secret that makes tokens")
            .next(format!("chmod 600 {}", quoted(&file)));
    }
    check
}

/// Checks the keys that sign the access tokens of devices.
pub(super) async fn keys(ground: &Ground<'_>, store: &dyn MetadataStore, checks: &mut Vec<Check>) {
    const ID: &str = "keys.signing";
    let keys = match store.signing_keys().await {
        Ok(keys) => keys,
        Err(error) => {
            checks.push(failed(ground, ID, "the signing keys cannot be read", error));
            return;
        }
    };
    let Some(newest) = keys.first() else {
        checks.push(Check::ok(ID, "no device has signed in: there is no signing key"));
        return;
    };
    let age = ground.now.as_millis().saturating_sub(newest.made_at.as_millis());
    let days = age / DAY;
    let check = if age > SIGNING_KEY_OLD {
        // It is replaced with the first token after its time.
        let text = format!("the key of access tokens is {days} days old: no device renews its own");
        Check::note(ID, text).next(ground.command("admin new-signing-key"))
    } else {
        Check::ok(ID, format!("the key of access tokens is {days} days old"))
    };
    checks.push(check.with("keys", keys.len()).with("madeAt", newest.made_at));
}

/// Checks that a certificate and its key belong together, and how long the certificate is valid.
fn certificate_pair(certificate: &Path, key: &Path, now: Timestamp) -> Check {
    const ID: &str = "config.certificate";
    let next = format!("openssl x509 -noout -dates -subject -in {}", quoted(certificate));
    if let Err(error) = vfs_sync_server::Certificate::load(certificate.to_owned(), key.to_owned()) {
        return Check::problem(ID, error.to_string()).text("error", error.to_string()).next(next);
    }
    let Some((from, until)) = validity(certificate) else {
        return Check::note(ID, "the certificate's dates cannot be read").next(next);
    };
    let left = until.saturating_sub(now.as_millis());
    let days = left / DAY;
    let check = if left < 0 {
        Check::problem(ID, "the certificate has expired").next(next)
    } else if from > now.as_millis() {
        Check::problem(ID, "the certificate is valid only later").next(next)
    } else if left < CERTIFICATE_PROBLEM {
        Check::problem(ID, format!("the certificate expires in {days} days")).next(next)
    } else if left < CERTIFICATE_NOTE {
        Check::note(ID, format!("the certificate expires in {days} days")).next(next)
    } else {
        Check::ok(ID, format!("the certificate is valid for {days} days"))
    };
    check.name("file", certificate).with("until", Timestamp::from_millis(until))
}

/// Returns the times between which the first certificate of a file is valid, in milliseconds.
fn validity(file: &Path) -> Option<(i64, i64)> {
    use x509_cert::der::{Decode as _, DecodePem as _};
    let bytes = std::fs::read(file).ok()?;
    let certificate = x509_cert::Certificate::from_pem(&bytes)
        .or_else(|_| x509_cert::Certificate::from_der(&bytes))
        .ok()?;
    let validity = certificate.tbs_certificate.validity;
    let millis =
        |time: x509_cert::time::Time| i64::try_from(time.to_unix_duration().as_millis()).ok();
    Some((millis(validity.not_before)?, millis(validity.not_after)?))
}

/// Makes a request to the public URL, through whatever is between.
async fn address(url: &str, checks: &mut Vec<Check>) {
    let mut settings = Settings::new(url, None);
    settings.insecure_http = true;
    let mut config = HttpConfig::new(url);
    (config.connect_timeout, config.request_timeout) = (PATIENCE, PATIENCE);
    config.idle_timeout = PATIENCE;
    match replica::http(&settings, config) {
        Ok(transport) => drop(probed(&settings, &transport, checks).await),
        Err(failure) => checks.push(
            Check::problem("network.address", failure.message)
                .name("server", url)
                .explained("invalid_address")
                .next("vfs-sync serve --help"),
        ),
    }
}

fn backup(directory: &Path, now: Timestamp) -> Check {
    const ID: &str = "backup.age";
    let next = format!("vfs-sync backup create {}", quoted(directory));
    let (name, at) = match newest(directory) {
        Ok(found) => found,
        Err(failure) => return Check::problem(ID, failure.message).next(next),
    };
    let age = now.as_millis().saturating_sub(at.as_millis());
    let old = counted(u64::try_from(age / DAY).unwrap_or(0), "day", "days");
    let text = format!("the newest backup is {old} old");
    let check = match age {
        BACKUP_PROBLEM.. => Check::problem(ID, text).next(next),
        BACKUP_NOTE.. => Check::note(ID, text).next(next),
        _ => Check::ok(ID, text),
    };
    check.with("name", name).with("createdAt", at)
}
