//! The table of situations in `docs/doctor.md`: each is caused on purpose, and the page must say what
//! the doctor says. `VFS_SYNC_WRITE_DOCS=1` writes the page anew.

mod causes;

use std::any::Any;
use std::path::Path;

use serde_json::Value;

use super::{check, examine_with, ids};
use crate::support::Scene;

/// The lines between which the page has the table.
const MARKS: [&str; 2] = ["<!-- made by the test: begin -->", "<!-- made by the test: end -->"];

/// Set to write the page instead of comparing it.
const WRITE: &str = "VFS_SYNC_WRITE_DOCS";

/// The number of situations at a time.
const AT_A_TIME: usize = 4;

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
    let next = plain(&scene, found["next"].as_str().unwrap_or_default());
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
    let actions = after["actions"].as_array().unwrap().iter().map(|action| {
        let name = action["action"].as_str().unwrap();
        let result = action["result"].as_str().unwrap();
        match (action["done"] == true, result.strip_prefix("not tried because of ")) {
            (true, _) => format!("`{name}`: done"),
            (false, Some(reason)) => {
                format!("`{name}`: not tried because of `{}`", reason.split(':').next().unwrap())
            }
            (false, None) => format!("`{name}`: tried, not resolved"),
        }
    });
    let actions: Vec<String> = actions.collect();
    Ok(if actions.is_empty() { "nothing".to_owned() } else { actions.join(", ") })
}

/// Replaces what differs from run to run in a command.
fn plain(scene: &Scene, text: &str) -> String {
    let dir = scene.dir.path().to_string_lossy().into_owned();
    let text = text.replace(&format!("{dir}/"), "").replace(scene.url(), "URL");
    // A port of a fake server, the time in a new name.
    let mut plain = String::new();
    for (index, part) in text.split("127.0.0.1:").enumerate() {
        let part =
            if index == 0 { part } else { part.trim_start_matches(|c: char| c.is_ascii_digit()) };
        plain.push_str(if index == 0 { "" } else { "127.0.0.1:PORT" });
        plain.push_str(part);
    }
    // Times in names: their digits are many.
    let (mut text, mut digits) = (String::new(), String::new());
    for c in plain.chars().chain([' ']) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        text.push_str(if digits.len() >= 13 { "TIME" } else { &digits });
        digits.clear();
        text.push(c);
    }
    text.trim_end().replace('|', "\\|")
}

#[test]
fn each_situation_is_found_with_its_entry_and_next_step_as_the_page_says() {
    let rows = std::sync::Mutex::new(vec![None; causes::SITUATIONS.len()]);
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(situation) = causes::SITUATIONS.get(at) else { break };
                    let made = row(situation);
                    rows.lock().unwrap()[at] = Some(made);
                }
            });
        }
    });
    let (mut made, mut failed) = (Vec::new(), Vec::new());
    for row in rows.into_inner().unwrap().into_iter().flatten() {
        match row {
            Ok(row) => made.push(row),
            Err(text) => failed.push(text),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let rows: Vec<Option<String>> = made;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/doctor.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(MARKS[0]).unwrap();
    let (table, after) = rest.split_once(MARKS[1]).unwrap();
    let earlier: Vec<&str> = table.lines().collect();
    let mut made = String::from(
        "\n\n| situation | check | outcome | runbook entry | next step | `--fix` |\n|---|---|---|---|---|---|\n",
    );
    for (row, situation) in rows.iter().zip(causes::SITUATIONS) {
        // One that this machine cannot cause stays as the page has it.
        let title = format!("| {} |", situation.title);
        let kept =
            earlier.iter().find(|line| line.starts_with(&title)).map(|line| (*line).to_owned());
        match row.clone().or(kept) {
            Some(row) => made.push_str(&format!("{row}\n")),
            None => println!("SKIPPED: {}", situation.title),
        }
    }
    made.push('\n');
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&page, format!("{before}{}{made}{}{after}", MARKS[0], MARKS[1])).unwrap();
        return;
    }
    assert_eq!(table, made, "docs/doctor.md differs: {WRITE}=1 writes it");
}

/// Changes a field of the replica's settings.
fn set(scene: &Scene, field: &str, value: impl Into<Value>) {
    let path = scene.path("one/settings.json");
    let mut settings: Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    settings[field] = value.into();
    std::fs::write(path, settings.to_string()).unwrap();
}
