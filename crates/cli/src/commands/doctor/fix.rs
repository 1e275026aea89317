//! Repairs that lose nothing: lost settings are written again, and what waits or is stopped is tried
//! once more.

use serde_json::{Value, json};
use vfs_sync_client::{ClientConfig, Inspection};

use super::check::Check;
use super::replica::Local;
use super::site::Site;
use crate::error::Result;
use crate::replica::{self, Settings};

/// An action, and what it came to.
pub(super) struct Action {
    action: &'static str,
    result: String,
    done: bool,
}

impl Action {
    pub(super) fn new(action: &'static str, result: impl Into<String>, done: bool) -> Self {
        Self { action, result: result.into(), done }
    }

    pub(super) fn json(&self) -> Value {
        json!({ "action": self.action, "result": self.result, "done": self.done })
    }

    pub(super) fn text(&self) -> String {
        let word = if self.done { "fixed" } else { "not fixed" };
        format!("{word}: {}: {}", self.action, self.result)
    }

    pub(super) fn name(&self) -> &'static str {
        self.action
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }
}

/// The checks whose problems somebody has to resolve before anything is sent: a server that is not
/// the replica's, a token that is not its user's, a device that may not any more.
const EXPLAINED: [&str; 11] = [
    "replica.settings",
    "replica.file",
    "replica.integrity",
    // A sync would take them for lost, though their disk may only not be mounted.
    "replica.contents",
    "token.present",
    "token.user",
    "network.address",
    "server.kind",
    "server.user",
    "server.feed",
    "server.writeIds",
];

/// Acts on what an examination has found.
pub(super) async fn fix(site: &Site<'_>, found: &[Check], local: Option<&Local>) -> Vec<Action> {
    let mut actions = Vec::new();
    let is_problem = |id: &str| found.iter().find(|check| check.id == id && check.is_problem());
    let there = |name: &str| site.directory.join(name).exists();
    if is_problem("replica.settings").is_some() && !there("settings.json") && there("replica.db") {
        let (result, done) = match settings(site) {
            Ok(Some(server)) => {
                (format!("written again for {server}; name the token's file in it"), true)
            }
            Ok(None) => return actions,
            Err(failure) => (failure.message, false),
        };
        actions.push(Action { action: "settings", result, done });
        return actions;
    }
    let Some(local) = local else { return actions };
    let state = &local.state;
    let waits = state.pending + state.uploads > 0 || state.failing.is_some();
    if !waits && state.stopped.is_none() {
        return actions;
    }
    let explained = EXPLAINED.iter().find_map(|id| is_problem(id));
    let unreached = ["network.name", "network.tcp", "network.tls", "network.http", "network.proxy"];
    let unreached = unreached.iter().find_map(|id| is_problem(id));
    if let Some(check) = explained.or(unreached) {
        let result = format!("not tried because of {}: {}", check.id, check.summary);
        actions.push(Action { action: "sync", result, done: false });
        return actions;
    }
    let (result, done) = match sync(site).await {
        Ok(synced) => synced,
        Err(failure) => (failure.message, false),
    };
    actions.push(Action { action: "sync", result, done });
    actions
}

/// Writes the settings again that the replica itself knows. Returns the server; `None` if the replica
/// does not name it.
fn settings(site: &Site<'_>) -> Result<Option<String>> {
    let mut inspection = Inspection::open(&site.directory)?;
    let state = inspection.state()?;
    if !state.server.starts_with("http") {
        return Ok(None);
    }
    let mut settings = Settings::new(&state.server, None);
    settings.user = Some(state.user);
    settings.write(&site.directory)?;
    Ok(Some(state.server))
}

/// Synchronises once; returns whether nothing waits any more. It rebuilds nothing: that is a decision
/// of the user.
async fn sync(site: &Site<'_>) -> Result<(String, bool)> {
    let config = ClientConfig { rematerialise: false, live: false, ..replica::config() };
    let client = replica::open(site.global, config)?;
    let report = client.sync().await?;
    let left = client.queue().outstanding()?;
    let waits = left.pending + left.uploads;
    let text = format!(
        "synchronised: {} operations and {} contents sent, {} entries received, {waits} wait",
        report.applied, report.uploaded, report.pulled
    );
    Ok((text, waits == 0))
}
