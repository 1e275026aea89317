//! Users and devices, for operators: `admin users`, `admin devices`.

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{HttpTransport, TransportError};
use vfs_sync_core::id::UserId;
use vfs_sync_core::server::user::UserLimits;
use vfs_sync_core::wire::code;
use vfs_sync_core::wire::device::{
    AllowOutcome, AllowUserResponse, DeletionState, DeletionView, UserView,
};

use crate::args::{
    AdminDevices, AdminDevicesAction, AdminUsers, AdminUsersAction, Global, LimitUser, OwnLimit,
};
use crate::commands::replica::devices::{confirmed, unsupported};
use crate::error::{Failure, Result};
use crate::escape::escaped;
use crate::output::{Output, Rows, bytes_text, count_text, table};
use crate::{replica, shutdown};

pub(in crate::commands) async fn devices(
    global: &Global,
    args: AdminDevices,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let server =
        replica::server(global, args.operated.server.as_deref(), args.operated.token_file, None)?;
    let work = async {
        match args.action {
            AdminDevicesAction::List { user } => {
                let (mut devices, mut cursor) = (Vec::new(), None);
                loop {
                    let page = server.devices_of(user.as_ref(), cursor.as_deref()).await;
                    let page = page.map_err(unsupported)?;
                    devices.extend(page.devices);
                    cursor = page.next_cursor;
                    if cursor.is_none() {
                        break;
                    }
                }
                crate::commands::replica::devices::show(&output, devices)
            }
            AdminDevicesAction::Revoke { user, device, yes } => {
                confirmed(yes)?;
                server.revoke_device_of(&user, &device).await.map_err(unsupported)?;
                let (shown, of) = (escaped(device.as_str()), escaped(user.as_str()));
                output.say(format_args!("{shown} of {of} is revoked"))?;
                output.json(&json!({ "userId": user, "clientId": device, "revoked": true }))
            }
        }
    };
    shutdown::unless_stopped(&stop, work).await
}

pub(in crate::commands) async fn users(
    global: &Global,
    args: AdminUsers,
    output: Output,
    stop: CancellationToken,
) -> Result<()> {
    let action = match args.action {
        AdminUsersAction::Export(args) => return super::export::export(args, output, stop).await,
        action => action,
    };
    let server =
        replica::server(global, args.operated.server.as_deref(), args.operated.token_file, None)?;
    shutdown::unless_stopped(&stop, act(&server, action, &output)).await
}

async fn act(server: &HttpTransport, action: AdminUsersAction, output: &Output) -> Result<()> {
    match action {
        AdminUsersAction::List => {
            let mut users: Vec<UserView> = Vec::new();
            loop {
                let after = users.last().map(|user| user.user_id.clone());
                let page = server.users(after.as_ref()).await.map_err(unsupported)?;
                users.extend(page.users);
                if !page.has_more {
                    break;
                }
            }
            if output.json {
                return output.json(&json!({ "users": users }));
            }
            let mut rows =
                table(&["user", "items", "stored", "devices", "log name", "state"], &[1, 2, 3]);
            for user in &users {
                rows.add_row([
                    user.user_id.to_string(),
                    count_text(user.items),
                    bytes_text(user.stored_bytes),
                    count_text(user.devices),
                    user.pseudonym.clone(),
                    state(user).to_owned(),
                ]);
            }
            output.table(rows)
        }
        AdminUsersAction::Show { user } => {
            let user = server.user(&user).await.map_err(unsupported)?;
            if output.json {
                return output.json(&user);
            }
            let mut rows = table(&[], &[]);
            let limits = serde_json::to_value(user.limits).unwrap_or_default();
            for (name, value) in [
                ("user", user.user_id.to_string()),
                ("state", state(&user).to_owned()),
                ("log name", user.pseudonym.clone()),
                ("items", count_text(user.items)),
                ("links", count_text(user.links)),
                ("grants", count_text(user.grants)),
                ("registers", bytes_text(user.register_bytes)),
                ("stored", bytes_text(user.stored_bytes)),
                ("staged", bytes_text(user.staged_bytes)),
                ("open stages", count_text(user.open_stages)),
                ("devices", count_text(user.devices)),
            ] {
                rows.add_row([name.to_owned(), value]);
            }
            if let Some(deletion) = &user.deletion {
                deletion_rows(&mut rows, deletion);
            }
            for (name, value) in limits.as_object().into_iter().flatten() {
                rows.add_row([name.clone(), value.to_string()]);
            }
            output.table(rows)
        }
        AdminUsersAction::Limit(args) => limit(server, *args, output).await,
        AdminUsersAction::Disable { user } => {
            let is_known = found(server, &user).await?.is_some();
            server.enable_user(&user, false).await.map_err(unsupported)?;
            let shown = escaped(user.as_str());
            output.say(format_args!("{shown} is disabled: no device of {shown} is served"))?;
            note_unknown(output, &user, is_known);
            output.json(&json!({ "userId": user, "disabled": true, "known": is_known }))
        }
        AdminUsersAction::Delete { user, wait, yes } => {
            if !yes {
                let text = "a deletion cannot be undone once the wait is over";
                return Err(Failure::usage(text).hint(
                    "add --yes; `vfs-sync admin users export` keeps a copy of what the user has",
                ));
            }
            let deletion = server.delete_user(&user, Some(wait)).await.map_err(unsupported)?;
            let shown = escaped(user.as_str());
            match deletion.state {
                DeletionState::Waiting => output.say(format_args!(
                    "{shown} is served no longer; removed from {} on: `vfs-sync admin users allow` \
                     calls it off until then",
                    deletion.due_at
                ))?,
                state => output.say(format_args!("{shown}: {}", <&str>::from(state)))?,
            }
            output.json(&json!({ "userId": user, "deletion": deletion }))
        }
        AdminUsersAction::Allow { user } => {
            let AllowUserResponse { outcome } =
                server.allow_user(&user).await.map_err(unsupported)?;
            let shown = escaped(user.as_str());
            match outcome {
                AllowOutcome::NotDeleted => output.say(format_args!("{shown} was not deleted"))?,
                AllowOutcome::CalledOff => output
                    .say(format_args!("the deletion of {shown} is called off: nothing is lost"))?,
                AllowOutcome::Allowed => output.say(format_args!(
                    "{shown} may sign in again, and has nothing: devices that still hold the old \
                     tree say so and offer it"
                ))?,
            }
            output.json(&json!({ "userId": user, "outcome": outcome }))
        }
        // It needs no server.
        AdminUsersAction::Export(_) => Ok(()),
        AdminUsersAction::Enable { user } => {
            let is_known = found(server, &user).await?.is_some();
            server.enable_user(&user, true).await.map_err(unsupported)?;
            output.say(format_args!("{} is enabled", escaped(user.as_str())))?;
            note_unknown(output, &user, is_known);
            output.json(&json!({ "userId": user, "disabled": false, "known": is_known }))
        }
    }
}

fn deletion_rows(rows: &mut Rows, deletion: &DeletionView) {
    let removed = &deletion.removed;
    for (name, value) in [
        ("deletion", <&str>::from(deletion.state).to_owned()),
        ("requested", deletion.requested_at.to_string()),
        ("next step", deletion.due_at.to_string()),
        ("items removed", count_text(removed.items)),
        ("contents removed", count_text(removed.contents)),
        ("bytes removed", bytes_text(removed.bytes)),
        ("shares removed", count_text(removed.shares)),
        ("feed rows removed", count_text(removed.feed_rows)),
        ("names replaced", count_text(removed.names)),
        ("other rows removed", count_text(removed.rows)),
    ] {
        rows.add_row([name.to_owned(), value]);
    }
    let times = [("finished", deletion.finished_at), ("allowed", deletion.allowed_at)];
    for (name, at) in times.into_iter().filter_map(|(name, at)| Some((name, at?))) {
        rows.add_row([name.to_owned(), at.to_string()]);
    }
    for (name, text) in &deletion.out_of_reach {
        rows.add_row([format!("out of reach: {name}"), text.clone()]);
    }
}

fn state(user: &UserView) -> &'static str {
    match user.deletion.as_ref().map(|deletion| deletion.state) {
        Some(DeletionState::Waiting) => "to be deleted",
        Some(DeletionState::Removing) => "being deleted",
        Some(DeletionState::Done) => "deleted",
        Some(DeletionState::Allowed) | None if user.disabled_at.is_some() => "disabled",
        Some(DeletionState::Allowed) | None => "enabled",
    }
}

/// Returns the user, if the server knows one of that name.
async fn found(server: &HttpTransport, user: &UserId) -> Result<Option<UserView>> {
    match server.user(user).await {
        Ok(user) => Ok(Some(user)),
        Err(TransportError::Refused { ref code, .. }) if code == code::UNKNOWN_USER => Ok(None),
        Err(error) => Err(unsupported(error)),
    }
}

/// Says that a change is of a user who never called: the name may be misspelt.
fn note_unknown(output: &Output, user: &UserId, is_known: bool) {
    if !is_known {
        output.note(format_args!(
            "note: the server has never seen {}: if the name is misspelt, nobody was changed; \
             `vfs-sync admin users list` has the names",
            escaped(user.as_str())
        ));
    }
}

async fn limit(server: &HttpTransport, args: LimitUser, output: &Output) -> Result<()> {
    // One who has not called yet may be limited too.
    let found = found(server, &args.user).await?;
    let is_known = found.is_some();
    let before = found.map_or_else(UserLimits::default, |user| user.limits);
    let limits = UserLimits {
        max_stored_bytes: OwnLimit::over(args.stored_bytes, before.max_stored_bytes),
        max_staged_bytes: OwnLimit::over(args.staged_bytes, before.max_staged_bytes),
        max_open_stages: OwnLimit::over(args.open_stages, before.max_open_stages),
        max_items: OwnLimit::over(args.items, before.max_items),
        max_links: OwnLimit::over(args.links, before.max_links),
        max_grants: OwnLimit::over(args.grants, before.max_grants),
        max_register_bytes: OwnLimit::over(args.register_bytes, before.max_register_bytes),
        max_replicas: OwnLimit::over(args.replicas, before.max_replicas),
    };
    if limits != before {
        server.limit_user(&args.user, &limits).await.map_err(unsupported)?;
    }
    let shown = serde_json::to_string(&limits).unwrap_or_default();
    output.say(format_args!("limits of {}: {shown}", escaped(args.user.as_str())))?;
    note_unknown(output, &args.user, is_known);
    output.json(&json!({ "userId": args.user, "limits": limits, "known": is_known }))
}
