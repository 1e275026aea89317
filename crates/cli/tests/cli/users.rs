//! Users who are exported and deleted, as operators and those who shared with them see it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::Scene;

/// Waits until the receipt of bob's deletion says something.
fn receipt_until(scene: &Scene, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let shown =
            scene.as_operator(&["--json", "admin", "users", "show", "bob"]).expect(0).json();
        if holds(&shown["deletion"]) {
            return shown["deletion"].clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {shown:#}");
    }
}

/// Alice and Bob, who share folders with each other.
fn neighbours() -> Scene {
    let scene = Scene::with_server();
    for user in ["alice", "bob"] {
        scene.replica_of(user);
    }
    scene.write("theirs/deep/plan.txt", "the plan of bob");
    scene.write("theirs/note", "a note of bob");
    scene.write("mine/paper", "the paper of alice");
    scene.on("bob", &["import", "theirs", "/theirs"]).expect(0);
    scene.on("alice", &["import", "mine", "/mine"]).expect(0);
    scene.on("bob", &["share", "/theirs", "alice", "write"]).expect(0);
    scene.on("alice", &["share", "/mine", "bob", "write"]).expect(0);
    for user in ["alice", "bob", "alice", "bob"] {
        scene.on(user, &["sync"]).expect(0);
    }
    scene.write("by-bob", "bob wrote this for alice");
    scene.on("bob", &["put", "by-bob", "shared:alice/mine/by-bob"]).expect(0);
    scene.on("bob", &["sync"]).expect(0);
    scene.on("alice", &["sync"]).expect(0);
    scene
}

fn contains(directory: &Path, text: &str) -> Vec<std::path::PathBuf> {
    let found = Command::new("grep").args(["-rlaF", text]).arg(directory).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(Into::into).collect()
}

#[test]
fn a_deleted_user_goes_for_good_and_takes_nothing_off_the_disks_of_others() {
    let mut scene = neighbours();
    let up = |scene: &Scene| scene.on("alice", &["up", "--once", "d", "shared:bob/theirs"]);
    up(&scene).expect(0);
    assert_eq!(scene.read("d/deep/plan.txt"), "the plan of bob");
    scene.on("bob", &["mkdir", "/queued"]).expect(0);

    let delete = ["admin", "users", "delete", "bob", "--wait", "0"];
    scene.as_operator(&delete).expect(2).says("--yes").says("export");
    let nobody = ["admin", "users", "delete", "nobody", "--yes"];
    scene.as_operator(&nobody).expect(1).says("no such user");
    scene.as_operator(&["admin", "users", "delete", "bob", "--wait", "soon"]).expect(2);

    // First with time to think again.
    let later = ["admin", "users", "delete", "bob", "--yes"];
    scene.as_operator(&later).expect(0).says("allow");
    scene.on("bob", &["sync"]).expect(4).says("user_disabled");
    scene.as_operator(&["admin", "users", "show", "bob"]).expect(0).says("to be deleted");
    scene.as_operator(&["admin", "users", "enable", "bob"]).expect(1).says("being deleted");
    scene.as_operator(&["admin", "users", "allow", "bob"]).expect(0).says("called off");
    scene.on("bob", &["sync"]).expect(0);
    scene.on("bob", &["mkdir", "/queued too"]).expect(0);

    // The server is killed in the midst, and another one goes on.
    let address = scene.url().trim_start_matches("http://").to_owned();
    scene.as_operator(&[&delete[..], &["--yes"]].concat()).expect(0);
    scene.stop_server();
    scene.start_server(&address);
    let receipt = receipt_until(&scene, "the first round", |deletion| {
        deletion["removed"]["rows"].as_u64() > Some(0)
    });
    // Three of the tree, the file that bob's device made, and the folder that was queued first.
    assert_eq!(receipt["removed"]["items"], 5, "{receipt:#}");
    assert_eq!(receipt["removed"]["contents"], 2);
    assert!(receipt["outOfReach"]["backups"].is_string());
    scene.as_operator(&["admin", "users", "show", "bob"]).expect(0).says("out of reach: backups");

    // Bob's device stops, and keeps everything.
    for _ in 0..2 {
        scene.on("bob", &["sync"]).expect(4).says("user_deleted").says("its queue");
    }
    assert_eq!(scene.on("bob", &["cat", "/theirs/note"]).expect(0).stdout, "a note of bob");
    let status = scene.on("bob", &["--json", "status"]).json();
    assert_eq!(
        (&status["pending"], &status["stopped"]["signature"]),
        (&1.into(), &"user_deleted".into())
    );
    scene.run(["explain", "user_deleted"]).expect(0).says("admin users allow");

    // Alice's folder is not emptied, and says why it is not in step any more.
    let ended = up(&scene).expect(5);
    ended.says("no longer shared with you: 4 items").says("nothing in");
    assert_eq!(scene.read("d/note"), "a note of bob");
    assert_eq!(scene.read("d/deep/plan.txt"), "the plan of bob");
    scene.on("alice", &["folder", "problems"]).says("no longer shared");
    assert_eq!(scene.on("alice", &["ls", "shared:"]).stdout, "");
    let mine = scene.on("alice", &["cat", "/mine/by-bob"]).expect(0);
    assert_eq!(mine.stdout, "bob wrote this for alice", "what is alice's stays");

    // No byte is left of bob's contents, and no name in a row of alice's files.
    let left = contains(&scene.path("server/blobs"), "of bob");
    assert!(left.is_empty(), "{left:?}");
    receipt_until(&scene, "the end", |deletion| deletion["state"] == "done");
    scene.on("bob", &["sync"]).expect(4).says("user_deleted");
    scene.as_operator(&["admin", "users", "list"]).expect(0);
    scene.as_operator(&["admin", "users", "allow", "bob"]).expect(0).says("may sign in again");
    scene.as_operator(&["admin", "users", "allow", "bob"]).expect(0).says("was not deleted");
    scene.replica_of_as("bob", "fresh");
    scene.on("fresh", &["sync"]).expect(0);
    assert_eq!(scene.on("fresh", &["ls", "/"]).expect(0).stdout, "");
}

#[test]
fn a_users_archive_has_files_by_name_and_is_whole_or_not_there() {
    let scene = neighbours();
    let script = scene.write("theirs/run me.sh", "#!/bin/sh");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("note", scene.path("theirs/link")).unwrap();
    let long = "n".repeat(180);
    scene.write(&format!("theirs/{long}/{long}"), "deep down");
    scene.on("bob", &["import", "theirs", "/theirs"]).expect(0);
    scene.on("bob", &["sync"]).expect(0);
    let export =
        |to: &str| scene.run(["--json", "admin", "users", "export", "bob", to, "--data", "server"]);
    let done = export("bob.tar").expect(0).json();
    assert_eq!((&done["contents"], &done["problems"]), (&4.into(), &serde_json::json!([])));
    export("bob.tar").expect(1).says("exists already");
    export("nowhere/bob.tar").expect(1);
    let nobody = ["admin", "users", "export", "nobody", "x.tar", "--data", "server"];
    scene.run(nobody).expect(1).says("no user");
    assert!(!scene.path("x.tar").exists());

    std::fs::create_dir(scene.path("out")).unwrap();
    let mut unpack = Command::new("tar");
    unpack.args(["-xf", "bob.tar", "-C", "out"]).current_dir(scene.dir.path());
    assert!(unpack.status().unwrap().success());
    // The same files as an export of bob's own device.
    scene.on("bob", &["export", "own", "/theirs"]).expect(0);
    assert_eq!(
        crate::support::tree_of(&scene.path("out/tree/theirs"))
            .iter()
            .map(|(path, what)| (path.clone(), without_millis(what)))
            .collect::<Vec<_>>(),
        crate::support::tree_of(&scene.path("own"))
            .iter()
            .map(|(path, what)| (path.clone(), without_millis(what)))
            .collect::<Vec<_>>()
    );
    let lines = |name: &str| -> Vec<Value> {
        scene.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let items = lines("out/items.json");
    let plan = items.iter().find(|item| item["name"] == "plan.txt").unwrap();
    assert_eq!(plan["path"], "tree/theirs/deep/plan.txt");
    assert!(items.iter().all(|item| item["name"] != "paper"), "alice's are alice's");
    assert_eq!(lines("out/grants.json")[0]["principalId"], "alice");
    assert_eq!(lines("out/manifest.json")[0]["contents"], 4);
    assert!(scene.path("out/devices.json").exists());

    // A content that is damaged is named, and the others are there.
    let object = contains(&scene.path("server/blobs"), "the plan of bob").pop().unwrap();
    std::fs::set_permissions(&object, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&object, "the plan of rob").unwrap();
    let damaged = export("damaged.tar").expect(5);
    assert!(damaged.stdout.contains("tree/theirs/deep/plan.txt"), "{damaged:?}");
    std::fs::remove_file(&object).unwrap();
    export("missing.tar").expect(5).says("plan.txt");
}

/// Leaves out the parts of a second, which an archive does not have.
fn without_millis(what: &str) -> String {
    match what.split(' ').collect::<Vec<_>>().as_slice() {
        ["file", mode, millis, rest @ ..] => {
            let seconds = millis.parse::<i64>().unwrap() / 1_000;
            format!("file {mode} {seconds} {}", rest.join(" "))
        }
        _ => what.to_owned(),
    }
}

#[test]
fn an_interrupted_export_leaves_no_file() {
    let scene = neighbours();
    let mut command = scene.command();
    command.args(["admin", "users", "export", "bob", "bob.tar", "--data", "server"]);
    // A pipe instead of an object: the export waits for its bytes.
    let object = contains(&scene.path("server/blobs"), "the plan of bob").pop().unwrap();
    std::fs::remove_file(&object).unwrap();
    let made = Command::new("mkfifo").arg(&object).status().unwrap();
    assert!(made.success());
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = || {
        let entries = std::fs::read_dir(scene.dir.path()).unwrap();
        entries
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_string_lossy().starts_with(".vfs-sync-export-"))
    };
    let started = Instant::now();
    while !begun() {
        assert!(started.elapsed() < Duration::from_secs(20));
        assert!(child.try_wait().unwrap().is_none());
    }
    crate::support::signal(&child, "INT");
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.by_ref().map_while(Result::ok).any(|line| line.contains("stopping")));
    // Whatever waits for the pipe goes on.
    let held = std::fs::OpenOptions::new().read(true).write(true).open(&object).unwrap();
    let status = child.wait().unwrap();
    drop(held);
    assert_eq!(status.code(), Some(130));
    assert!(!scene.path("bob.tar").exists() && !begun(), "nothing is left");
}
