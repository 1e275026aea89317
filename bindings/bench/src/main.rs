//! `vfs-sync-bindings-bench`: calls through the bindings against the same calls in Rust, on a replica of a
//! million items. `scripts/bindings-bench` builds what it needs and runs it.
#![allow(clippy::print_stdout)]

mod elsewhere;
mod measure;
mod replica;

use std::path::Path;
use std::time::Instant;

use vfs_sync_client::Query;

use elsewhere::Elsewhere;
use measure::{Direct, Measured};

/// The error of a benchmark.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
/// The nanoseconds of a call, or of each of its parts.
pub(crate) type Times = Vec<f64>;

/// What the time of a call is held against.
#[derive(Clone, Copy)]
enum Budget {
    /// The time in Rust, what the language takes to make the result, and so many nanoseconds.
    More(f64),
    /// The time in Rust, multiplied, and what the language takes to make the result.
    Times(f64),
    /// So many nanoseconds.
    AtMost(f64),
    None,
}

const READ: Budget = Budget::More(5_000.0);
const BULK: Budget = Budget::Times(1.3);
const FIRST: Budget = Budget::AtMost(10e6);
const CHANGED: Budget = Budget::AtMost(5e6);

/// The calls, and what is measured of each.
const CALLS: [(&str, &[(&str, Budget)]); 13] = [
    ("node", &[("node", READ)]),
    ("parentsOf", &[("parentsOf", READ)]),
    ("status", &[("status", READ)]),
    ("pathOf", &[("pathOf", BULK)]),
    ("resolve", &[("resolve", BULK)]),
    ("children", &[("children, 99 items", BULK)]),
    ("walk", &[("walk, 10,000 items", BULK)]),
    ("find", &[("find, 1,000 items", BULK)]),
    ("put", &[("put, 16 MiB", BULK)]),
    ("read", &[("read, 16 MiB", BULK)]),
    ("query by name", &[("query by name, 100 items", FIRST)]),
    ("query by type and time", &[("query by type and time, 100 items", FIRST)]),
    (
        "watch",
        &[
            ("watch, first result of 100 items", FIRST),
            ("rename of one of them", Budget::None),
            ("from the end of the rename to the result", CHANGED),
        ],
    ),
];

/// The calls whose results a language makes of JSON at a cost of its own, which is measured alone too.
const MADE: [&str; 5] = ["node", "status", "children", "walk", "find"];
/// The rounds of each call, in turn in each language; the median counts.
const ROUNDS: usize = 9;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn shown(nanos: f64) -> String {
    match nanos {
        ..1e4 => format!("{:.1} µs", nanos / 1e3),
        ..1e6 => format!("{:.0} µs", nanos / 1e3),
        _ => format!("{:.1} ms", nanos / 1e6),
    }
}

/// The times of each part of a call, round by round, of one who makes it.
fn part(rounds: &[Times], part: usize) -> Vec<f64> {
    rounds.iter().filter_map(|times| times.get(part).copied()).collect()
}

/// Runs all calls and prints the table; returns the number of budgets that are missed.
fn run(rust: &mut Direct, others: &mut [(&str, Elsewhere)]) -> Result<usize, Failure> {
    let names: Vec<_> = others.iter().map(|(name, _)| *name).collect();
    println!("| call | Rust | {} | budget |", names.join(" | "));
    println!("|---|---|{}---|", "---|".repeat(names.len()));
    let mut missed = 0;
    for (call, parts) in CALLS {
        let (mut here, mut there) = (Vec::new(), vec![Vec::new(); others.len()]);
        let mut floors = vec![Vec::new(); others.len()];
        for round in 0..=ROUNDS {
            // The first round warms up what it uses.
            let warm = round > 0;
            here.extend(Some(rust.round(call)?).filter(|_| warm));
            for (at, (_, other)) in others.iter_mut().enumerate() {
                there[at].extend(Some(other.round(call)?).filter(|_| warm));
                if MADE.contains(&call) {
                    let floor = other.round(&format!("made: {call}"))?;
                    floors[at].extend(Some(floor).filter(|_| warm));
                }
            }
        }
        for (at, (name, budget)) in parts.iter().enumerate() {
            let base = part(&here, at);
            print!("| {name} | {} ", shown(median(base.clone())));
            for (rounds, floors) in there.iter().zip(&floors) {
                let times = part(rounds, at);
                let floor = if floors.is_empty() { 0.0 } else { median(part(floors, 0)) };
                let paired = |of: fn(f64, f64) -> f64| {
                    median(base.iter().zip(&times).map(|(base, time)| of(*base, *time)).collect())
                };
                let (more, ratio) =
                    (paired(|base, time| time - base), paired(|base, time| time / base));
                let time = median(times.clone());
                let (met, note) = match *budget {
                    Budget::More(limit) => {
                        let made = format!(", {} of them to make the result", shown(floor));
                        let made = if floor > 0.0 { made } else { String::new() };
                        (more - floor <= limit, format!(": {} more{made}", shown(more)))
                    }
                    Budget::Times(limit) => {
                        let floor = floor / median(base.clone());
                        let made = format!(", {floor:.2} of them to make the result");
                        let made = if floor > 0.0 { made } else { String::new() };
                        (ratio - floor <= limit, format!(": {ratio:.2} times{made}"))
                    }
                    Budget::AtMost(limit) => (time <= limit, String::new()),
                    Budget::None => (true, String::new()),
                };
                missed += usize::from(!met);
                let verdict = if met { "" } else { " (missed)" };
                print!("| {}{note}{verdict} ", shown(time));
            }
            println!(
                "| {} |",
                match *budget {
                    Budget::More(more) => format!("{} more", shown(more)),
                    Budget::Times(times) => format!("{times} times"),
                    Budget::AtMost(most) => shown(most),
                    Budget::None => String::new(),
                }
            );
        }
    }
    Ok(missed)
}

/// Measures queries of a replica in memory; returns the number of budgets that are missed.
fn memory(items: usize) -> Result<usize, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let client = runtime.block_on(replica::in_memory(items))?;
    let begun = Instant::now();
    client.find(&Query::default())?;
    println!(
        "\nA replica in memory: {} until the first query has its index.\n",
        shown(begun.elapsed().as_nanos() as f64)
    );
    let mut direct = Direct::new(client, runtime, items)?;
    println!("| call | Rust | budget |\n|---|---|---|");
    let mut missed = 0;
    let queries = CALLS.iter().filter(|(_, parts)| matches!(parts[0].1, Budget::AtMost(_)));
    for (call, parts) in queries {
        let rounds = (0..ROUNDS).map(|_| direct.round(call)).collect::<Result<Vec<_>, _>>()?;
        for (at, (name, budget)) in parts.iter().enumerate() {
            let time = median(part(&rounds, at));
            let (met, text) = match *budget {
                Budget::AtMost(most) => (time <= most, shown(most)),
                _ => (true, String::new()),
            };
            missed += usize::from(!met);
            println!("| {name} | {}{} | {text} |", shown(time), if met { "" } else { " (missed)" });
        }
    }
    Ok(missed)
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (entry, to) = (entry?, to);
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [dir, items, scripts, python] = arguments.as_slice() else {
        return Err("usage: vfs-sync-bindings-bench DIR ITEMS SCRIPTS PYTHON".into());
    };
    let count = items.parse()?;
    let dir = Path::new(dir);
    let own = dir.join("rust");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if !own.exists() {
        let (indexing, released) = runtime.block_on(replica::make(&own, count))?;
        runtime.block_on(released);
        println!("{} until the first query has its index.\n", shown(indexing.as_nanos() as f64));
    }
    let mut others = Vec::new();
    let content = measure::CONTENT.to_string();
    for (name, program, script) in
        [("Node", "node", "measure.mjs"), ("Python", python.as_str(), "measure.py")]
    {
        let replica = dir.join(name);
        if !replica.exists() {
            copy(&own, &replica)?;
        }
        let (replica, script) = (replica.display().to_string(), format!("{scripts}/{script}"));
        others.push((name, Elsewhere::start(program, &[&script, &replica, items, &content])?));
    }
    let within = runtime.enter();
    let client = replica::open(&own, count)?;
    drop(within);
    let mut direct = Direct::new(client, runtime, count)?;
    let mut missed = run(&mut direct, &mut others)?;
    drop(direct);
    for (_, other) in others {
        other.stop()?;
    }
    missed += memory(count)?;
    match missed {
        0 => Ok(()),
        missed => Err(format!("{missed} budgets are missed").into()),
    }
}
