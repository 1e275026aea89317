//! The alert rules and the dashboard: their metrics exist, each alert has its runbook, and the rules
//! fire when they should.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("docs")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(docs().join(name)).unwrap()
}

/// The families that the page lists.
fn families() -> BTreeSet<String> {
    let page = read("metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.map(str::to_owned).collect()
}

/// The names in a text that look like those of families, without the parts of histograms.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let ours = words.filter(|word| word.starts_with("vfs_sync_") || word.starts_with("process_"));
    let plain = |word: &str| {
        let parts = ["_bucket", "_count", "_sum"];
        parts.iter().find_map(|part| word.strip_suffix(part)).unwrap_or(word).to_owned()
    };
    ours.map(plain).collect()
}

#[test]
fn every_metric_of_the_rules_and_the_dashboard_exists() {
    let families = families();
    assert!(families.len() > 40);
    for file in ["alerts/rules.yml", "alerts/tests.yml", "alerts/dashboard.json"] {
        let unknown: Vec<String> = named(&read(file)).difference(&families).cloned().collect();
        assert_eq!(unknown, [""; 0], "{file}");
    }
    serde_json::from_str::<serde_json::Value>(&read("alerts/dashboard.json")).unwrap();
}

#[test]
fn every_alert_leads_to_its_runbook_and_has_a_test() {
    let (rules, tests, page) =
        (read("alerts/rules.yml"), read("alerts/tests.yml"), read("metrics.md"));
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let anchor = format!("runbook: docs/metrics.md#{}", alert.to_lowercase());
        assert!(rules.contains(&anchor), "{alert} names no runbook");
        assert!(page.contains(&format!("\n### {alert}\n")), "{alert} has no entry");
        assert!(tests.contains(&format!("alertname: {alert},")), "{alert} is not tested quiet");
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} is not tested firing");
    }
}

#[test]
fn the_rules_fire_when_they_should_and_only_then() {
    let promtool = |arguments: &[&str]| {
        Command::new("promtool").args(arguments).current_dir(docs().join("alerts")).output()
    };
    for arguments in [["check", "rules", "rules.yml"], ["test", "rules", "tests.yml"]] {
        match promtool(&arguments) {
            Ok(done) => assert!(done.status.success(), "{arguments:?} {done:?}"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return eprintln!("SKIPPED: alert rules: promtool is not installed");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
