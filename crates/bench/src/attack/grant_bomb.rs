//! Grants to users who never made a call: each would get a feed of its own.

use std::convert::Infallible;

use crate::Failure;
use crate::attack::Target;
use crate::writer::{granted, made};

/// The folders that are granted one after the other, and the grants on each.
const FOLDERS: usize = 40;
const GRANTS: usize = 249;

pub(crate) async fn run(on: Target) -> Result<Infallible, Failure> {
    let mut mallory = on.attacker("grant-bomb")?;
    let folders = on.scaled(FOLDERS);
    let folder = |n: usize| format!("grant-bomb-{}", n % folders);
    mallory.push((0..folders).map(|n| made(&folder(n), "folder", None)).collect()).await?;
    on.prepared().await;
    for round in 0.. {
        let two = [folder(round * 2), folder(round * 2 + 1)];
        let level = ["read", "write"][round * 2 / folders % 2];
        let grants = two.iter().flat_map(|folder| {
            (0..GRANTS).map(move |n| {
                let mut grant = granted(folder, &format!("ghost-of-{folder}-{n}"));
                grant["accessLevel"] = level.into();
                grant
            })
        });
        on.push(&mut mallory, grants.collect()).await;
    }
    unreachable!("the rounds do not end")
}
