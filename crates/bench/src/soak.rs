//! A soak: all attacks at once with the load of several victims, for as long as is wanted. At its
//! end, what an operator sees of the server no longer grows, and no victim's request has failed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use crate::Failure;
use crate::attack::{self, Attackers};
use crate::process::Server;
use crate::report::Report;
use crate::victim::{Victim, View, environment, raise_descriptor_limit};

/// The greatest ratio of the last third's maximum to that of the middle third.
const GROWTH: f64 = 1.2;
const VICTIMS: usize = 3;
/// The number of samples of a run.
const SAMPLES: u32 = 60;
/// The pause of a victim between two rounds.
const PAUSE: Duration = Duration::from_millis(250);
/// The time in which the server gives up what attackers left open.
const SETTLED: Duration = Duration::from_secs(5);
/// The descriptors that may be open afterwards beyond those at the beginning.
const DESCRIPTORS: usize = 8;
/// Tables with a row for each operation, blob or version that was accepted, for as long as retention says.
const JOURNALS: [&str; 4] = ["accepted_ops", "blobs", "blob_stages", "blob_refs"];
/// The greatest size in bytes on the disk of a row of a journal, with its indexes.
const JOURNAL_ROW: f64 = 400.0;

/// The numbers that an operator sees, each with its name.
type Sample = BTreeMap<String, f64>;

/// Runs the soak for `length` on a server with SQLite in `data`.
pub(crate) async fn run(
    report: &mut Report,
    data: &Path,
    length: Duration,
    size: usize,
) -> Result<(), Failure> {
    raise_descriptor_limit()?;
    std::fs::create_dir(data)?;
    let mut environment = environment();
    environment.push(("VFS_SYNC_KEEP_VERSIONS", "1s".into()));
    let server = Server::start_with(data, environment).await?;
    let names: Vec<String> = (0..VICTIMS).map(|n| format!("victim-{n}")).collect();
    let mut victims = Vec::new();
    for name in &names {
        victims.push(Victim::new(&server, name).await?);
    }
    let before = server.descriptors()?;
    let mut attackers = Attackers::new(&server, &names, size)?;
    for attack in &attack::ALL {
        attackers.prepare(attack).await?;
        eprintln!("prepared: {}", attack.name);
    }
    attackers.begin();
    let stop = Arc::new(AtomicBool::new(false));
    let work = victims.into_iter().map(|victim| tokio::spawn(work(victim, Arc::clone(&stop))));
    let work: Vec<_> = work.collect();
    let samples = watch(&server, data, length).await;
    stop.store(true, Ordering::Relaxed);
    let mut view = View::default();
    for victim in futures::future::join_all(work).await {
        view.absorb(victim?);
    }
    let tallies = attackers.stop().await?;
    tokio::time::sleep(SETTLED).await;
    judge_growth(report, &samples?);
    let left = server.descriptors()?;
    report.at_most("descriptors after the attacks", left as f64, (before + DESCRIPTORS) as f64, "");
    report.note("requests of victims that succeeded", view.succeeded() as f64, "");
    report.at_most("  that failed", view.failures.len() as f64, 0.0, "");
    for failure in view.failures.iter().take(10) {
        eprintln!("  {failure}");
    }
    for (name, tally) in tallies {
        let counts = tally.counts();
        eprintln!("answers to {name}: {counts:?}");
        let undocumented = attack::undocumented(&counts) as f64;
        report.at_most(&format!("undocumented answers to {name}"), undocumented, 0.0, "");
    }
    Ok(())
}

async fn work(mut victim: Victim, stop: Arc<AtomicBool>) -> View {
    let mut view = View::default();
    while !stop.load(Ordering::Relaxed) {
        victim.round(&mut view).await;
        tokio::time::sleep(PAUSE).await;
    }
    view
}

/// Takes samples at equal intervals for `length`.
async fn watch(server: &Server, data: &Path, length: Duration) -> Result<Vec<Sample>, Failure> {
    let (begun, mut samples) = (Instant::now(), Vec::new());
    for n in 1..=SAMPLES {
        let due = length * n / SAMPLES;
        tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        let mut sample = rows(data)?;
        let journals: f64 = JOURNALS.iter().filter_map(|&table| sample.remove(table)).sum();
        let disk = bytes_in(data) as f64 - journals * JOURNAL_ROW;
        sample.insert("memory in MB".into(), server.memory()?);
        sample.insert("descriptors".into(), server.descriptors()? as f64);
        sample.insert("MB on the disk without journals".into(), disk / 1_000_000.0);
        eprintln!("{:.0?}: {sample:.0?}, rows of journals: {journals}", begun.elapsed());
        samples.push(sample);
    }
    Ok(samples)
}

/// Counts the rows of each table, as another process that only reads.
fn rows(data: &Path) -> Result<Sample, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = Connection::open_with_flags(data.join("metadata.sqlite3"), flags)?;
    let mut names = database.prepare(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
    )?;
    let names: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let count = |name: String| {
        let sql = format!("SELECT count(*) FROM {name}");
        Ok((name, database.query_row(&sql, [], |row| row.get(0))?))
    };
    names.into_iter().map(count).collect()
}

/// Returns the size of all files under a directory; those that go meanwhile count nothing.
fn bytes_in(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_in(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Compares the last third of the samples with the middle one; the first is the attacks' fill.
fn judge_growth(report: &mut Report, samples: &[Sample]) {
    let third = samples.len() / 3;
    for name in samples.iter().flat_map(BTreeMap::keys).collect::<std::collections::BTreeSet<_>>() {
        let most = |samples: &[Sample]| {
            samples.iter().filter_map(|sample| sample.get(name)).copied().fold(0.0, f64::max)
        };
        let (middle, last) = (most(&samples[third..2 * third]), most(&samples[2 * third..]));
        let what = format!("{name}, in the middle third");
        report.note(&what, middle, "");
        // A table of a few rows may have a few more.
        let bound = (middle * GROWTH).max(middle + 16.0);
        report.at_most("  in the last third", last, bound, "");
    }
}
