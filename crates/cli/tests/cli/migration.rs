//! A server's data and a replica that version 0.1.0 wrote go on working: nothing that they hold is lost, and what was
//! queued arrives.

use std::path::Path;

use crate::support::Scene;

const WRITTEN_BY_0_1_0: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/0.1.0");

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A server over the old data, and the old replica `phone` of alice's, which has work queued.
fn old_world() -> Scene {
    let mut scene = Scene::offline();
    for part in ["server", "phone"] {
        copy_dir(&Path::new(WRITTEN_BY_0_1_0).join(part), &scene.path(part));
    }
    scene.start_server("127.0.0.1:0");
    let token = scene.run(["token", "--user", "alice"]).expect(0).stdout;
    std::fs::write(scene.path("alice.token"), token).unwrap();
    let settings = serde_json::json!({
        "version": 1, "server": scene.url(), "tokenFile": scene.path("alice.token"),
    });
    std::fs::write(scene.path("phone/settings.json"), settings.to_string()).unwrap();
    scene
}

fn new_replica(scene: &Scene, name: &str, user: &str) {
    let token = scene.run(["token", "--user", user]).expect(0).stdout;
    let file = scene.path(&format!("{name}.token"));
    std::fs::write(&file, token).unwrap();
    let file = file.to_str().unwrap();
    scene.on(name, &["init", "--server", scene.url(), "--token-file", file]).expect(0);
    scene.on(name, &["sync"]).expect(0);
}

#[test]
fn a_server_and_a_replica_of_0_1_0_go_on_with_all_that_they_had() {
    let scene = old_world();
    scene.on("phone", &["sync"]).expect(0);
    scene.on("phone", &["status"]).expect(0);
    new_replica(&scene, "laptop", "alice");
    for replica in ["phone", "laptop"] {
        let text = |path: &str| scene.on(replica, &["cat", path]).expect(0).stdout;
        assert_eq!(text("/queued.txt"), "queued\n", "{replica}: queued before, by 0.1.0");
        assert_eq!(text("/offline/notes.txt"), "two\n", "{replica}: moved before, by 0.1.0");
        assert_eq!(text("/plans/first.txt"), "Learn to sail.\n");
        assert_eq!(text("/pictures/p.jpg"), "p\n");
        assert_ne!(scene.on(replica, &["cat", "/plans/boat.txt"]).code, 0, "deleted, by 0.1.0");
        let picture = scene.on(replica, &["--json", "stat", "/pictures/p.jpg"]).expect(0);
        assert!(picture.stdout.contains("2020-01-02T03:04:05.000Z"), "{picture:?}");
    }
    let versions = scene.on("laptop", &["--json", "versions", "/offline/notes.txt"]).expect(0);
    assert_eq!(versions.stdout.matches("\"blobId\"").count(), 2, "{versions:?}");
}

#[test]
fn a_replica_of_0_1_0_that_was_not_there_meanwhile_loses_nothing() {
    let scene = old_world();
    new_replica(&scene, "laptop", "alice");
    scene.run_with_input(&["--replica", "laptop", "put", "-", "/new.txt"], b"new\n").expect(0);
    scene.on("laptop", &["mkdir", "/offline"]).expect(0);
    scene.on("laptop", &["sync"]).expect(0);
    scene.on("phone", &["sync"]).expect(0);
    assert_eq!(scene.on("phone", &["cat", "/new.txt"]).expect(0).stdout, "new\n");
    assert_eq!(scene.on("phone", &["cat", "/queued.txt"]).expect(0).stdout, "queued\n");
    scene.on("laptop", &["sync"]).expect(0);
    assert_eq!(scene.on("laptop", &["cat", "/queued.txt"]).expect(0).stdout, "queued\n");
}
