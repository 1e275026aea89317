//! The devices of the replica's user: `devices list`, `devices rename`, `devices revoke`.

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{HttpTransport, Transport as _, TransportError};
use vfs_sync_core::id::ReplicaId;
use vfs_sync_core::wire::code;
use vfs_sync_core::wire::device::DeviceView;

use crate::args::{DevicesAction, Global};
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, count_text, table};
use crate::{replica, shutdown};

pub(in crate::commands) async fn devices(
    global: &Global,
    action: DevicesAction,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let user = replica::owner(global)?;
    let server = replica::server(global, None, None, None)?;
    server.bind_user(&user).map_err(|other| {
        let message = format!("the replica is {user}'s, the devices are {other}'s");
        Failure::new(Kind::Auth, message)
    })?;
    shutdown::unless_stopped(&stop, act(&server, action, &output)).await
}

async fn act(server: &HttpTransport, action: DevicesAction, output: &Output) -> Result<()> {
    let mut devices = Vec::new();
    let mut cursor = None;
    loop {
        let page = server.devices(cursor.as_deref()).await.map_err(unsupported)?;
        devices.extend(page.devices);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    match action {
        DevicesAction::List => show(output, devices),
        DevicesAction::Rename { device, name } => {
            let client = found(&devices, &device)?;
            server.rename_device(&client, &name).await.map_err(unsupported)?;
            let shown = escaped(client.as_str());
            output.say(format_args!("{shown} is now {}", escaped(&name)))?;
            output.json(&json!({ "clientId": client, "name": name }))
        }
        DevicesAction::Revoke { device, yes } => {
            let client = found(&devices, &device)?;
            confirmed(yes)?;
            server.revoke_device(&client).await.map_err(unsupported)?;
            output.say(format_args!(
                "{} is revoked: it keeps what it has, and is served no longer",
                escaped(client.as_str())
            ))?;
            output.json(&json!({ "clientId": client, "revoked": true }))
        }
    }
}

/// Returns the device that has this id, or alone this name.
fn found(devices: &[DeviceView], text: &str) -> Result<ReplicaId> {
    if let Some(device) = devices.iter().find(|device| device.client_id.as_str() == text) {
        return Ok(device.client_id.clone());
    }
    let mut named = devices.iter().filter(|device| device.name == text);
    match (named.next(), named.next()) {
        (Some(device), None) => Ok(device.client_id.clone()),
        (Some(_), Some(_)) => {
            let message = format!("several devices are called {text}");
            Err(Failure::usage(message).hint("name one by its id: see `vfs-sync devices list`"))
        }
        (None, _) => {
            let message = format!("there is no device {text}");
            Err(Failure::new(Kind::NotFound, message).hint("see `vfs-sync devices list`"))
        }
    }
}

/// Fails unless the user has said `--yes`.
pub(in crate::commands) fn confirmed(yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    Err(Failure::usage("a revocation cannot be undone")
        .hint("add --yes; the device keeps everything that it has"))
}

/// Shows devices in a table.
pub(in crate::commands) fn show(output: &Output, devices: Vec<DeviceView>) -> Result<()> {
    if output.json {
        return output.json(&json!({ "devices": devices }));
    }
    if devices.is_empty() {
        return output.say("no device has called the server");
    }
    let to_operator = devices.iter().any(|device| device.user_id.is_some());
    let mut header = vec!["id", "name", "state", "last seen", "behind", "waiting", "version"];
    header.extend(["platform", "address"]);
    if to_operator {
        header.insert(0, "user");
    }
    let right = if to_operator { [5, 6] } else { [4, 5] };
    let mut rows = table(&header, &right);
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), count_text);
    for device in devices {
        let state = match &device.stopped {
            Some(stopped) if device.condition == "stopped" => format!("stopped: {stopped}"),
            _ => device.condition.clone(),
        };
        let mut cells: Vec<String> = device.user_id.iter().map(ToString::to_string).collect();
        cells.extend([
            device.client_id.to_string(),
            device.name,
            state,
            device.last_seen.to_string(),
            number(device.lag),
            number(device.queue),
            device.version,
            device.platform,
            device.address.unwrap_or_else(|| "-".to_owned()),
        ]);
        rows.add_row(cells);
    }
    output.table(rows)
}

/// Explains an error of an older server without these routes.
pub(in crate::commands) fn unsupported(error: TransportError) -> Failure {
    let missing =
        |message: &str, hint: &str| Failure::new(Kind::NotFound, message.to_owned()).hint(hint);
    match &error {
        TransportError::Refused { status: 404, code, message, .. }
            if code == code::UNKNOWN_DEVICE =>
        {
            missing(
                message,
                "`vfs-sync devices list` has your own, `vfs-sync admin devices list` all",
            )
        }
        TransportError::Refused { status: 404, code, message, .. }
            if code == code::UNKNOWN_USER =>
        {
            missing(message, "`vfs-sync admin users list` has the names")
        }
        TransportError::Refused { status: 404 | 405, .. } => {
            Failure::failed("the server does not know of devices")
                .hint("its operator can upgrade it to this version of vfs-sync")
        }
        _ => error.into(),
    }
}
