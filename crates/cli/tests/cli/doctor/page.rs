//! The tables of `docs/doctor.md`, which the tests make: `VFS_SYNC_WRITE_DOCS=1` writes them anew.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::support::Scene;

/// Set to write the page instead of comparing it.
const WRITE: &str = "VFS_SYNC_WRITE_DOCS";

/// The number of situations at a time.
const AT_A_TIME: usize = 4;

/// The lines between which the page has the table of devices.
pub(super) const DEVICE: [&str; 2] =
    ["<!-- made by the test: begin -->", "<!-- made by the test: end -->"];

/// The lines between which the page has the table of servers.
pub(super) const SERVER: [&str; 2] =
    ["<!-- made by the test of servers: begin -->", "<!-- made by the test of servers: end -->"];

/// Held by the test that reads or writes the page.
static PAGE: Mutex<()> = Mutex::new(());

/// Makes the rows of all situations, several at a time. Fails with the texts of those that failed.
pub(super) fn at_once<S: Sync>(
    situations: &[S],
    row: impl Fn(&S) -> Result<Option<String>, String> + Sync,
) -> Vec<Option<String>> {
    let rows = Mutex::new(vec![None; situations.len()]);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(situation) = situations.get(at) else { break };
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
    made
}

/// Compares the table between `marks` with the rows of the situations by their titles, or writes it.
/// One without a row, which this machine cannot cause, stays as the page has it.
pub(super) fn compare(
    marks: [&str; 2],
    rows: impl Iterator<Item = (&'static str, Option<String>)>,
) {
    let _held = PAGE.lock().unwrap();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/doctor.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(marks[0]).unwrap();
    let (table, after) = rest.split_once(marks[1]).unwrap();
    let earlier: Vec<&str> = table.lines().collect();
    let mut made = String::from(
        "\n\n| situation | check | outcome | runbook entry | next step | `--fix` |\n|---|---|---|---|---|---|\n",
    );
    for (title, row) in rows {
        let start = format!("| {title} |");
        let kept = earlier.iter().find(|line| line.starts_with(&start));
        match row.or(kept.map(|line| (*line).to_owned())) {
            Some(row) => made.push_str(&format!("{row}\n")),
            None => println!("SKIPPED: {title}"),
        }
    }
    made.push('\n');
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&page, format!("{before}{}{made}{}{after}", marks[0], marks[1])).unwrap();
        return;
    }
    assert_eq!(table, made, "docs/doctor.md differs: {WRITE}=1 writes it");
}

/// Returns what `--fix` did, as the table has it.
pub(super) fn actions(report: &Value) -> String {
    let actions = report["actions"].as_array().unwrap().iter().map(|action| {
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
    if actions.is_empty() { "nothing".to_owned() } else { actions.join(", ") }
}

/// Replaces what differs from run to run in a command.
pub(super) fn plain(scene: &Scene, text: &str) -> String {
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
