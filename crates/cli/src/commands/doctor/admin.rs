//! The server's doctor: checks of the database, of what is derived in it, of the contents, the
//! background work, the devices, and the settings of the server. It runs beside servers.

mod configuration;
mod contents;
mod database;
mod repair;
mod state;
mod work;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, json};
use tokio_util::sync::CancellationToken;
use vfs_sync_core::runbook::Entry;
use vfs_sync_core::time::Timestamp;
use vfs_sync_server::ServerConfig;
use vfs_sync_store::{Extent, MetadataStore};

use self::state::Found;
use super::check::{Check, Outcome};
use super::fix::Action;
use super::show;
use super::site::quoted;
use crate::args::{AdminDoctor, Serve};
use crate::commands::operator::export::unknown;
use crate::commands::operator::{existing, server_config};
use crate::error::Result;
use crate::output::{Output, Progress};
use crate::server;
use crate::shutdown;

/// The server that is examined.
struct Ground<'a> {
    args: &'a AdminDoctor,
    /// The URL of the database, or the path of its file.
    database: String,
    extent: Extent,
    /// The settings of the server in this environment.
    serve: Result<Serve, String>,
    /// The configuration that they make, or the default one.
    config: ServerConfig,
    now: Timestamp,
    progress: &'a Progress,
}

impl<'a> Ground<'a> {
    fn new(args: &'a AdminDoctor, progress: &'a Progress) -> Result<Self> {
        let extent = match (&args.user, args.all) {
            (Some(user), _) => Extent::User(user.clone()),
            (None, true) => Extent::All,
            (None, false) => Extent::Sample { place: random_place() },
        };
        let serve = configuration::serve(args.database.data.as_deref());
        let config = serve.as_ref().map_or_else(|_| ServerConfig::default(), server_config);
        let database = existing(&args.database)?;
        let now = server::now();
        Ok(Self { args, database, extent, serve, config, now, progress })
    }

    fn is_postgres(&self) -> bool {
        self.database.starts_with("postgres")
    }

    fn data(&self) -> Option<&'a Path> {
        self.args.database.data.as_deref()
    }

    /// Returns a command on this server, to paste: with `--data`, if that names it.
    fn command(&self, rest: &str) -> String {
        match self.data() {
            Some(data) => format!("vfs-sync {rest} --data {}", quoted(data)),
            None => format!("vfs-sync {rest}"),
        }
    }

    /// Returns the command of an entry of the runbook, for this server.
    fn command_of(&self, entry: &Entry) -> String {
        match entry.command.strip_suffix(" --data /var/lib/vfs-sync") {
            Some(rest) => self.command(rest.strip_prefix("vfs-sync ").unwrap_or(rest)),
            None => entry.command.to_owned(),
        }
    }

    /// Leaves the machine to the servers for a while, after some work that took so long.
    async fn give_way(&self, took: Duration) {
        tokio::time::sleep(took / 4).await;
    }
}

/// Returns an id from which a sample begins. Ids have their time in front: more of them are of late.
fn random_place() -> String {
    const SPAN: f64 = 2.0 * 365.0 * 24.0 * 3_600_000.0;
    #[allow(clippy::cast_possible_truncation, reason = "milliseconds of two years")]
    let age = (fastrand::f64().powi(3) * SPAN) as i64;
    let millis = u64::try_from(server::now().as_millis().saturating_sub(age)).unwrap_or(0);
    let random = fastrand::u128(..).to_be_bytes();
    let random = random.first_chunk().copied().unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().to_string()
}

pub(in crate::commands) async fn doctor(
    args: AdminDoctor,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let progress = output.progress("examining");
    let ground = Ground::new(&args, &progress)?;
    let (checks, actions) = tokio::select! {
        done = work(&ground) => done?,
        () = stop.cancelled() => return Err(shutdown::interrupted()),
    };
    drop(progress);
    let mut document = Map::new();
    document.insert("user".into(), json!(args.user));
    document.insert("all".into(), json!(args.all));
    show(document, &checks, &actions, output)
}

/// Examines; with `--fix` it also repairs, and examines again.
async fn work(ground: &Ground<'_>) -> Result<(Vec<Check>, Vec<Action>)> {
    let (checks, found) = examine(ground).await;
    if let Extent::User(user) = &ground.extent
        && found.nobody
    {
        return Err(unknown(user));
    }
    if !ground.args.fix {
        return Ok((checks, Vec::new()));
    }
    let actions = repair::repair(ground, &checks, &found).await;
    if actions.is_empty() {
        return Ok((checks, actions));
    }
    Ok((examine(ground).await.0, actions))
}

/// Makes all checks in their order.
async fn examine(ground: &Ground<'_>) -> (Vec<Check>, Found) {
    let mut checks = Vec::new();
    let store = database::open(ground, &mut checks).await;
    let mut found = Found::default();
    if let Some(store) = &store {
        found = with_store(ground, store, &mut checks).await;
    }
    configuration::checks(ground, &mut checks).await;
    for check in &mut checks {
        if check.outcome == Outcome::Problem && check.next.is_none() {
            check.next = check.entry().map(|entry| ground.command_of(entry));
        }
    }
    (checks, found)
}

async fn with_store(
    ground: &Ground<'_>,
    store: &Arc<dyn MetadataStore>,
    checks: &mut Vec<Check>,
) -> Found {
    database::checks(ground, &**store, checks).await;
    work::checks(ground, &**store, checks).await;
    let found = state::checks(ground, &**store, checks).await;
    contents::checks(ground, store, checks).await;
    configuration::keys(ground, &**store, checks).await;
    found
}
