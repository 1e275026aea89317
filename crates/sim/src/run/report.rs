//! The output of the runner, for people and for programs.
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use comfy_table::{Table, presets};
use serde_json::{Value, json};
use vfs_sync_sim::{Kind, Outcome, Shrunk, Simulation};

use super::args::RunArgs;
use crate::run::Found;

/// Prints the findings of `sim run`.
pub(crate) fn found(args: &RunArgs, found: &Found) {
    let rate = found.played as f64 / found.seconds.max(1e-9) / f64::from(args.jobs);
    let missing: Vec<Value> = found
        .coverage
        .missing()
        .into_iter()
        .map(|(kind, name)| json!({"kind": kind, "name": name}))
        .collect();
    if args.json {
        let coverage = found
            .coverage
            .table()
            .into_iter()
            .map(|(kind, name, count)| json!({"kind": kind, "name": name, "count": count}));
        let failures =
            found.failures.iter().map(|(seed, failure)| json!({"seed": seed, "failure": failure}));
        let report = json!({
            "seeds": {"from": args.seeds.start, "to": args.seeds.end},
            "played": found.played,
            "seconds": found.seconds,
            "seedsPerSecondAndJob": rate,
            "interrupted": found.interrupted,
            "failures": failures.collect::<Vec<_>>(),
            "coverage": coverage.collect::<Vec<_>>(),
            "neverOccurred": missing,
        });
        println!("{report:#}");
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["", "", "times"]);
    let mut before: Option<Kind> = None;
    for (kind, name, count) in found.coverage.table() {
        let shown = if before == Some(kind) { "" } else { kind.name() };
        before = Some(kind);
        let count = if count == 0 { "NEVER".to_owned() } else { count.to_string() };
        table.add_row([shown, name, &count]);
    }
    println!("{table}\n");
    for (seed, failure) in &found.failures {
        println!("seed {seed}: {failure}");
        println!("  sim replay {seed}    sim shrink {seed}");
    }
    let ending = if found.interrupted { ", interrupted" } else { "" };
    println!(
        "{} seeds in {:.1} s ({rate:.0} a second and job){ending}: {} failed",
        found.played,
        found.seconds,
        found.failures.len(),
    );
    if !missing.is_empty() {
        println!("{} kinds of event never occurred", missing.len());
    }
}

/// Prints one history, line by line.
pub(crate) fn history(seed: u64, outcome: &Outcome, json: bool) {
    if json {
        let report = json!({
            "seed": seed,
            "digest": format!("{:016x}", outcome.digest),
            "failure": outcome.failure,
            "trace": outcome.trace,
        });
        println!("{report:#}");
        return;
    }
    for line in &outcome.trace {
        println!("{line}");
    }
    match &outcome.failure {
        Some(failure) => println!("\nseed {seed}: {failure}"),
        None => println!("\nseed {seed}: nothing found ({:016x})", outcome.digest),
    }
}

pub(crate) fn nothing_to_shrink(seed: u64, json: bool) {
    if json {
        println!("{:#}", json!({"seed": seed, "failure": null}));
    } else {
        println!("seed {seed} does not fail: there is nothing to shrink");
    }
}

/// Prints a history that was shrunk.
pub(crate) fn shrunk(
    simulation: &Simulation,
    seed: u64,
    shrunk: &Shrunk,
    outcome: &Outcome,
    json: bool,
) {
    let steps: Vec<usize> = shrunk.steps.iter().copied().collect();
    let named = simulation.describe(seed);
    if json {
        let what: Vec<Value> =
            steps.iter().map(|step| json!({"step": step, "what": named[*step]})).collect();
        let report = json!({
            "seed": seed,
            "failure": shrunk.failure,
            "played": shrunk.played,
            "steps": what,
            "trace": outcome.trace,
        });
        println!("{report:#}");
        return;
    }
    history(seed, outcome, false);
    println!("\n{} steps are enough ({} histories were played):", steps.len(), shrunk.played);
    for step in &steps {
        println!("  {step:>4} {}", named[*step]);
    }
    let only: Vec<String> = steps.iter().map(ToString::to_string).collect();
    println!("  sim replay {seed} --only {}", only.join(","));
}
