//! The cost of granting and revoking over HTTP, and the waiting time of other requests.

use std::time::Duration;

use crate::Failure;
use crate::measure::push::BATCH;
use crate::process::Server;
use crate::report::{Report, percentile};
use crate::writer::{Writer, granted, made, revoked};

/// The number of items in the folder that is shared as a whole.
const ITEMS: usize = 100_000;
/// The number of files in each of its folders.
const FOLDER: usize = 100;
/// The number of items in the small tree.
const FEW: usize = 100;
const MANY: usize = 1_000_000;
/// The number of files that are shared one by one.
const TIMES: usize = 50;

/// Creates folders of [`FOLDER`] files in a folder `root`, `items` in total.
pub(crate) async fn make_tree(owner: &mut Writer, root: &str, items: usize) -> Result<(), Failure> {
    let mut operations = vec![made(root, "folder", None)];
    let mut folder = String::new();
    for n in 1..items {
        let id = uuid::Uuid::now_v7().to_string();
        if n % FOLDER == 1 {
            operations.push(made(&id, "folder", Some(root)));
            folder = id;
        } else {
            operations.push(made(&id, "file", Some(&folder)));
        }
        if operations.len() == BATCH {
            owner.push(std::mem::take(&mut operations)).await?;
        }
    }
    if !operations.is_empty() {
        owner.push(operations).await?;
    }
    Ok(())
}

/// Measures the median time of sharing a file, in milliseconds; each is a new file in `parent`.
async fn share_files(owner: &mut Writer, parent: &str, name: &str) -> Result<f64, Failure> {
    let files: Vec<String> = (0..TIMES).map(|n| format!("{name}-{n}")).collect();
    let all = files.iter().map(|id| made(id, "file", Some(parent))).collect();
    owner.push(all).await?;
    let mut times = Vec::new();
    for id in &files {
        times.push(owner.push(vec![granted(id, "guest")]).await?.as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(percentile(&times, 50).unwrap_or_default())
}

/// Pushes a change of another realm repeatedly until stopped; returns the longest wait.
async fn push_meanwhile(
    mut other: Writer,
    mut stop: tokio::sync::oneshot::Receiver<()>,
) -> Result<Duration, Failure> {
    let mut longest = Duration::ZERO;
    while stop.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
        let id = uuid::Uuid::now_v7().to_string();
        longest = longest.max(other.push(vec![made(&id, "file", None)]).await?);
    }
    Ok(longest)
}

/// Runs the measurements on `server`; other requests may wait for `wait` seconds at most.
pub(crate) async fn run(
    report: &mut Report,
    server: &Server,
    engine: &str,
    wait: f64,
) -> Result<(), Failure> {
    let mut owner = Writer::new(&server.url, "owner")?;
    make_tree(&mut owner, "large", ITEMS).await?;
    let mut small = Writer::new(&server.url, "small")?;
    make_tree(&mut small, "small", FEW).await?;
    let changes =
        [("granting", granted("large", "guest")), ("revoking", revoked("large", "guest"))];
    for (what, operation) in changes {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let name = format!("other-{what}");
        let others = tokio::spawn(push_meanwhile(Writer::new(&server.url, &name)?, stopped));
        let taken = owner.push(vec![operation]).await?;
        let _ = stop.send(());
        let longest = others.await??.as_secs_f64();
        let what = format!("{what} a folder of 100,000 items, {engine}");
        report.at_most(&what, taken.as_secs_f64(), 5.0, "s");
        report.at_most("  the longest that others waited", longest, wait, "s");
    }
    let few = share_files(&mut small, "small", "few").await?;
    let mut huge = Writer::new(&server.url, "huge")?;
    make_tree(&mut huge, "huge", MANY).await?;
    let many = share_files(&mut huge, "huge", "many").await?;
    report.note(&format!("sharing one file of 100, {engine}"), few, "ms");
    report.note(&format!("sharing one file of 1,000,000, {engine}"), many, "ms");
    report.at_most("  against a tree of 100", many / few, 1.5, "x");
    Ok(())
}
