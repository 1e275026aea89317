//! `vfs-sync-bench`: measurements with budgets, compared with those of the raw engine.
//!
//! The server is the built binary, a process of its own. Build both first:
//! `cargo build --release --workspace && target/release/vfs-sync-bench`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod attack;
mod measure;
mod process;
mod report;
mod soak;
mod victim;
mod workload;
mod writer;

use clap::Parser;
use measure::{apply, contents, folder, large, live, operator, pull, push, sharing};
use process::Server;
use report::Report;
use workload::Ids;

/// The error of a benchmark.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures vfs-sync on this machine and prints a table of results and budgets.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Internal>,
    /// Number of operations of history to push and pull
    #[arg(long, default_value_t = 1_000_000)]
    operations: usize,
    /// Empty PostgreSQL database on this machine to measure too
    #[arg(long, env = "VFS_SYNC_BENCH_POSTGRES_URL")]
    postgres: Option<String>,
    /// Measure only the client: applying a feed
    #[arg(long)]
    apply_only: bool,
    /// Measure only the cost of sharing
    #[arg(long)]
    sharing_only: bool,
    /// Measure only how long others wait while the largest operations are applied
    #[arg(long)]
    large_only: bool,
    /// Number of consequences of these operations
    #[arg(long, default_value_t = 1_000_000)]
    consequences: usize,
    /// Measure only contents: a large file, and a tree if one is named
    #[arg(long)]
    contents_only: bool,
    /// Size of the large file in MiB; it needs twice as much disk
    #[arg(long, default_value_t = 1_024)]
    large: usize,
    /// Measure only the memory that the command line and the server use for the large file
    #[arg(long)]
    memory_only: bool,
    /// Measure the large file with an S3 server too, which is started for it: SeaweedFS, see scripts/test
    #[arg(long)]
    s3: bool,
    /// Directory to send from folder to folder; its copies need six times its size
    #[arg(long, value_name = "DIR")]
    tree: Option<std::path::PathBuf>,
    /// Measure only a user's requests while another user attacks the server
    #[arg(long)]
    victim: bool,
    /// Name of the only attack to measure with --victim
    #[arg(long, value_name = "NAME", requires = "victim", value_parser = attack::ALL.map(|one| one.name))]
    attack: Option<String>,
    /// Rounds of a victim's requests under each attack
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    /// Run only all attacks at once for this time, such as 30m, and watch the server
    #[arg(long, value_name = "TIME", value_parser = time)]
    soak: Option<std::time::Duration>,
    /// Size of what attackers prepare, in percent
    #[arg(long, default_value_t = 100)]
    attack_size: usize,
    /// Measure only live updates: latency, idle streams, and pushes beside listeners
    #[arg(long)]
    live: bool,
    /// Measure only live folders: two directories that two processes keep in step
    #[arg(long)]
    folders: bool,
    /// Measure only the operator's side: devices, the doctor and a deletion beside others' pushes
    #[arg(long)]
    operator: bool,
    /// Number of files of their tree
    #[arg(long, default_value_t = 32_000)]
    files: usize,
    /// Number of idle streams of live updates to measure
    #[arg(long, default_value_t = 10_000)]
    streams: usize,
    /// Number of connections that push or pull at a time
    #[arg(long, default_value_t = 2)]
    connections: usize,
}

/// A part that the program runs as a process of its own.
#[derive(clap::Subcommand)]
enum Internal {
    /// Serve without recording anything
    #[command(hide = true)]
    Bare(process::Bare),
}

/// Parses a time: a number and s, m or h.
fn time(text: &str) -> Result<std::time::Duration, String> {
    let in_unit = |(unit, seconds): (char, u64)| {
        text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(seconds)
    };
    let seconds = [('s', 1), ('m', 60), ('h', 3_600)].into_iter().find_map(in_unit);
    seconds.map(std::time::Duration::from_secs).ok_or("must be a number and s, m or h".into())
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let mut args = Args::parse();
    if let Some(Internal::Bare(bare)) = args.command.take() {
        return match process::serve_bare(bare).await {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the bare server failed: {error}");
                std::process::ExitCode::FAILURE
            }
        };
    }
    let mut report = Report::default();
    let outcome = run(&args, &mut report).await;
    let missed = report.print();
    if let Err(error) = outcome {
        eprintln!("the benchmark failed: {error}");
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::from(u8::from(missed > 0))
}

async fn run(args: &Args, report: &mut Report) -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("server");
    std::fs::create_dir(&data)?;
    let n = args.operations;
    if args.apply_only {
        return apply(report, dir.path(), n / 2).await;
    }
    if args.sharing_only {
        return sharing(report, dir.path(), args.postgres.as_deref()).await;
    }
    if args.large_only {
        return large(args, report, dir.path()).await;
    }
    if args.live {
        let (postgres, connections) = (args.postgres.as_deref(), args.connections);
        return live::run(report, dir.path(), postgres, args.streams, connections).await;
    }
    if args.operator {
        return operators(args, report, dir.path()).await;
    }
    if args.folders {
        return folder::run(report, dir.path(), args.files).await;
    }
    if args.victim {
        return victim(report, dir.path(), args).await;
    }
    if let Some(length) = args.soak {
        return soak::run(report, &data.join("soak"), length, args.attack_size).await;
    }
    if args.memory_only {
        return memory(args, report, dir.path()).await;
    }
    if args.contents_only {
        return contents(args, report, dir.path()).await;
    }
    {
        let server = Server::start(&data, None).await?;
        let rates = push::run(&server, "r", Ids::UuidV7, n, args.connections).await?;
        report.at_least("push, SQLite, UUIDv7 ids", rates.all, 25_000.0, "op/s");
        report.note("  its first tenth", rates.first, "op/s");
        report.note("  its last tenth", rates.last, "op/s");
        report.at_least("  last tenth against first", rates.last / rates.first, 0.8, "x");
        let (pulled, cursor) = pull::run(&server, args.connections).await?;
        report.at_least("pull, pages of 500", pulled.all, 150_000.0, "entries/s");
        report.at_least("  last tenth against first", pulled.last / pulled.first, 0.8, "x");
        let cursor = cursor.ok_or("the feed is empty")?;
        let (poll, reconcile) = pull::polls(&server, &cursor).await?;
        report.at_most("an empty poll, server CPU", poll, 1.0, "ms");
        report.at_most("a reconcile, server CPU", reconcile, 1.0, "ms");
        let (taken, peak) = process::first_sync(&server, &dir.path().join("first")).await?;
        let entries = 2.0 * n as f64;
        report.note("a first sync by the command line", entries / taken.as_secs_f64(), "entries/s");
        report.at_most("client memory at its peak", peak, 200.0, "MB");
        report.at_most("server memory at its peak", server.peak_memory()?, 200.0, "MB");
        let stamped = push::deletions(&server, "stamped", n / 20, false).await?;
        let seen = push::deletions(&server, "seen", n / 20, true).await?;
        report.note("deletions, by stamps", stamped, "op/s");
        report.note("deletions, by what was seen", seen, "op/s");
        report.at_least("  by what was seen against by stamps", seen / stamped, 0.9, "x");
        drop(server);
        let database = std::fs::read_dir(&data)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "sqlite3" || e == "db"))
            .ok_or("the server left no database")?;
        let raw = push::raw_sqlite(&database, &dir.path().join("raw.sqlite3"), n)?;
        report.note("raw SQLite, the same rows and batches", raw, "op/s");
        report.at_least("  push against raw SQLite", rates.all / raw, 0.3, "x");
    }
    {
        let data = dir.path().join("random");
        std::fs::create_dir(&data)?;
        let server = Server::start(&data, None).await?;
        let rates = push::run(&server, "r", Ids::Random, n / 4, args.connections).await?;
        report.note("push, SQLite, random ids", rates.all, "op/s");
    }
    apply(report, dir.path(), n / 2).await?;
    sharing(report, dir.path(), args.postgres.as_deref()).await?;
    large(args, report, dir.path()).await?;
    if let Some(url) = &args.postgres {
        let data = dir.path().join("postgres");
        std::fs::create_dir(&data)?;
        let server = Server::start(&data, Some(url)).await?;
        let rates = push::run(&server, "r", Ids::UuidV7, n / 4, args.connections).await?;
        report.at_least("push, PostgreSQL, UUIDv7 ids", rates.all, 8_000.0, "op/s");
    }
    contents(args, report, dir.path()).await
}

async fn contents(args: &Args, report: &mut Report, dir: &std::path::Path) -> Result<(), Failure> {
    contents::on_disk(report, dir, args.large).await?;
    if args.s3 {
        contents::on_s3(report, dir, args.large).await?;
    }
    memory(args, report, dir).await?;
    match &args.tree {
        Some(tree) => contents::tree(report, dir, tree).await,
        None => Ok(()),
    }
}

async fn memory(args: &Args, report: &mut Report, dir: &std::path::Path) -> Result<(), Failure> {
    contents::memory(report, dir, args.large, false).await?;
    if args.s3 {
        contents::memory(report, dir, args.large, true).await?;
    }
    Ok(())
}

async fn apply(report: &mut Report, dir: &std::path::Path, entries: usize) -> Result<(), Failure> {
    let (first, second) = apply::run(None, entries).await?;
    report.at_least("apply a decoded feed, in memory", first.min(second), 1_000_000.0, "entries/s");
    report.note("  second half against first", second / first, "x");
    let (first, second) = apply::run(Some(&dir.join("replica")), entries).await?;
    report.at_least("apply it, durable replica", first.min(second), 150_000.0, "entries/s");
    report.at_least("  second half against first", second / first, 0.8, "x");
    Ok(())
}

async fn large(args: &Args, report: &mut Report, dir: &std::path::Path) -> Result<(), Failure> {
    let data = dir.join("consequences");
    std::fs::create_dir(&data)?;
    let server = Server::start(&data, None).await?;
    large::run(report, &server, "SQLite", args.consequences, 250.0).await?;
    drop(server);
    if let Some(url) = &args.postgres {
        let data = dir.join("consequences-postgres");
        std::fs::create_dir(&data)?;
        let server = Server::start(&data, Some(url)).await?;
        large::run(report, &server, "PostgreSQL", args.consequences, 100.0).await?;
    }
    Ok(())
}

async fn operators(args: &Args, report: &mut Report, dir: &std::path::Path) -> Result<(), Failure> {
    let data = dir.join("operator");
    operator::run(report, &data, None, "SQLite", args.operations).await?;
    if let Some(url) = args.postgres.as_deref() {
        let data = dir.join("operator-postgres");
        operator::run(report, &data, Some(url), "PostgreSQL", args.operations).await?;
    }
    Ok(())
}

async fn sharing(
    report: &mut Report,
    dir: &std::path::Path,
    postgres: Option<&str>,
) -> Result<(), Failure> {
    let data = dir.join("sharing");
    std::fs::create_dir(&data)?;
    sharing::run(report, &Server::start(&data, None).await?, "SQLite", 2.0).await?;
    if let Some(url) = postgres {
        let data = dir.join("sharing-postgres");
        std::fs::create_dir(&data)?;
        let server = Server::start(&data, Some(url)).await?;
        sharing::run(report, &server, "PostgreSQL", 1.0).await?;
    }
    Ok(())
}

async fn victim(report: &mut Report, dir: &std::path::Path, args: &Args) -> Result<(), Failure> {
    let sizes = victim::Sizes { rounds: args.rounds, attacks: args.attack_size };
    let only = args.attack.as_deref();
    victim::run(report, &dir.join("victim"), None, "SQLite", only, &sizes).await?;
    if let Some(url) = args.postgres.as_deref() {
        let data = dir.join("victim-postgres");
        victim::run(report, &data, Some(url), "PostgreSQL", only, &sizes).await?;
    }
    Ok(())
}
