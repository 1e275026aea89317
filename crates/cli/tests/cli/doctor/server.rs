//! The server's doctor: each situation caused on purpose, repairs, and servers on which all is well.

mod causes;
mod healthy;

use std::any::Any;

use serde_json::Value;

use super::{check, ids, page};
use crate::support::{Ran, Scene};

/// A server in trouble.
struct Situation {
    /// The situation in words, as the page has it.
    title: &'static str,
    /// The check that finds it.
    check: &'static str,
    /// The key of the runbook's entry that the check names.
    entry: &'static str,
    outcome: &'static str,
    /// Causes the situation in the directory of a server that two users have used.
    cause: fn(&Scene) -> Cause,
}

/// What the doctor is given to find a situation.
#[derive(Default)]
struct Cause {
    args: Vec<String>,
    environment: Vec<(&'static str, String)>,
    _kept: Vec<Box<dyn Any>>,
}

impl Cause {
    fn args(args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self { args, ..Self::default() }
    }

    fn environment(name: &'static str, value: impl Into<String>) -> Self {
        Self { environment: vec![(name, value.into())], ..Self::default() }
    }
}

/// Runs the doctor of the scene's server.
#[track_caller]
fn examine_server(scene: &Scene, cause: &Cause, more: &[&str]) -> (Ran, Value) {
    let mut command = scene.command();
    command.args(["--json", "admin", "doctor", "--data", "server"]).args(&cause.args).args(more);
    command.envs(cause.environment.iter().map(|(name, value)| (name, value)));
    let output = command.output().unwrap();
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    let report = ran.json();
    let problems = report["problems"].as_u64().unwrap();
    assert_eq!(ran.code, i32::from(problems > 0), "{ran:?}");
    for check in report["checks"].as_array().unwrap() {
        assert!(check["entry"]["key"].is_string(), "no entry: {check}");
        let next = check["next"].as_str().unwrap_or_default();
        assert!(check["outcome"] != "problem" || !next.is_empty(), "no next step: {check}");
    }
    (ran, report)
}

/// Returns the checks that found something, with what they found.
fn findings(report: &Value) -> Vec<String> {
    let all = report["checks"].as_array().unwrap().iter();
    let found = all.filter(|one| one["outcome"] != "ok" && one["evidence"]["skipped"] != true);
    found
        .map(|one| {
            format!("{} {} {}: {}", one["id"], one["outcome"], one["entry"]["key"], one["summary"])
        })
        .collect()
}

/// Causes one situation; returns its row of the table.
fn row(situation: &Situation) -> Result<String, String> {
    let scene = causes::used();
    let cause = (situation.cause)(&scene);
    let (_, report) = examine_server(&scene, &cause, &[]);
    let found = check(&report, situation.check);
    let title = situation.title;
    if found["outcome"] != situation.outcome || found["entry"]["key"] != situation.entry {
        return Err(format!("{title}: {:#?}", findings(&report)));
    }
    if situation.outcome == "note" && !ids(&report, "problem").is_empty() {
        return Err(format!("{title}: {:#?}", findings(&report)));
    }
    let next = page::plain(&scene, found["next"].as_str().unwrap_or_default());
    let (ran, after) = examine_server(&scene, &cause, &["--fix"]);
    let actions = page::actions(&after);
    if actions.contains(": done") {
        let left = check(&after, situation.check);
        if left["outcome"] != "ok" {
            return Err(format!("{title}: after the repair {left}"));
        }
        // A line of the audit log, without names.
        if !ran.stderr.contains("\"audit\"") || ran.stderr.contains("alice") {
            return Err(format!("{title}: {}", ran.stderr));
        }
    }
    Ok(format!(
        "| {title} | `{}` | {} | `{}` | `{next}` | {actions} |",
        situation.check, situation.outcome, situation.entry
    ))
}

#[test]
fn each_situation_of_a_server_is_found_with_its_entry_and_next_step_as_the_page_says() {
    let rows = page::at_once(causes::SITUATIONS, |situation| row(situation).map(Some));
    page::compare(page::SERVER, causes::SITUATIONS.iter().map(|one| one.title).zip(rows));
}

#[test]
fn a_wrong_call_says_so_and_a_check_is_explained() {
    let scene = Scene::offline();
    scene.run(["admin", "doctor"]).expect(2).says("--data");
    scene.run(["admin", "doctor", "--data", "nowhere"]).expect(2).says("not a directory");
    scene.run(["admin", "doctor", "--data", ".", "--user", "a", "--all"]).expect(2);
    scene.run(["explain", "state.feeds"]).expect(0).says("Every feed").says("--all --fix");
}
