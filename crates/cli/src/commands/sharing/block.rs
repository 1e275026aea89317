//! Blocking owners, at the server: `block`, `unblock`.

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{HttpTransport, Transport as _, TransportError};
use vfs_sync_core::id::UserId;

use crate::args::{Block, Global, Unblock};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::Output;
use crate::{replica, shutdown};

pub(in crate::commands) async fn block(
    global: &Global,
    args: Block,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    match args.owner {
        Some(owner) => set(global, &owner, true, output, stop).await,
        None => list(global, output, stop).await,
    }
}

pub(in crate::commands) async fn unblock(
    global: &Global,
    args: Unblock,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    set(global, &args.owner, false, output, stop).await
}

/// The replica's server, asked in the name of the replica's user and of nobody else.
fn server(global: &Global) -> Result<HttpTransport> {
    let client = replica::open(global, replica::config())?;
    let server = replica::server(global, None, None, None)?;
    server.meant_for(&client.user()).map_err(|other| {
        let (user, message) = (client.user(), "the list of blocked users is each user's own");
        Failure::new(Kind::Auth, format!("{message}: the replica is {user}'s, not {other}'s"))
    })?;
    Ok(server)
}

async fn list(global: &Global, output: Output, stop: CancellationToken) -> Result<()> {
    let server = server(global)?;
    let list = tokio::select! {
        list = server.blocks() => list.map_err(unsupported)?,
        () = stop.cancelled() => return Err(shutdown::interrupted()),
    };
    if output.json {
        return output.json(&list);
    }
    if list.owners.is_empty() {
        return output.say("you block nobody");
    }
    list.owners.iter().try_for_each(|owner| output.text(escaped(owner.as_str())))
}

async fn set(
    global: &Global,
    owner: &UserId,
    blocked: bool,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let server = server(global)?;
    tokio::select! {
        done = server.set_block(owner, blocked) => done.map_err(unsupported)?,
        () = stop.cancelled() => return Err(shutdown::interrupted()),
    }
    let shown = escaped(owner.as_str());
    output.say(match blocked {
        true => format!("{shown} is blocked: what {shown} shares goes with the next sync"),
        false => format!("{shown} is not blocked: what {shown} shares comes with the next sync"),
    })?;
    output.json(&json!({ "owner": owner, "blocked": blocked }))
}

/// A server of before has no such route.
fn unsupported(error: TransportError) -> Failure {
    match error {
        TransportError::Refused { status: 404 | 405, .. } => {
            Failure::failed("the server keeps no list of blocked users")
                .hint("its operator can upgrade it to this version of vfs-sync")
        }
        other => other.into(),
    }
}
