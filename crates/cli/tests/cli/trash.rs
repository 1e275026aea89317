//! The trash: deleted items are restored, permanently removed ones are gone.

use crate::support::Scene;
use serde_json::Value;

fn sync(scene: &Scene, replicas: &[&str]) {
    for replica in replicas {
        scene.on(replica, &["sync"]).expect(0);
    }
}

fn trash(scene: &Scene, replica: &str) -> Vec<Value> {
    let listed = scene.on(replica, &["--json", "trash"]).expect(0).json();
    listed["items"].as_array().unwrap().clone()
}

/// A replica `one` and a replica `two` with a folder of two files.
fn two_replicas() -> Scene {
    let scene = Scene::with_server();
    scene.write("d/papers/thesis.txt", "thesis");
    scene.write("d/papers/notes.txt", "notes");
    scene.replica("one");
    scene.replica("two");
    scene.on("one", &["import", "d"]).expect(0);
    sync(&scene, &["one", "two"]);
    scene
}

#[test]
fn a_deleted_folder_comes_back_bytes_and_all_on_every_device() {
    let scene = two_replicas();
    let before = scene.on("one", &["--json", "stat", "/papers/thesis.txt"]).expect(0).json();
    scene.on("one", &["rm", "-r", "/papers"]).expect(0);
    sync(&scene, &["one", "two"]);
    assert_eq!(trash(&scene, "two").len(), 3);
    let back = scene.on("two", &["--json", "trash", "restore", "/papers"]).expect(0).json();
    assert_eq!(back["restored"][0]["restored"], 3, "{back}");
    assert_eq!(back["restored"][0]["restoredAt"], "/papers");
    sync(&scene, &["one", "two"]);
    for replica in ["one", "two"] {
        let content = scene.on(replica, &["cat", "/papers/thesis.txt"]).expect(0);
        assert_eq!(content.stdout, "thesis");
        let after = scene.on(replica, &["--json", "stat", "/papers/thesis.txt"]).expect(0).json();
        assert_eq!(after["id"], before["id"]);
        assert!(trash(&scene, replica).is_empty());
    }
}

#[test]
fn a_deletion_that_is_not_synchronised_is_listed_and_restored() {
    let scene = two_replicas();
    scene.on("one", &["rm", "/papers/thesis.txt"]).expect(0);
    let listed = trash(&scene, "one");
    assert_eq!(
        (&listed[0]["path"], &listed[0]["pending"]),
        (&"/papers/thesis.txt".into(), &true.into())
    );
    scene.on("one", &["trash", "restore", "/papers/thesis.txt"]).expect(0);
    assert_eq!(scene.on("one", &["cat", "/papers/thesis.txt"]).expect(0).stdout, "thesis");
    sync(&scene, &["one", "two"]);
    assert_eq!(scene.on("two", &["cat", "/papers/thesis.txt"]).expect(0).stdout, "thesis");
}

#[test]
fn nothing_is_removed_for_good_unless_that_is_said() {
    let scene = two_replicas();
    scene.on("one", &["rm", "/papers/thesis.txt"]).expect(0);
    scene.on("one", &["rm", "/papers/notes.txt"]).expect(0);
    sync(&scene, &["one"]);
    scene.on("one", &["trash", "empty"]).expect(2);
    scene.on("one", &["trash", "empty", "/papers/thesis.txt"]).expect(2);
    assert_eq!(trash(&scene, "one").len(), 2);
    scene.on("one", &["trash", "empty", "/papers/thesis.txt", "--yes"]).expect(0);
    scene.on("one", &["trash", "restore", "/papers/thesis.txt"]).expect(1);
    scene.on("one", &["trash", "empty", "--yes"]).expect(0);
    assert!(trash(&scene, "one").is_empty());
    scene.on("one", &["trash", "restore", "/nowhere"]).expect(1);
}
