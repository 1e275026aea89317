//! The waiting time of one user's pushes while another's largest operations are applied.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::Failure;
use crate::measure::sharing::make_tree;
use crate::process::Server;
use crate::report::{Report, percentile};
use crate::writer::{Writer, granted, made};

/// Users who see what the large operations show and hide.
const READERS: usize = 10;
/// The time for which the victim is measured alone.
const ALONE: Duration = Duration::from_secs(5);
/// Pairs of large operations, which show and hide all items, one after the other.
const ROUNDS: usize = 2;

/// Times of a user's pushes, each of one operation, in ascending order.
pub(super) struct Times(pub(super) Vec<Duration>);

impl Times {
    /// Returns the time that this percentage of the pushes did not exceed, in milliseconds.
    pub(super) fn millis(&self, percent: usize) -> f64 {
        percentile(&self.0, percent).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
    }
}

/// Pushes a change of the victim's realm repeatedly until stopped.
pub(super) async fn measure(
    mut victim: Writer,
    mut stop: oneshot::Receiver<()>,
) -> Result<(Writer, Times), Failure> {
    let mut times = Vec::new();
    while stop.try_recv() == Err(TryRecvError::Empty) {
        let id = uuid::Uuid::now_v7().to_string();
        times.push(victim.push(vec![made(&id, "file", None)]).await?);
    }
    times.sort();
    Ok((victim, Times(times)))
}

fn moved(operation: &str) -> Value {
    json!({"opType": operation, "itemId": "tree", "childId": "tree",
        "parentId": "shared"})
}

/// Runs the measurement on `server`, with operations of about `rows` consequences each; the 99th
/// percentile of the victim's times may be `wait` milliseconds at most.
pub(crate) async fn run(
    report: &mut Report,
    server: &Server,
    engine: &str,
    rows: usize,
    wait: f64,
) -> Result<(), Failure> {
    let mut owner = Writer::new(&server.url, "owner")?;
    owner.push(vec![made("shared", "folder", None)]).await?;
    for n in 0..READERS {
        let reader = Writer::new(&server.url, &format!("reader{n}"))?;
        reader.pull().await?;
        owner.push(vec![granted("shared", &format!("reader{n}"))]).await?;
    }
    // For each reader, an item takes a row of access, its entry, and that of its link.
    make_tree(&mut owner, "tree", rows / READERS / 3).await?;
    let (stop, stopped) = oneshot::channel();
    let alone = tokio::spawn(measure(Writer::new(&server.url, "victim")?, stopped));
    tokio::time::sleep(ALONE).await;
    let _ = stop.send(());
    let (victim, alone) = alone.await??;
    let name = |what: &str| format!("{what}, {engine}");
    report.note(&name("pushes beside nothing, median"), alone.millis(50), "ms");
    report.note(&name("  99 %"), alone.millis(99), "ms");
    let mut longest = [Duration::ZERO; 2];
    let (stop, stopped) = oneshot::channel();
    let beside = tokio::spawn(measure(victim, stopped));
    for _ in 0..ROUNDS {
        for (taken, operation) in longest.iter_mut().zip(["link_add", "link_remove"]) {
            let begun = Instant::now();
            owner.push(vec![moved(operation)]).await?;
            *taken = begun.elapsed().max(*taken);
        }
    }
    let _ = stop.send(());
    let (_, beside) = beside.await??;
    report.note(&name(&format!("showing {rows} rows")), longest[0].as_secs_f64(), "s");
    report.note(&name("hiding them"), longest[1].as_secs_f64(), "s");
    report.note(&name("pushes beside that, number"), beside.0.len() as f64, "");
    report.note(&name("  median"), beside.millis(50), "ms");
    let times = beside.millis(50) / alone.millis(50);
    report.at_most(&name("  median against nothing"), times, 3.0, "x");
    report.at_most(&name("  99 %"), beside.millis(99), wait, "ms");
    report.note(&name("  longest"), beside.millis(100), "ms");
    report.note(&name("server memory at its peak"), server.peak_memory()?, "MB");
    Ok(())
}
