//! The table of situations in `docs/doctor.md`: each is caused on purpose, and the page must say what
//! the doctor says.

mod causes;

use std::any::Any;

use serde_json::Value;

use super::{check, examine_with, ids, page};
use crate::support::Scene;

/// A situation in which a device may be.
struct Situation {
    /// The situation in words, as the page has it.
    title: &'static str,
    /// The check that finds it.
    check: &'static str,
    /// The key of the runbook's entry that the check names.
    entry: &'static str,
    outcome: &'static str,
    /// Causes the situation for the replica `one`.
    cause: fn(&mut Scene) -> Cause,
}

/// What keeps a situation up while the doctor looks.
#[derive(Default)]
struct Cause {
    environment: Vec<(&'static str, String)>,
    /// The script of a name space of its own in which the doctor runs.
    script: Option<String>,
    _kept: Vec<Box<dyn Any>>,
    /// True if the machine does not allow to cause it.
    impossible: bool,
}

impl Cause {
    fn keeping(kept: impl Any) -> Self {
        Self { _kept: vec![Box::new(kept)], ..Self::default() }
    }
}

const fn problem(
    title: &'static str,
    check: &'static str,
    entry: &'static str,
    cause: fn(&mut Scene) -> Cause,
) -> Situation {
    Situation { title, check, entry, outcome: "problem", cause }
}

const fn note(
    title: &'static str,
    check: &'static str,
    entry: &'static str,
    cause: fn(&mut Scene) -> Cause,
) -> Situation {
    Situation { title, check, entry, outcome: "note", cause }
}

/// Says what the doctor found instead of what it should.
fn instead(situation: &Situation, report: &Value) -> String {
    let mut text =
        format!("{}: {} should be a {}", situation.title, situation.check, situation.outcome);
    text.push_str(&format!(" with {}; found:", situation.entry));
    for check in report["checks"].as_array().unwrap() {
        if check["outcome"] != "ok" && check["evidence"]["skipped"] != true {
            let (id, outcome) = (&check["id"], &check["outcome"]);
            let (key, summary) = (&check["entry"]["key"], &check["summary"]);
            text.push_str(&format!("\n    {id} {outcome} {key}: {summary}"));
        }
    }
    text
}

/// Causes one situation; returns its row of the table, or `None` if it cannot be caused here.
fn row(situation: &Situation) -> Result<Option<String>, String> {
    let mut scene = Scene::with_server();
    let cause = (situation.cause)(&mut scene);
    if cause.impossible {
        return Ok(None);
    }
    let environment: Vec<_> =
        cause.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (_, report) = examine_with(&scene, "one", &environment, cause.script.as_deref());
    let found = check(&report, situation.check);
    let as_expected =
        found["outcome"] == situation.outcome && found["entry"]["key"] == situation.entry;
    // A note alone is no problem; advice comes with one.
    let alone = situation.outcome != "note" || situation.check == "recovery";
    if !as_expected || !(alone || ids(&report, "problem").is_empty()) {
        return Err(instead(situation, &report));
    }
    let next = page::plain(&scene, found["next"].as_str().unwrap_or_default());
    let next = if next.is_empty() { String::new() } else { format!("`{next}`") };
    let fixed = match cause.script {
        // The disk ends with its name space.
        Some(_) => "nothing".to_owned(),
        None => fixed(&scene, &environment, &report)?,
    };
    Ok(Some(format!(
        "| {} | `{}` | {} | `{}` | {next} | {fixed} |",
        situation.title, situation.check, situation.outcome, situation.entry
    )))
}

/// Runs `doctor --fix`; returns what it did. It must remove nothing that was rejected or lost.
fn fixed(scene: &Scene, environment: &[(&str, &str)], before: &Value) -> Result<String, String> {
    let mut command = scene.command();
    command.args(["--replica", "one", "--json", "doctor", "--fix"]);
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let after: Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |report: &Value, id: &str, key: &str| {
        let checks = report["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["id"] == id);
        found.and_then(|check| check["evidence"][key].as_u64()).unwrap_or(0)
    };
    for (id, key) in
        [("sync.rejected", "operations"), ("sync.rejected", "contents"), ("sync.recover", "count")]
    {
        if count(&after, id, key) < count(before, id, key) {
            return Err(format!("--fix removed something of {id}: {after:#}"));
        }
    }
    Ok(page::actions(&after))
}

#[test]
fn each_situation_is_found_with_its_entry_and_next_step_as_the_page_says() {
    let rows = page::at_once(causes::SITUATIONS, row);
    page::compare(page::DEVICE, causes::SITUATIONS.iter().map(|one| one.title).zip(rows));
}

/// Changes a field of the replica's settings.
fn set(scene: &Scene, field: &str, value: impl Into<Value>) {
    let path = scene.path("one/settings.json");
    let mut settings: Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    settings[field] = value.into();
    std::fs::write(path, settings.to_string()).unwrap();
}
