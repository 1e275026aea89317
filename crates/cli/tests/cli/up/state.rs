//! The state that `up` writes, as `folder list`, `folder problems` and `status` show it.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use vfs_sync_testkit::{Direction, Proxy};

use super::{Devices, Up, wait_until};
use crate::support::Scene;

#[test]
fn other_commands_show_the_state_while_up_runs_and_after_it() {
    let mut devices = Devices::new(&["a"]);
    devices.scene.write("da/f", "one");
    devices.scene.on("a", &["folder", "problems"]).expect(1).says("no directory");
    let up = devices.up("a");
    let list =
        |devices: &Devices| devices.scene.on("a", &["--json", "folder", "list"]).expect(0).json();
    wait_until("it is in step", || list(&devices)["folders"][0]["state"] == "inStep");
    let first = list(&devices);
    assert_eq!(first["running"], true);
    assert!(first["folders"][0]["lastInStep"].is_string(), "{first}");
    devices.scene.on("a", &["folder", "problems"]).expect(0).says("nothing is left out");
    devices.scene.on("a", &["status"]).expect(0).says("in step");
    // A pipe cannot be carried.
    let pipe = devices.scene.path("da/\u{1b}[2Jpipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    wait_until("it is a problem", || {
        devices.scene.on("a", &["folder", "problems", "da"]).code == 5
    });
    let problems = devices.scene.on("a", &["folder", "problems"]).expect(5);
    let problems = problems.says("specialFile").says("\\u{1b}[2Jpipe").says("next: ");
    assert!(!problems.stdout.contains('\u{1b}'), "{problems:?}");
    let json = devices.scene.on("a", &["--json", "folder", "problems"]).json();
    let problem = &json["folders"][0]["problems"];
    assert_eq!(problem["first"][0]["path"], "\u{1b}[2Jpipe", "{json}");
    assert_eq!(problem["counts"]["specialFile"], 1, "{json}");
    devices.scene.on("a", &["folder", "list"]).expect(0).says("waiting: 1 entry is left out");
    devices.scene.on("a", &["status"]).expect(5).says("folder problems");
    let live = devices.scene.on("a", &["--json", "status"]).expect(5).json()["live"].clone();
    assert_eq!(live["folders"][0]["state"], "waiting", "{live}");
    assert_eq!(up.interrupt(), 5);
    let after = list(&devices);
    assert_eq!(after["running"], false);
    assert_eq!(after["folders"][0]["problems"]["counts"]["specialFile"], 1, "{after}");
    let at = after["at"].as_str().unwrap();
    devices.scene.on("a", &["folder", "problems"]).expect(5).says("not running").says(at);
    devices.scene.on("a", &["status"]).expect(5).says("not running");
    std::fs::remove_file(pipe).unwrap();
    devices.once("a").expect(0);
    devices.scene.on("a", &["folder", "problems"]).expect(0);
    // Without the server it waits, and knows when it was in step.
    let before = list(&devices)["folders"][0]["lastInStep"].clone();
    devices.scene.stop_server();
    devices.once("a").expect(4);
    let offline = list(&devices);
    assert_eq!(offline["folders"][0]["state"], "waiting", "{offline}");
    assert_eq!(offline["folders"][0]["lastInStep"], before, "{offline}");
    devices.scene.on("a", &["folder", "list"]).expect(0).says("cannot be reached");
    devices.scene.on("a", &["folder", "problems"]).expect(0).says("cannot be reached");
}

#[test]
fn a_damaged_state_is_named_and_replaced_by_the_next_up() {
    let devices = Devices::new(&["a"]);
    devices.once("a").expect(0);
    let path = devices.scene.path("a/live.json");
    for damaged in ["", "{\"version\":7,\"at\":\"2024-01-01T00:00:00Z\",\"folders\":[]}", "[[[["] {
        std::fs::write(&path, damaged).unwrap();
        for command in [&["folder", "list"][..], &["folder", "problems"], &["status"]] {
            devices.scene.on("a", command).expect(1).says("live.json");
        }
    }
    devices.once("a").expect(0);
    devices.scene.on("a", &["folder", "list"]).expect(0).says("in step");
    devices.scene.on("a", &["status"]).expect(0).says("in step");
    // A directory that cannot be kept in step is a problem of its own.
    std::fs::remove_dir_all(devices.scene.path("da")).unwrap();
    devices.once("a").expect(5);
    devices.scene.on("a", &["folder", "problems"]).expect(5).says("directory: ");
}

#[test]
fn a_running_up_scans_when_it_is_asked_to() {
    let devices = Devices::new(&["a"]);
    let scan = |more: &[&str]| devices.scene.on("a", &[&["folder", "scan"], more].concat());
    scan(&[]).expect(1).says("no directory");
    devices.once("a").expect(0);
    scan(&[]).expect(1).says("up --once");
    let up = devices.up("a");
    wait_until("it is in step", || {
        let list = devices.scene.on("a", &["--json", "folder", "list"]).json();
        list["running"] == true && list["folders"][0]["state"] == "inStep"
    });
    for n in 0..3 {
        devices.scene.write("da/f", format!("{n}"));
        // On a slow machine `up` has noticed the change by itself before.
        scan(&["da"]).expect(0).says("1 entry, ");
        devices.scene.on("a", &["cat", "/f"]).expect(0).says(&n.to_string());
    }
    let json = devices.scene.on("a", &["--json", "folder", "scan", "--checksum"]).expect(0).json();
    assert_eq!(json["folders"][0]["entries"], 1, "{json}");
    let pipe = devices.scene.path("da/pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    scan(&[]).expect(5).says("1 entry is left out");
    std::fs::rename(devices.scene.path("da"), devices.scene.path("aside")).unwrap();
    scan(&[]).expect(5).says("was not scanned");
    devices.scene.on("a", &["folder", "pause"]).expect(0);
    scan(&[]).expect(1).says("is paused");
    drop(up);
}

#[test]
fn a_change_that_is_not_permitted_is_one_problem_with_a_next_step() {
    let scene = Scene::with_server();
    for user in ["alice", "bob"] {
        scene.replica_of(user);
    }
    scene.write("f", "alice's");
    scene.on("alice", &["mkdir", "/docs"]).expect(0);
    scene.on("alice", &["put", "f", "/docs/f"]).expect(0);
    scene.on("alice", &["share", "/docs", "bob", "read"]).expect(0);
    scene.on("alice", &["sync"]).expect(0);
    scene.on("bob", &["sync"]).expect(0);
    let once = || scene.on("bob", &["up", "--once", "d", "shared:alice/docs"]);
    once().expect(0);
    scene.write("d/f", "bob's");
    let ran = once().expect(5).says("1 entry is left out");
    assert!(!ran.stderr.contains("--force"), "{ran:?}");
    let problems = scene.on("bob", &["--json", "folder", "problems"]).expect(5).json();
    let listed = problems["folders"][0]["problems"]["first"].as_array().unwrap();
    assert_eq!(listed.len(), 1, "{problems}");
    assert_eq!(listed[0]["kind"], "notPermitted", "{problems}");
    assert!(listed[0]["next"].as_str().unwrap().contains("ask the owner"), "{problems}");
    assert_eq!(problems["folders"][0]["problems"]["counts"]["notPermitted"], 1, "{problems}");
    assert_eq!(scene.read("d/f"), "bob's");
}

#[test]
fn an_up_that_ends_while_it_asks_for_changes_was_in_step() {
    let mut scene = Scene::offline();
    // The one stream of the user is taken, so that `up` polls.
    scene.start_server_with("127.0.0.1:0", &[("VFS_SYNC_MAX_USER_EVENT_STREAMS", "1")]);
    scene.replica("watching");
    let mut watch = scene.command();
    watch.args(["--replica", "watching", "--json", "sync", "--watch", "--interval", "86400"]);
    let mut watch = watch.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"live\"")));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = scene.url().strip_prefix("http://").unwrap().parse().unwrap();
    let proxy = runtime.block_on(Proxy::to(address));
    scene.on("a", &["init", "--server", &proxy.url(), "--token-file", "token"]).expect(0);
    let up = Up::start(&scene, "a", &["da", "--interval", "1"]);
    let state = || std::fs::read_to_string(scene.path("a/live.json")).unwrap_or_default();
    wait_until("it is in step", || state().contains("\"inStep\""));
    proxy.hold(Direction::Back);
    wait_until("it asks for changes", || state().contains("syncing"));
    assert_eq!(up.interrupt(), 0);
    watch.kill().unwrap();
    watch.wait().unwrap();
}
