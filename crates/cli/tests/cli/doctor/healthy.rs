//! A device on which all is well has no problem, in any state of ordinary life.

use super::{check, examine, ids};
use crate::support::Scene;

#[track_caller]
fn is_well(scene: &Scene, replica: &str) {
    let (_, report) = examine(scene, replica);
    assert_eq!(ids(&report, "problem"), [""; 0], "{report:#}");
}

#[test]
fn a_healthy_device_has_no_problem_in_ordinary_life() {
    let mut scene = Scene::with_server();
    scene.replica("one");
    is_well(&scene, "one");
    scene.write("d/a/file", "text");
    scene.on("one", &["import", "d"]).expect(0);
    is_well(&scene, "one");
    scene.on("one", &["sync"]).expect(0);
    is_well(&scene, "one");
    scene.replica("two");
    scene.on("two", &["sync"]).expect(0);
    scene.on("two", &["mkdir", "/by two"]).expect(0);
    scene.on("two", &["sync"]).expect(0);
    let (_, report) = examine(&scene, "one");
    assert_eq!(check(&report, "server.feed")["evidence"]["verdict"], "behind", "{report:#}");
    assert_eq!(check(&report, "server.writeIds")["outcome"], "note");
    is_well(&scene, "one");
    scene.on("one", &["rematerialise"]).expect(0);
    is_well(&scene, "one");
    // Offline for a while, then the server is there again.
    let address = scene.url().trim_start_matches("http://").to_owned();
    scene.terminate_server();
    scene.on("one", &["mkdir", "/made offline"]).expect(0);
    scene.on("one", &["sync"]).expect(4);
    scene.start_server(&address);
    let (_, report) = examine(&scene, "one");
    assert_eq!(check(&report, "sync.failing")["outcome"], "note", "{report:#}");
    is_well(&scene, "one");
    scene.on("one", &["sync"]).expect(0);
    let (ran, report) = examine(&scene, "one");
    assert_eq!(check(&report, "sync.failing")["outcome"], "ok");
    assert_eq!(check(&report, "server.feed")["evidence"]["verdict"], "inStep", "{report:#}");
    assert_eq!(check(&report, "server.live")["outcome"], "ok", "{ran:?}");
}

#[test]
fn a_device_with_shares_and_a_live_folder_has_no_problem() {
    let scene = Scene::with_server();
    scene.replica_of("alice");
    scene.replica_of("bob");
    scene.on("bob", &["sync"]).expect(0);
    scene.write("alice-dir/plans/one", "1");
    scene.on("alice", &["up", "--once", "alice-dir"]).expect(0);
    scene.on("alice", &["share", "/plans", "bob", "write"]).expect(0);
    scene.on("alice", &["sync"]).expect(0);
    scene.on("bob", &["sync"]).expect(0);
    is_well(&scene, "alice");
    is_well(&scene, "bob");
}

#[test]
fn a_running_up_gives_the_replica_to_the_doctor() {
    let scene = Scene::with_server();
    scene.replica("a");
    scene.write("da/file", "text");
    let mut command = scene.command();
    command.args(["--replica", "a", "--json", "up", "da"]);
    let mut up = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufReader::new(up.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(lines).map(Result::unwrap);
    assert!(lines.any(|line| line.contains("inStep")));
    let ran = scene.on("a", &["--json", "doctor"]);
    let report = ran.json();
    assert_eq!(ids(&report, "problem"), [""; 0], "{report:#}");
    assert_eq!(check(&report, "folders.agent")["evidence"]["running"], true);
    assert_eq!(check(&report, "replica.integrity")["outcome"], "ok");
    crate::support::signal(&up, "INT");
    assert_eq!(up.wait().unwrap().code(), Some(0));
}

#[test]
fn a_replica_whose_process_was_killed_is_read_where_it_is() {
    let scene = Scene::offline();
    scene.replica("one");
    scene.on("one", &["mkdir", "/a"]).expect(0);
    // A process that was killed leaves its log behind.
    let database = rusqlite::Connection::open(scene.path("one/replica.db")).unwrap();
    database.pragma_update(None, "journal_mode", "WAL").unwrap();
    let changed = "UPDATE meta SET value = '77' WHERE key = 'items'";
    assert_eq!(database.execute(changed, []).unwrap(), 1);
    scene.write("killed/settings.json", scene.read("one/settings.json"));
    for file in ["replica.db", "replica.db-wal"] {
        std::fs::copy(scene.path(&format!("one/{file}")), scene.path(&format!("killed/{file}")))
            .unwrap();
    }
    drop(database);
    let (_, report) = examine(&scene, "killed");
    assert_eq!(check(&report, "replica.integrity")["outcome"], "ok", "{report:#}");
    assert_eq!(check(&report, "sync.queue")["evidence"]["pending"], 1);
}
