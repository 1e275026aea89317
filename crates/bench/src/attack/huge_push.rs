//! One push with as many consequences as the server takes, in memory and in time.

use std::convert::Infallible;

use crate::Failure;
use crate::attack::Target;
use crate::attack::share_bomb::{fill, grant_and_revoke};

const FILES: usize = 8_000;

pub(crate) async fn run(on: Target) -> Result<Infallible, Failure> {
    let mut mallory = on.attacker("huge-push")?;
    let guests = on.guests().await?;
    fill(&mut mallory, "huge-push", on.scaled(FILES)).await?;
    on.prepared().await;
    Ok(grant_and_revoke(&on, &mut mallory, "huge-push", &guests).await)
}
