//! A replica belongs to its user: with a token of somebody else every command that talks to the server
//! ends with 4, names both users, and changes nothing here or there.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::support::{Ran, Scene};

/// Runs a command on `replica` with a token of `user`.
fn with_token_of(scene: &Scene, user: &str, replica: &str, args: &[&str]) -> Ran {
    let token = scene.token(user);
    let output = scene
        .command()
        .env("VFS_SYNC_TOKEN", token)
        .args(["--replica", replica])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    output.into()
}

#[test]
fn a_token_file_is_not_overruled_without_a_word() {
    let scene = Scene::with_server();
    let token = scene.token("bob");
    scene.write("bob.token", &token);
    let url = scene.url().to_owned();
    let init = |variable: &str, replica: &str| -> Ran {
        let args = ["--replica", replica, "init", "--server", &url, "--token-file", "bob.token"];
        scene.command().env("VFS_SYNC_TOKEN", variable).args(args).output().unwrap().into()
    };
    init(&scene.token("alice"), "r").expect(2).says("another token").says("unset VFS_SYNC_TOKEN");
    std::fs::remove_file(scene.path("bob.token")).unwrap();
    init(&scene.token("alice"), "r").expect(1).says("cannot read").says("bob.token");
    assert!(!scene.path("r").exists());
    scene.write("bob.token", &token);
    // An empty variable counts as none everywhere.
    init("", "r").expect(0);
    init(&format!("{token}\n"), "same").expect(0);
    let status = scene.on("r", &["--json", "status"]).expect(0).json();
    assert_eq!(status["user"], "bob");
}

#[test]
fn a_token_of_another_user_is_refused_by_every_command_that_talks_to_the_server() {
    let scene = Scene::with_server();
    scene.replica_of("carol");
    scene.replica_of("dave");
    let second = ["--replica", "second", "init", "--server", scene.url()];
    scene.run(second.iter().chain(&["--token-file", "carol.token"])).expect(0);
    scene.write("public", "public");
    scene.on("second", &["put", "public", "/public"]).expect(0);
    scene.on("second", &["sync"]).expect(0);
    scene.on("carol", &["sync"]).expect(0);
    for queued in [false, true] {
        if queued {
            scene.write("diary", "secret");
            scene.on("carol", &["put", "diary", "/diary"]).expect(0);
        }
        let before = scene.on("carol", &["state", "export"]).expect(0).stdout;
        for args in [
            &["sync"][..],
            &["sync", "--watch"],
            &["status", "--server"],
            &["cat", "/public"],
            &["get", "/public", "got"],
            &["export", "out"],
            &["versions", "/public"],
            &["rematerialise"],
        ] {
            let ran = with_token_of(&scene, "dave", "carol", args).expect(4);
            assert!(
                ran.stderr.contains("carol") && ran.stderr.contains("dave"),
                "{args:?} {ran:?}"
            );
            assert!(!ran.stderr.contains("guardrail"), "{args:?} {ran:?}");
        }
        assert_eq!(scene.on("carol", &["state", "export"]).expect(0).stdout, before);
    }
    let failure = with_token_of(&scene, "dave", "carol", &["--json", "sync"]).expect(4).stderr;
    let failure: serde_json::Value = serde_json::from_str(&failure).unwrap();
    let details = &failure["error"]["details"];
    assert_eq!((&details["expected"], &details["actual"]), (&"carol".into(), &"dave".into()));
    scene.on("dave", &["sync"]).expect(0);
    assert_eq!(scene.on("dave", &["ls"]).expect(0).stdout, "");
    scene.on("carol", &["sync"]).expect(0);
    assert_eq!(scene.on("carol", &["cat", "/diary"]).expect(0).stdout, "secret");
}

#[test]
fn a_token_file_that_is_swapped_under_a_watch_ends_it() {
    let scene = Scene::with_server();
    scene.replica_of("carol");
    let mut command = scene.command();
    command.args(["--replica", "carol", "--json", "sync", "--watch", "--interval", "1"]);
    let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::fs::write(scene.path("carol.token"), scene.token("dave")).unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let lines: Vec<String> = lines.map(Result::unwrap).collect();
    let stopped = lines.iter().find(|line| line.contains("stopped")).unwrap();
    assert!(stopped.contains("wrong_user"), "{lines:?}");
    assert_eq!(watch.wait().unwrap().code(), Some(4));
    std::fs::write(scene.path("carol.token"), scene.token("carol")).unwrap();
    scene.on("carol", &["sync"]).expect(0);
}

#[test]
fn a_malformed_reconcile_state_is_found_and_repaired() {
    let mut scene = Scene::with_server();
    scene.replica("one");
    scene.write("f", "f");
    scene.on("one", &["put", "f", "/f"]).expect(0);
    scene.on("one", &["sync"]).expect(0);
    let address = scene.url().trim_start_matches("http://").to_owned();
    scene.terminate_server();
    let database = rusqlite::Connection::open(scene.path("server/metadata.sqlite3")).unwrap();
    assert_eq!(database.execute("UPDATE reconcile_state SET write_ids = '[]'", []).unwrap(), 1);
    drop(database);
    scene.start_server(&address);
    scene.write("g", "g");
    scene.on("one", &["put", "g", "/g"]).expect(0);
    let told = scene.on("one", &["sync"]).expect(5);
    told.says("malformed_row").says("vfs-sync admin repair reconcile-state");
    let repair = ["admin", "repair", "reconcile-state", "--data", "server"];
    let look = scene.run(repair.iter().chain(&["--dry-run"])).expect(5);
    look.says("of alice").says("crdt:").says("write_ids is not an object");
    scene.run(repair).expect(0).says("removed: 1");
    scene.run(repair).expect(0).says("removed: 0");
    scene.on("one", &["sync"]).expect(0);
}

#[test]
fn a_watch_pauses_while_its_token_has_run_out_and_goes_on_with_a_new_one() {
    let scene = Scene::with_server();
    scene.replica_of("carol");
    std::fs::write(scene.path("carol.token"), "e30.e30.ran-out").unwrap();
    let mut command = scene.command();
    command.args(["--replica", "carol", "--json", "sync", "--watch", "--interval", "1"]);
    let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let paused = lines.next().unwrap();
    assert!(paused.contains(r#""event":"paused""#) && paused.contains("unauthorized"), "{paused}");
    std::fs::write(scene.path("carol.token"), scene.token("carol")).unwrap();
    let resumed = lines.next().unwrap();
    assert!(resumed.contains(r#""event":"resumed""#), "{resumed}");
    crate::support::signal(&watch, "INT");
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

#[test]
fn sync_and_status_end_with_5_while_something_waits() {
    let mut scene = Scene::with_server();
    scene.replica("one");
    scene.on("one", &["status"]).expect(0);
    scene.write("f", "f");
    scene.on("one", &["put", "f", "/f"]).expect(0);
    scene.on("one", &["status"]).expect(5).says("1 content waits to be uploaded").says("sync");
    let status = scene.on("one", &["--json", "status"]).expect(5).json();
    assert_eq!(status["outstanding"]["pending"], 1, "{status}");
    scene.on("one", &["sync"]).expect(0);
    scene.on("one", &["status"]).expect(0);

    // The user may have no more bytes.
    let address = scene.url().trim_start_matches("http://").to_owned();
    scene.terminate_server();
    let quota = [("VFS_SYNC_MAX_STORED_BYTES", "10")];
    scene.start_server_with(&address, &quota);
    scene.write("large", vec![7; 100]);
    scene.on("one", &["put", "large", "/large"]).expect(0);
    scene.on("one", &["sync"]).expect(5).says("waiting: /large").says("quota_exceeded");
    let told = scene.on("one", &["--json", "sync"]).expect(5).json();
    assert_eq!(told["outstanding"]["waiting"][0]["path"], "/large", "{told}");
    assert_eq!((&told["waiting"], &told["outstanding"]["rejected"]), (&1.into(), &0.into()));
    scene.on("one", &["status"]).expect(5).says("quota_exceeded");
    scene.terminate_server();
    scene.start_server(&address);
    scene.on("one", &["sync"]).expect(0);
    scene.on("one", &["status"]).expect(0);
}
