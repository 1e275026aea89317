//! Commands for operators: `serve`, `token`, `migrate`, `admin`.

pub(super) mod backup;
pub(super) mod blobs;
pub(super) mod export;
pub(super) mod users;

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_core::cursor::Epoch;
use vfs_sync_core::id::UserId;
use vfs_sync_core::time::Timestamp;
use vfs_sync_server::auth::MintError;
use vfs_sync_server::{MetadataQuota, ServerConfig};

use crate::args::{Database, NewEpoch, RepairReconcileState, Serve, Token};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::machine;
use crate::output::{Output, count_text};
use crate::server::{self, Bound, Setup};

pub(super) async fn serve(args: Serve, output: Output, stop: CancellationToken) -> Result<()> {
    let config = server_config(&args);
    let config = match machine::raise_descriptors() {
        Some(descriptors) => config.fitted_to_descriptors(descriptors),
        None => config,
    };
    let setup = Setup {
        config,
        auth: server::auth()?,
        database: server::database(Some(&args.data))?,
        data: args.data,
        new: args.new,
        listen: args.listen,
        admin_listen: args.admin_listen,
        tls: args.tls_cert.zip(args.tls_key),
    };
    let scheme = if setup.tls.is_some() { "https" } else { "http" };
    let Bound { server, listener, admin, address, admin_address, hears } =
        server::bind(setup).await?;
    if output.json {
        output.json(&json!({
            "event": "listening",
            "url": format!("{scheme}://{address}"),
            "adminUrl": admin_address.map(|address| format!("http://{address}")),
            "otherProcesses": hears.name(),
        }))?;
    } else {
        output.text(format_args!("listening on {scheme}://{address}"))?;
        if let Some(address) = admin_address {
            output.text(format_args!("metrics on http://{address}/metrics"))?;
        }
        if let Some(text) = hears.note() {
            output.text(text)?;
        }
    }
    server.serve(listener, admin, stop.cancelled_owned()).await;
    // The server has stopped, whether or not the output can still be written.
    let _ = output.json(&json!({ "event": "stopped" })).and_then(|()| output.say("stopped"));
    Ok(())
}

pub(super) fn server_config(args: &Serve) -> ServerConfig {
    let default = ServerConfig::default();
    let seconds = |given: Option<u64>, default| given.map_or(default, Duration::from_secs);
    let limits = &args.limits;
    let user_memory =
        limits.max_user_memory.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let config = ServerConfig {
        data: Some(args.data.clone()),
        public_path: args.public_url.clone().map(|path| path.0).unwrap_or_default(),
        cors_origins: args.cors_origins.clone(),
        admin_hosts: args.admin_hosts.clone(),
        max_stored_bytes: args.max_stored_bytes.unwrap_or(default.max_stored_bytes),
        max_staged_bytes: args.max_staged_bytes.unwrap_or(default.max_staged_bytes),
        max_open_stages: args.max_open_stages.unwrap_or(default.max_open_stages),
        max_blob_bytes: args.max_blob_bytes.unwrap_or(default.max_blob_bytes),
        metadata: MetadataQuota {
            items: args.max_items.unwrap_or(default.metadata.items),
            links: args.max_links.unwrap_or(default.metadata.links),
            grants: args.max_grants.unwrap_or(default.metadata.grants),
            bytes: args.max_register_bytes.unwrap_or(default.metadata.bytes),
            replicas: args.max_replicas.unwrap_or(default.metadata.replicas),
            results: args.keep_results.unwrap_or(default.metadata.results),
        },
        keep_versions: seconds(args.keep_versions, default.keep_versions),
        keep_deleted: seconds(args.keep_deleted, default.keep_deleted),
        max_connections: limits.max_connections.unwrap_or(default.max_connections),
        max_requests: limits.max_requests.unwrap_or(default.max_requests),
        max_user_requests: limits.max_user_requests.unwrap_or(default.max_user_requests),
        max_event_streams: limits.max_event_streams.unwrap_or(default.max_event_streams),
        max_user_event_streams: limits
            .max_user_event_streams
            .unwrap_or(default.max_user_event_streams),
        events_keepalive: seconds(limits.events_keepalive, default.events_keepalive),
        max_user_memory: user_memory.unwrap_or(default.max_user_memory),
        max_large_uploads: limits.max_large_uploads.unwrap_or(default.max_large_uploads),
        max_user_large_uploads: limits
            .max_user_large_uploads
            .unwrap_or(default.max_user_large_uploads),
        queue_wait: seconds(limits.queue_wait, default.queue_wait),
        rates: limits.rates(),
        proxies: limits.proxies.clone(),
        head_timeout: seconds(limits.head_timeout, default.head_timeout),
        request_timeout: seconds(limits.request_timeout, default.request_timeout),
        idle_timeout: seconds(limits.idle_timeout, default.idle_timeout),
        min_rate: limits.min_rate.unwrap_or(default.min_rate),
        ..default
    };
    match limits.memory.or_else(|| machine::memory().map(|bytes| bytes / 4 * 3)) {
        Some(bytes) => config.fitted_to_memory(bytes),
        None => config,
    }
}

pub(super) fn token(args: Token, output: Output) -> Result<()> {
    let auth = server::auth()?;
    let user = UserId::new(&args.user)
        .map_err(|reason| Failure::usage(format!("the user's name {reason}")))?;
    let scope = args.scope.as_deref().map(str::trim).filter(|scope| !scope.is_empty());
    let now = server::now();
    let token =
        auth.mint(&user, scope, Duration::from_secs(args.ttl), now).map_err(
            |error| match error {
                MintError::NoSecret => Failure::usage(error.to_string()),
                MintError::ShortSecret | MintError::Failed(_) => Failure::failed(error.to_string()),
            },
        )?;
    if output.json {
        let millis = i64::try_from(args.ttl).unwrap_or(i64::MAX).saturating_mul(1_000);
        return output.json(&json!({
            "token": token, "user": user, "scope": scope, "expiresAt": now.plus_millis(millis),
        }));
    }
    output.text(token)
}

pub(super) async fn new_epoch(args: NewEpoch, output: Output) -> Result<()> {
    let database = existing(&args.database)?;
    let after = args.after.map_or(Timestamp::MIN, Epoch::next_second);
    let now = server::now().max(after);
    let store = vfs_sync_store::open(&database, now).await.map_err(server::store_failure)?;
    let (_, chance) = uuid::Uuid::now_v7().as_u64_pair();
    let chance = u16::try_from(chance & 0xffff).unwrap_or(0);
    let epoch = store.new_epoch(now, chance).await.map_err(server::store_failure)?.as_u64();
    output.say(format_args!(
        "epoch {epoch} has begun: replicas with changes that this database lacks notice it at \
         their next sync"
    ))?;
    output.json(&json!({ "epoch": epoch }))
}

pub(super) async fn new_signing_key(args: Database, output: Output) -> Result<()> {
    let database = existing(&args)?;
    let store = vfs_sync_store::open(&database, server::now()).await;
    let store = store.map_err(server::store_failure)?;
    let key = vfs_sync_server::auth::new_signing_key(server::now());
    let key = key.ok_or_else(|| Failure::failed("the system gives no random bytes"))?;
    let keys = store.add_signing_key(key, true).await.map_err(server::store_failure)?;
    output.say(format_args!(
        "access tokens are signed by another key within seconds: devices renew theirs by themselves"
    ))?;
    output.json(&json!({ "keyId": keys.first().map(|key| &key.id) }))
}

pub(super) async fn repair_reconcile_state(
    args: RepairReconcileState,
    output: Output,
) -> Result<()> {
    let user = args.user.as_deref().map(UserId::new).transpose();
    let user = user.map_err(|reason| Failure::usage(format!("the user's name {reason}")))?;
    let database = existing(&args.database)?;
    let store = vfs_sync_store::open(&database, server::now()).await;
    let store = store.map_err(server::store_failure)?;
    let found = store.repair_reconcile_states(user, args.dry_run).await;
    let found = found.map_err(server::store_failure)?;
    for state in &found {
        let (user, key) = (escaped(&state.user), escaped(&state.key));
        output.say(format_args!("{key} of {user}: {}", escaped(&state.reason)))?;
    }
    let done = if args.dry_run { "malformed" } else { "removed" };
    output.say(format_args!("{done}: {}", count_text(found.len() as u64)))?;
    let states: Vec<_> = found
        .iter()
        .map(|state| json!({ "user": state.user, "key": state.key, "reason": state.reason }))
        .collect();
    output.json(&json!({ "malformed": states, "removed": !args.dry_run }))?;
    if args.dry_run && !found.is_empty() {
        let text = format!("{} reconcile states are malformed", found.len());
        return Err(Failure::new(Kind::Partial, text).hint("run without --dry-run to remove them"));
    }
    Ok(())
}

pub(super) async fn migrate(args: Database, output: Output) -> Result<()> {
    let database = server::database(args.data.as_deref())?;
    if let Some(data) = args.data.as_ref().filter(|_| !database.starts_with("postgres")) {
        server::make_directory(data)?;
    }
    let version =
        vfs_sync_store::migrate(&database, server::now()).await.map_err(server::store_failure)?;
    output.say(format_args!("the database has schema version {version}"))?;
    output.json(&json!({ "schemaVersion": version }))
}

/// Returns the path of an existing database: a typing error in `--data` must not create an empty
/// one.
pub(super) fn existing(args: &Database) -> Result<String> {
    if let Some(data) = &args.data
        && !data.is_dir()
    {
        return Err(Failure::usage(format!("{} is not a directory", data.display()))
            .hint("name the directory that `vfs-sync serve --data` was given"));
    }
    let database = server::database(args.data.as_deref())?;
    let is_file = !database.starts_with("postgres");
    if is_file && !std::path::Path::new(&database).is_file() {
        return Err(Failure::usage(format!("the database {database} does not exist"))
            .hint("name the directory that `vfs-sync serve --data` was given"));
    }
    Ok(database)
}
