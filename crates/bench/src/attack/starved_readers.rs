//! Large pushes of several replicas at once: each is decided on a reader of the database.

use std::convert::Infallible;

use crate::Failure;
use crate::attack::share_bomb::{fill, grant_and_revoke};
use crate::attack::{Target, first};

const REPLICAS: usize = 6;
const FILES: usize = 3_000;

pub(crate) async fn run(on: Target) -> Result<Infallible, Failure> {
    let mallory = on.attacker("starved-readers")?;
    let guests = on.guests().await?;
    let mut replicas = Vec::new();
    for n in 0..REPLICAS {
        let (mut replica, root) = (mallory.replica(&format!("r{n}")), format!("starved-{n}"));
        fill(&mut replica, &root, on.scaled(FILES)).await?;
        replicas.push((replica, root));
    }
    on.prepared().await;
    let all =
        replicas.iter_mut().map(|(replica, root)| grant_and_revoke(&on, replica, root, &guests));
    Ok(first(all).await)
}
