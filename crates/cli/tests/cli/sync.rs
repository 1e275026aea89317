//! Replicas and a server, as separate processes.

use crate::support::{Scene, tree_of};

#[test]
fn a_tree_goes_through_the_server_and_comes_out_the_same() {
    let scene = Scene::with_server();
    scene.write("d/a/b/deep.txt", "deep");
    scene.write("d/odd \u{1b}[31m", "odd");
    scene.write("d/large", vec![7; 3_000_000]);
    std::fs::create_dir_all(scene.path("d/empty/inner")).unwrap();
    scene.replica("one");
    scene.replica("two");
    scene.on("one", &["import", "d"]).expect(0);
    scene.on("one", &["sync"]).expect(0);
    scene.on("two", &["sync"]).expect(0);
    scene.on("two", &["export", "out"]).expect(0);
    assert_eq!(tree_of(&scene.path("out")), tree_of(&scene.path("d")));
    let quiet = scene.on("one", &["--json", "sync"]).expect(0).json();
    let quiet_again = scene.on("one", &["--json", "sync"]).expect(0).json();
    assert_eq!((&quiet["applied"], &quiet_again["pulled"]), (&0.into(), &0.into()));
    let status = scene.on("one", &["--json", "status", "--server"]).expect(0).json();
    assert_eq!((&status["pending"], &status["uploads"]), (&0.into(), &0.into()));
    assert_eq!(status["serverState"]["feedHead"], status["cursor"]);
}

#[test]
fn edits_on_both_sides_meet() {
    let scene = Scene::with_server();
    scene.write("d/left/l", "l");
    scene.write("d/right/r", "r");
    scene.write("d/name", "text");
    scene.replica("one");
    scene.replica("two");
    scene.on("one", &["import", "d"]).expect(0);
    scene.on("one", &["sync"]).expect(0);
    scene.on("two", &["sync"]).expect(0);
    scene.on("one", &["mv", "/left", "/right"]).expect(0);
    scene.on("two", &["mv", "/right", "/left"]).expect(0);
    scene.on("one", &["mv", "/name", "/renamed"]).expect(0);
    scene.run_with_input(&["--replica", "two", "put", "-", "/name"], b"rewritten").expect(0);
    for _ in 0..2 {
        scene.on("one", &["sync"]).expect(0);
        scene.on("two", &["sync"]).expect(0);
    }
    scene.on("one", &["sync"]).expect(0);
    scene.on("one", &["export", "out-one"]).expect(0);
    scene.on("two", &["export", "out-two"]).expect(0);
    assert_eq!(tree_of(&scene.path("out-one")), tree_of(&scene.path("out-two")));
    assert_eq!(scene.read("out-one/renamed"), "rewritten");
}

#[test]
fn without_a_server_edits_wait_in_the_queue() {
    let mut scene = Scene::with_server();
    scene.replica("one");
    let address = scene.url().trim_start_matches("http://").to_owned();
    assert_eq!(scene.terminate_server(), 0, "SIGTERM ends it gracefully");
    scene.on("one", &["mkdir", "/made offline"]).expect(0);
    scene.on("one", &["sync"]).expect(4).says("vfs-sync sync");
    scene.on("one", &["queue"]).expect(0).says("made offline");
    scene.start_server(&address);
    scene.on("one", &["sync"]).expect(0);
    scene.on("one", &["queue"]).expect(0).says("the queue is empty");
}

#[test]
fn a_token_that_the_server_does_not_take_is_exit_code_4() {
    let scene = Scene::with_server();
    scene.replica("one");
    scene.on("one", &["mkdir", "/a"]).expect(0);
    let good = scene.read("token");
    scene.write("token", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.bm8");
    scene.on("one", &["sync"]).expect(4).says("VFS_SYNC_TOKEN");
    scene.write("token", "");
    scene.on("one", &["sync"]).expect(4).says("no token in it");
    std::fs::remove_file(scene.path("token")).unwrap();
    scene.on("one", &["sync"]).expect(4).says("cannot read");
    scene.write("token", good);
    scene.on("one", &["sync"]).expect(0);
}

#[test]
fn a_new_epoch_costs_replicas_nothing_that_lack_nothing() {
    let mut scene = Scene::with_server();
    let address = scene.url().trim_start_matches("http://").to_owned();
    scene.replica("one");
    scene.on("one", &["mkdir", "/a"]).expect(0);
    scene.on("one", &["sync"]).expect(0);
    assert_eq!(scene.terminate_server(), 0);
    scene.run(["admin", "new-epoch", "--data", "server"]).expect(0);
    scene.start_server(&address);
    scene.on("one", &["mkdir", "/b"]).expect(0);
    let report = scene.on("one", &["--json", "sync", "--no-rematerialise"]).expect(0).json();
    assert_eq!((&report["rematerialised"], &report["applied"]), (&false.into(), &1.into()));
    let names = scene.on("one", &["ls"]).expect(0).stdout;
    assert_eq!(names, "a/\nb/\n");
    let report = scene.on("one", &["--json", "sync"]).expect(0).json();
    assert_eq!(report["rematerialised"], false);
}

#[test]
fn an_empty_database_beside_what_another_left_is_not_served() {
    let mut scene = Scene::with_server();
    let address = scene.url().trim_start_matches("http://").to_owned();
    scene.replica("one");
    scene.write("f", "content");
    scene.on("one", &["put", "f", "/f"]).expect(0);
    scene.on("one", &["sync"]).expect(0);
    assert_eq!(scene.terminate_server(), 0);
    let database = scene.path("server/metadata.sqlite3");
    std::fs::rename(&database, scene.path("elsewhere")).unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data", "server"];
    let refused = scene.run(serve).expect(1);
    refused.says("is missing").says("contents exist already").says("--new");
    assert!(!database.exists(), "nothing is made in its place");
    scene.run(["migrate", "--data", "server"]).expect(0);
    scene.run(serve).expect(1).says("is empty").says("database-id belongs to another database");

    std::fs::rename(scene.path("elsewhere"), &database).unwrap();
    scene.start_server(&address);
    let report = scene.on("one", &["--json", "sync"]).expect(0).json();
    assert_eq!(report["rematerialised"], false, "it is the one that was there");
}

#[test]
fn watching_tells_what_others_did_and_ends_at_ctrl_c() {
    use std::io::{BufRead as _, BufReader};
    let scene = Scene::with_server();
    scene.replica("one");
    scene.replica("two");
    let mut command = scene.command();
    command.args(["--replica", "two", "--json", "sync", "--watch", "--interval", "1"]);
    let mut watch = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    scene.on("one", &["mkdir", "/seen from afar"]).expect(0);
    scene.on("one", &["sync"]).expect(0);
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut paths = lines.map(|line| {
        let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        event["path"].clone()
    });
    assert!(paths.any(|path| path == "/seen from afar"));
    crate::support::signal(&watch, "INT");
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

#[test]
fn a_refused_upload_is_listed_retried_and_discarded() {
    let scene = Scene::with_server();
    scene.replica("r");
    scene.write("f", "bytes");
    scene.on("r", &["put", "f", "/f"]).expect(0);
    // Bytes that this machine has lost cannot be sent.
    std::fs::rename(scene.path("r/contents"), scene.path("aside")).unwrap();
    scene.on("r", &["sync"]);
    let uploads = || scene.on("r", &["--json", "rejected"]).expect(0).json()["uploads"].clone();
    let refused = uploads();
    let blob = refused[0]["blobId"].as_str().unwrap().to_owned();
    assert_eq!((refused.as_array().unwrap().len(), &refused[0]["size"]), (1, &5.into()));
    scene.on("r", &["rejected"]).expect(0).says(&blob).says("/f");
    scene.on("r", &["rejected", "retry", "no-such-id"]).expect(1);
    std::fs::remove_dir_all(scene.path("r/contents")).unwrap();
    std::fs::rename(scene.path("aside"), scene.path("r/contents")).unwrap();
    let retried = scene.on("r", &["--json", "rejected", "retry", &blob]).expect(0).json();
    assert_eq!(retried["retriedUploads"][0], blob.as_str());
    scene.on("r", &["sync"]).expect(0);
    assert_eq!(uploads().as_array().unwrap().len(), 0);
    scene.replica("other");
    scene.on("other", &["sync"]).expect(0);
    assert_eq!(scene.on("other", &["cat", "/f"]).expect(0).stdout, "bytes");

    scene.write("g", "others");
    scene.on("r", &["put", "g", "/g"]).expect(0);
    std::fs::remove_dir_all(scene.path("r/contents")).unwrap();
    scene.on("r", &["sync"]);
    scene.on("r", &["status"]).expect(5).says("content was rejected");
    scene.on("r", &["rejected", "retry", "--all"]).expect(5).says("0 queued again");
    scene.on("r", &["rejected", "discard", "--all"]).expect(2).says("--yes");
    let discarded =
        scene.on("r", &["--json", "rejected", "discard", "--all", "--yes"]).expect(0).json();
    assert_eq!(discarded["discardedUploads"].as_array().unwrap().len(), 1);
    assert_eq!(uploads().as_array().unwrap().len(), 0);
}

#[test]
fn earlier_contents_of_a_file_are_listed_and_read() {
    let scene = Scene::with_server();
    scene.replica("r");
    for text in ["first", "second, longer", "third"] {
        scene.write("f", text);
        scene.on("r", &["put", "f", "/f"]).expect(0);
        scene.on("r", &["sync"]).expect(0);
    }
    let listed = scene.on("r", &["--json", "versions", "/f"]).expect(0).json();
    let versions = listed["versions"].as_array().unwrap();
    let sizes: Vec<u64> = versions.iter().map(|v| v["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [5, 14, 5], "the newest first: {listed}");
    let times: Vec<&str> = versions.iter().map(|v| v["attachedAt"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    scene.on("r", &["versions", "/f"]).expect(0).says("14 B");
    let get = |version: &str| scene.on("r", &["get", "/f", "-", "--version", version]);
    assert_eq!(get("1").expect(0).stdout, "third");
    assert_eq!(get("2").expect(0).stdout, "second, longer");
    let oldest = versions[2]["blobId"].as_str().unwrap();
    assert_eq!(get(oldest).expect(0).stdout, "first");
    for none in ["0", "4", "-1", "no-such-blob"] {
        let version = format!("--version={none}");
        scene.on("r", &["get", "/f", "-", &version]).expect(1).says("there are 3");
    }
    scene.write("new", "not sent yet");
    scene.on("r", &["put", "new", "/new"]).expect(0);
    scene.on("r", &["versions", "/new"]).expect(1).says("the server has no content of /new");
    // Another replica reads what it never had as its own.
    scene.replica("other");
    scene.on("other", &["sync"]).expect(0);
    scene.on("other", &["get", "/f", "old", "--version", "3"]).expect(0);
    assert_eq!(std::fs::read_to_string(scene.path("old")).unwrap(), "first");
}

#[test]
fn what_somebody_changed_outlives_a_delete_and_is_told() {
    let scene = Scene::with_server();
    scene.write("d/dir/deep/a", "a");
    scene.write("d/dir/deep/b", "b");
    scene.write("d/dir/c", "c");
    scene.replica("one");
    scene.replica("two");
    scene.on("one", &["import", "d"]).expect(0);
    scene.on("one", &["sync"]).expect(0);
    scene.on("two", &["sync"]).expect(0);
    scene.run_with_input(&["--replica", "two", "put", "-", "/dir/deep/a"], b"edited").expect(0);
    scene.on("two", &["mv", "/dir/c", "/moved"]).expect(0);
    scene.on("two", &["sync"]).expect(0);
    scene.on("one", &["rm", "-r", "/dir"]).expect(0);
    let mut synced = scene.on("one", &["sync"]).expect(0);
    for path in ["/dir", "/dir/deep", "/dir/deep/a", "/moved"] {
        synced = synced.says(&format!("kept: {path} was changed elsewhere after you saw it"));
    }
    scene.on("one", &["export", "out"]).expect(0);
    assert_eq!(scene.read("out/dir/deep/a"), "edited");
    assert_eq!(scene.read("out/moved"), "c");
    assert!(!scene.path("out/dir/deep/b").exists());

    scene.run_with_input(&["--replica", "two", "put", "-", "/dir/deep/a"], b"again").expect(0);
    scene.on("two", &["sync"]).expect(0);
    scene.on("one", &["rm", "-r", "/dir"]).expect(0);
    let document = scene.on("one", &["--json", "sync"]).expect(0).json();
    let kept = document["kept"].as_array().unwrap();
    assert!(kept.contains(&"/dir/deep/a".into()), "{document}");

    scene.run_with_input(&["--replica", "two", "put", "-", "/dir/deep/a"], b"once more").expect(0);
    scene.on("two", &["sync"]).expect(0);
    scene.on("one", &["rm", "-r", "--force", "/dir"]).expect(0);
    let document = scene.on("one", &["--json", "sync"]).expect(0).json();
    assert_eq!(document["kept"], serde_json::json!([]));
    scene.on("two", &["sync"]).expect(0);
    scene.on("two", &["ls", "/dir"]).expect(1);
}
