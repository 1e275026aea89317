//! Many pushes at once to one realm: each takes a connection of the database while it waits for the
//! realm's lock, which a large push holds.

use std::convert::Infallible;

use crate::Failure;
use crate::attack::share_bomb::{fill, grant_and_revoke};
use crate::attack::{Target, first};
use crate::writer::{Writer, made, named};

const REPLICAS: usize = 30;
const FILES: usize = 2_500;

pub(crate) async fn run(on: Target) -> Result<Infallible, Failure> {
    let mut mallory = on.attacker("one-realm")?;
    let guests = on.guests().await?;
    fill(&mut mallory, "one-realm", on.scaled(FILES)).await?;
    mallory.push(vec![made("one-realm-small", "folder", None)]).await?;
    let mut replicas: Vec<_> = (0..REPLICAS).map(|n| mallory.replica(&format!("r{n}"))).collect();
    on.prepared().await;
    let small = first(replicas.iter_mut().map(|replica| rename(&on, replica)));
    Ok(futures::join!(small, grant_and_revoke(&on, &mut mallory, "one-realm", &guests)).1)
}

async fn rename(on: &Target, replica: &mut Writer) -> Infallible {
    let mut turn = 0;
    loop {
        turn += 1;
        let renamed = named("one-realm-small", "folder", None, &format!("name {turn}"));
        on.push(replica, vec![renamed]).await;
    }
}
