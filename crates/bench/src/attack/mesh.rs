//! Folders that each hang under all before them, with ids in the wrong order, shared and taken away.

use std::convert::Infallible;

use serde_json::{Value, json};

use crate::Failure;
use crate::attack::Target;
use crate::attack::share_bomb::grant_and_revoke;
use crate::writer::made;

const FOLDERS: usize = 200;

pub(crate) async fn run(on: Target) -> Result<Infallible, Failure> {
    let mut mallory = on.attacker("mesh")?;
    let guests = on.guests().await?;
    let folders = on.scaled(FOLDERS);
    // The deeper a folder, the smaller its id.
    let id = |n: usize| format!("mesh-{:05}", folders - n);
    mallory.push_all((0..folders).map(|n| made(&id(n), "folder", None))).await?;
    let links = (0..folders).flat_map(|from| (from + 1..folders).map(move |to| (from, to)));
    mallory.push_all(links.map(|(from, to)| linked(&id(from), &id(to)))).await?;
    on.prepared().await;
    Ok(grant_and_revoke(&on, &mut mallory, &id(0), &guests).await)
}

/// Returns a link from a folder to a child.
pub(crate) fn linked(parent: &str, child: &str) -> Value {
    json!({"opType": "link_add", "itemId": child, "parentId": parent, "childId": child})
}
