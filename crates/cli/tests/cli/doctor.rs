//! The doctors of devices and servers: each situation caused on purpose, and what they say of it.

mod bundle;
mod fake;
mod healthy;
mod page;
mod repair;
mod server;
mod situations;

use std::process::Command;

use serde_json::Value;

use crate::support::{Ran, Scene};

/// Runs the doctor on a replica; it must change nothing.
#[track_caller]
fn examine(scene: &Scene, replica: &str) -> (Ran, Value) {
    examine_with(scene, replica, &[], None)
}

/// Runs the doctor with more environment variables; after `script`, in a name space of its own.
#[track_caller]
fn examine_with(
    scene: &Scene,
    replica: &str,
    environment: &[(&str, &str)],
    script: Option<&str>,
) -> (Ran, Value) {
    let before = bytes_of(scene, replica);
    let mut command = scene.command();
    if let Some(script) = script {
        let binary = env!("CARGO_BIN_EXE_vfs-sync");
        let script = format!("{script} && exec '{binary}' \"$@\"");
        command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
        command.current_dir(scene.dir.path());
    }
    command.args(["--replica", replica, "--json", "doctor"]).envs(environment.iter().copied());
    let output = command.output().unwrap();
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert_eq!(bytes_of(scene, replica), before, "the doctor only reads");
    let report = ran.json();
    let problems = report["problems"].as_u64().unwrap();
    assert_eq!(ran.code, i32::from(problems > 0), "{ran:?}");
    for check in report["checks"].as_array().unwrap() {
        let id = &check["id"];
        assert!(check["entry"]["key"].is_string(), "{id} has no entry: {check}");
        let ok = ["ok", "note", "problem"].contains(&check["outcome"].as_str().unwrap());
        assert!(ok && check["summary"].is_string(), "{check}");
        let next = check["next"].as_str().unwrap_or_default();
        assert!(check["outcome"] != "problem" || !next.is_empty(), "no next step: {check}");
    }
    (ran, report)
}

/// Returns the names and bytes of all files of a replica.
fn bytes_of(scene: &Scene, replica: &str) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![scene.path(replica)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.clone(), std::fs::read(&path).unwrap_or_default()));
            }
        }
    }
    found.sort();
    found
}

/// Returns the check with this id; the first one that is not `ok`, if there are several.
#[track_caller]
fn check<'a>(report: &'a Value, id: &str) -> &'a Value {
    let mut all: Vec<_> =
        report["checks"].as_array().unwrap().iter().filter(|check| check["id"] == id).collect();
    all.sort_by_key(|check| check["outcome"] == "ok");
    all.first().copied().unwrap_or_else(|| panic!("no check {id} in {report:#}"))
}

/// Returns the ids of the checks with this outcome.
fn ids<'a>(report: &'a Value, outcome: &str) -> Vec<&'a str> {
    let all = report["checks"].as_array().unwrap().iter();
    all.filter(|check| check["outcome"] == outcome).map(|c| c["id"].as_str().unwrap()).collect()
}
