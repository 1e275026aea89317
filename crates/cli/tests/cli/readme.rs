//! The transcript of `docs/sharing.md`, run line by line: the output must equal the documented one.
//! The lines of the README must be commands that exist.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::Scene;

const README: &str = include_str!("../../../../README.md");
const SHARING: &str = include_str!("../../../../docs/sharing.md");
/// The server's address in the documentation.
const ADDRESS: &str = "127.0.0.1:7070";

/// The blocks of a page in a language, without their fences.
fn blocks(page: &'static str, language: &str) -> Vec<&'static str> {
    let rest = page.split("```").skip(1).step_by(2);
    rest.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

fn transcript() -> &'static str {
    let found = blocks(SHARING, "console");
    assert_eq!(found.len(), 1, "docs/sharing.md has one transcript");
    found[0]
}

/// Runs a script in the scene's directory, which is its home too, with the binary in the path.
fn bash(scene: &Scene, script: &str) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_vfs-sync"));
    let path = std::env::var("PATH").unwrap();
    Command::new("bash")
        .args(["-c", &format!("exec 2>&1\n{script}")])
        .current_dir(scene.dir.path())
        .env_clear()
        .env("PATH", format!("{}:{path}", binary.parent().unwrap().display()))
        .env("HOME", scene.dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Removes the durations, which differ from run to run.
fn without_times(text: &str) -> String {
    let timeless = |line: &str| match line.rsplit_once(" in ") {
        Some((before, time)) if time.ends_with(" s") => before.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(timeless).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_transcript_of_sharing_is_what_happens() {
    let scene = Scene::offline();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let expected = without_times(transcript());
    let mut script = String::from("trap 'kill $(jobs -p)' EXIT\n");
    for command in transcript().lines().filter_map(|line| line.strip_prefix("$ ")) {
        let quoted = format!("$ {command}").replace('\'', r"'\''");
        writeln!(script, "printf '%s\\n' '{quoted}'").unwrap();
        writeln!(script, "{}", command.replace(ADDRESS, &address)).unwrap();
        if command.ends_with('&') {
            // A person is slower than a server.
            let up = format!("(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null");
            writeln!(script, "until {up}; do kill -0 $! || exit 1; done").unwrap();
        }
    }
    let ran = bash(&scene, &script);
    let printed = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(without_times(&printed), expected, "it printed:\n\n{printed}");
}

#[test]
fn the_readme_runs_by_hand() {
    let scene = Scene::offline();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    scene.write("Documents/a/plan.txt", "plan");
    let block = blocks(README, "sh").into_iter().find(|block| block.contains("vfs-sync serve"));
    let mut script = String::from("set -e\ntrap 'kill $(jobs -p)' EXIT\n");
    for line in block.expect("the README has commands").lines() {
        if line.starts_with("cargo ") {
            continue; // the binary is built already
        }
        let line = line.replace(ADDRESS, &format!("127.0.0.1:{port}"));
        writeln!(script, "{line}").unwrap();
        if line.ends_with('&') {
            let up = format!("(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null");
            writeln!(script, "until {up}; do kill -0 $! || exit 1; done").unwrap();
        }
    }
    let ran = bash(&scene, &script);
    let printed = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "it printed:\n\n{printed}");
    assert_eq!(std::fs::read(scene.path("copy/a/plan.txt")).unwrap(), b"plan");
}
