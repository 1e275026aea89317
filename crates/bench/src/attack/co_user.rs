//! A user who shares a folder with the victims, and fills their view: renames, moves, depth, and a
//! folder that comes and goes.

use std::convert::Infallible;

use crate::Failure;
use crate::attack::Target;
use crate::attack::mesh::linked;
use crate::writer::{granted, made, named, revoked};

const FILES: usize = 100;
const DEPTH: usize = 300;
/// The folders of that depth under which each file comes to hang.
const PARENTS: usize = 10;
const NAMES: [&str; 5] =
    ["\u{1b}[2J\u{1b}[31mred", "..\\..\\x", "\u{202e}gpj.exe", "%2e%2e", "CON"];

pub(crate) async fn run(on: Target) -> Result<Infallible, Failure> {
    let mut mallory = on.attacker("co-user")?;
    mallory.push(vec![made("trap", "folder", None)]).await?;
    let file = |n: usize| format!("trap-{n}");
    mallory.push((0..FILES).map(|n| made(&file(n), "file", Some("trap"))).collect()).await?;
    let deep = |n: usize| if n == 0 { "trap".into() } else { format!("trap-deep-{n}") };
    mallory.push_all((1..DEPTH).map(|n| made(&deep(n), "folder", Some(&deep(n - 1))))).await?;
    on.prepared().await;
    for round in 0.. {
        for victim in on.victims.iter() {
            on.push(&mut mallory, vec![granted("trap", victim)]).await;
        }
        let renamed = (0..FILES).map(|n| {
            let name = format!("{} {round}", NAMES[(round + n) % NAMES.len()]);
            named(&file(n), "file", Some("trap"), &name)
        });
        on.push(&mut mallory, renamed.collect()).await;
        let moved =
            (0..FILES).map(|n| linked(&deep((round + n) % PARENTS * DEPTH / PARENTS), &file(n)));
        on.push(&mut mallory, moved.collect()).await;
        for victim in on.victims.iter() {
            on.push(&mut mallory, vec![revoked("trap", victim)]).await;
        }
    }
    unreachable!("the rounds do not end")
}
