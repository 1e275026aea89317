//! Blocks of owners, stored at the server: `block`, `unblock`.

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

/// Connects to the replica's server, only as the replica's user.
fn server(global: &Global) -> Result<HttpTransport> {
    let user = replica::owner(global)?;
    let server = replica::server(global, None, None, None)?;
    server.bind_user(&user).map_err(|other| {
        let message = "each user has a list of blocked users";
        Failure::new(Kind::Auth, format!("{message}: the replica is {user}'s, not {other}'s"))
    })?;
    Ok(server)
}

async fn list(global: &Global, output: Output, stop: CancellationToken) -> Result<()> {
    let server = server(global)?;
    let blocks = async { server.blocks().await.map_err(unsupported) };
    let list = shutdown::unless_stopped(&stop, blocks).await?;
    if output.json {
        return output.json(&list);
    }
    if list.owners.is_empty() {
        return output.say("no users are blocked");
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
    let set = async { server.set_block(owner, blocked).await.map_err(unsupported) };
    shutdown::unless_stopped(&stop, set).await?;
    let shown = escaped(owner.as_str());
    output.say(match blocked {
        true => format!("{shown} is blocked: the next sync removes what {shown} shares"),
        false => format!("{shown} is not blocked: the next sync restores what {shown} shares"),
    })?;
    output.json(&json!({ "owner": owner, "blocked": blocked }))
}

/// Explains an error of an older server without this route.
fn unsupported(error: TransportError) -> Failure {
    match error {
        TransportError::Refused { status: 404 | 405, .. } => {
            Failure::failed("the server does not support blocking")
                .hint("its operator can upgrade it to this version of vfs-sync")
        }
        other => other.into(),
    }
}
