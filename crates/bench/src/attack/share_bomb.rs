//! A folder of many files that one push grants to many users, and the next one takes away.

use std::convert::Infallible;

use crate::Failure;
use crate::attack::Target;
use crate::writer::{Writer, granted, made, revoked};

/// Shares a folder `root`, named like its owner, of `files` files at full size.
pub(crate) async fn run(
    on: Target,
    root: &'static str,
    files: usize,
) -> Result<Infallible, Failure> {
    let mut mallory = on.attacker(root)?;
    let guests = on.guests().await?;
    fill(&mut mallory, root, on.scaled(files)).await?;
    on.prepared().await;
    Ok(grant_and_revoke(&on, &mut mallory, root, &guests).await)
}

/// Makes a folder `root` with this many files.
pub(crate) async fn fill(mallory: &mut Writer, root: &str, files: usize) -> Result<(), Failure> {
    mallory.push(vec![made(root, "folder", None)]).await?;
    let file = |n| made(&format!("{root}-{n}"), "file", Some(root));
    mallory.push_all((0..files).map(file)).await
}

/// Grants `root` to all guests in one push, revokes it in the next one, and begins again.
pub(crate) async fn grant_and_revoke(
    on: &Target,
    mallory: &mut Writer,
    root: &str,
    guests: &[String],
) -> Infallible {
    loop {
        on.push(mallory, guests.iter().map(|guest| granted(root, guest)).collect()).await;
        on.push(mallory, guests.iter().map(|guest| revoked(root, guest)).collect()).await;
    }
}
