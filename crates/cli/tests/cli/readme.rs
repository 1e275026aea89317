//! The README's transcript of two users and one shared folder, run line by line: what it prints is
//! what the README says.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::Scene;

const README: &str = include_str!("../../../../README.md");
/// The server's address in the README.
const ADDRESS: &str = "127.0.0.1:7070";

/// The block of the README that begins like this, without its fences.
fn transcript() -> &'static str {
    let blocks = README.split("```console\n").skip(1);
    let mut blocks = blocks.filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains("share /plans bob")).expect("the README has a transcript")
}

/// Removes durations, which differ from run to run.
fn without_times(text: &str) -> String {
    let timeless = |line: &str| match line.rsplit_once(" in ") {
        Some((before, time)) if time.ends_with(" s") => before.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(timeless).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_transcript_of_the_readme_is_what_happens() {
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
    let binary = Path::new(env!("CARGO_BIN_EXE_vfs-sync"));
    let path = std::env::var("PATH").unwrap();
    let ran = Command::new("bash")
        .args(["-c", &format!("exec 2>&1\n{script}")])
        .current_dir(scene.dir.path())
        .env_clear()
        .env("PATH", format!("{}:{path}", binary.parent().unwrap().display()))
        .env("HOME", scene.dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(without_times(&printed), expected, "it printed:\n\n{printed}");
}
