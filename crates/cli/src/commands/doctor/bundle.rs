//! One archive for a bug report: checks, states, versions and configuration, in which names, contents,
//! tokens and addresses are digests.

use std::io::{Read as _, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use vfs_sync_client::{Inspection, StateExport};
use vfs_sync_core::wire::PROTOCOL_VERSION;

use super::Examined;
use super::redact::Redaction;
use super::retry::{AFTER, BEFORE, FOLDER};
use super::site::Site;
use crate::commands::live::service::UNIT;
use crate::error::{Failure, Result};
use crate::replica::{handoff, live_state, read_bounded};

/// The greatest size of a state that goes into an archive.
const MAX_STATE_BYTES: u64 = 256 << 20;

/// The number of lines of the service's log.
const LOG_LINES: &str = "500";
/// The longest time to wait for them.
const LOG_PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);

const README: &str = "\
A report of `vfs-sync doctor --bundle`.

  checks.json          what the doctor found, with the keys of the runbook
  actions.json         what --fix did
  state.json           the exported state of the replica
  retry/before.json    the state before the last `vfs-sync doctor --retry`
  retry/after.json     the state after it
  configuration.json   the replica's settings, and the names of the variables that are set
  live.json            the states of the live folders
  versions.json        the program and the system
  logs.txt             the last lines of `up` as a service, without unknown words

Names, contents, metadata, ids, tokens, users, paths and addresses are digests, keyed with a secret that
was made for this report and kept nowhere. Equal values have equal digests in all files of the report.
Numbers, times and positions of the feed are as they are.
";

/// The environment variables that matter, by their names alone.
const VARIABLES: [&str; 14] = [
    "VFS_SYNC_REPLICA",
    "VFS_SYNC_TOKEN",
    "VFS_SYNC_INSECURE_HTTP",
    "VFS_SYNC_TRANSFERS",
    "VFS_SYNC_CACHE_SIZE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "RUST_LOG",
];

/// Writes the archive to a file that must not exist yet. Only its owner may read it.
pub(super) async fn write(site: &Site<'_>, file: &Path, examined: &Examined) -> Result<()> {
    let what = || format!("cannot write {}", file.display());
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let taken = || {
        let exists = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        Failure::io(what())(exists).hint("existing files are not replaced: choose another name")
    };
    if file.symlink_metadata().is_ok() {
        return Err(taken());
    }
    let redaction = Redaction::new()?;
    let temporary = tempfile::NamedTempFile::new_in(parent).map_err(Failure::io(what()))?;
    let mut archive = tar::Builder::new(GzEncoder::new(&temporary, Compression::default()));
    let mut files = files(site, examined, &redaction);
    files.extend(logs(&redaction).await.map(|logs| ("logs.txt".to_owned(), logs)));
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        archive
            .append_data(&mut header, Path::new("vfs-sync-report").join(name), &bytes[..])
            .map_err(Failure::io(what()))?;
    }
    let encoder = archive.into_inner().map_err(Failure::io(what()))?;
    encoder.finish().and_then(|mut file| file.flush()).map_err(Failure::io(what()))?;
    temporary.as_file().sync_all().map_err(Failure::io(what()))?;
    temporary.persist_noclobber(file).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => taken(),
        _ => Failure::io(what())(error.error),
    })?;
    Ok(())
}

fn pretty(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

/// Returns the files of the archive. A part that cannot be read is left out.
fn files(site: &Site<'_>, examined: &Examined, redaction: &Redaction) -> Vec<(String, Vec<u8>)> {
    let checks: Vec<Value> = examined.checks.iter().map(|check| redaction.check(check)).collect();
    let actions: Vec<Value> = examined
        .actions
        .iter()
        .map(|action| json!({ "action": action.name(), "done": action.is_done() }))
        .collect();
    let mut files = vec![
        ("README.txt".to_owned(), README.into()),
        ("checks.json".to_owned(), pretty(&checks.into())),
        ("actions.json".to_owned(), pretty(&actions.into())),
        ("configuration.json".to_owned(), pretty(&configuration(site, redaction))),
        ("versions.json".to_owned(), pretty(&versions())),
    ];
    let mut add = |name: String, json: Option<Vec<u8>>| {
        let value = json.and_then(|json| serde_json::from_slice::<Value>(&json).ok());
        if let Some(value) = value {
            files.push((name, pretty(&redaction.value(&value))));
        }
    };
    let opened = handoff::open(&site.directory, || Inspection::open(&site.directory));
    let state = opened.ok().and_then(|mut inspection| {
        let mut state = Vec::new();
        inspection.export_state(StateExport::default(), &mut state).ok()?;
        Some(state)
    });
    add("state.json".to_owned(), state);
    for name in [BEFORE, AFTER] {
        let path = site.directory.join(FOLDER).join(name);
        add(format!("{FOLDER}/{name}"), read(&path));
    }
    add("live.json".to_owned(), read(&site.directory.join(live_state::FILE)));
    files
}

/// Returns the last lines that `up` has logged as a service, if it runs as one.
async fn logs(redaction: &Redaction) -> Option<Vec<u8>> {
    let mut command = tokio::process::Command::new("journalctl");
    command.args(["--user-unit", UNIT, "--lines", LOG_LINES, "--no-pager", "--quiet"]);
    command.args(["--output", "short-iso"]).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LOG_PATIENCE, command.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || text.trim().is_empty() {
        return None;
    }
    let lines = text.lines().map(|line| redaction.text(line));
    Some(lines.collect::<Vec<_>>().join("\n").into_bytes())
}

/// Reads a regular file within the bound.
fn read(path: &Path) -> Option<Vec<u8>> {
    let meta = path.symlink_metadata().ok()?;
    if !meta.is_file() || meta.len() > MAX_STATE_BYTES {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_STATE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn configuration(site: &Site<'_>, redaction: &Redaction) -> Value {
    let settings = read_bounded(&site.directory.join("settings.json")).ok();
    let settings = settings.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let variables: Vec<&str> =
        VARIABLES.into_iter().filter(|name| std::env::var_os(name).is_some()).collect();
    let global = site.global;
    json!({
        "settings": settings.map(|settings| redaction.value(&settings)),
        "variables": variables,
        "options": {
            "replica": global.replica.is_some(),
            "insecureHttp": global.insecure_http,
            "transfers": global.transfers,
            "cacheSize": global.cache_size,
        },
    })
}

fn versions() -> Value {
    let system = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": PROTOCOL_VERSION,
        "system": text(system.sysname()),
        "release": text(system.release()),
        "machine": text(system.machine()),
    })
}
