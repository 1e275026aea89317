//! Directories that are copies, or were brought back to an earlier state: nothing that they lack
//! counts as deleted, and nothing that they have is lost.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Devices, has, wait_until};

/// Copies a directory with everything in it, times and all.
fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// Brings a directory back to an earlier copy of it, as a restored backup does: the directory itself
/// stays the same.
fn bring_back(directory: &Path, backup: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    copy(&backup.join("."), directory);
}

#[test]
fn a_directory_that_was_brought_back_overwrites_and_deletes_nothing() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    scene.write("da/edited", "before");
    scene.write("da/same", "same");
    scene.write("da/deleted later", "deleted later");
    devices.settle(&["a", "b"]);
    copy(&scene.path("da"), &scene.path("backup"));
    scene.write("da/edited", "after");
    scene.write("da/new", "new");
    fs::remove_file(scene.path("da/deleted later")).unwrap();
    devices.settle(&["a", "b"]);
    bring_back(&scene.path("da"), &scene.path("backup"));
    devices.once("a").expect(0).says("brought back");
    devices.settle(&["b", "a"]);
    let files = devices.files("b");
    assert_eq!(files, devices.files("a"));
    let text = |name: &str| files.iter().find(|(path, _)| path == name).map(|(_, text)| &**text);
    assert_eq!(text("edited"), Some("after"), "what was saved last has the name");
    assert_eq!(text("new"), Some("new"), "its absence is no deletion");
    assert_eq!(text("same"), Some("same"));
    assert_eq!(text("deleted later"), Some("deleted later"), "it is there again");
    let kept = files.iter().find(|(path, _)| path.starts_with("edited (conflict"));
    assert_eq!(kept.map(|(_, text)| &**text), Some("before"), "{files:?}");
    assert_eq!(files.len(), 5, "{files:?}");
    // From then on it is in step as any other.
    fs::remove_file(scene.path("da/same")).unwrap();
    devices.settle(&["a", "b"]);
    assert!(!scene.path("db/same").exists());
}

#[test]
fn a_replica_that_was_brought_back_deletes_nothing_in_the_directory() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    scene.write("da/first", "first");
    devices.settle(&["a", "b"]);
    copy(&scene.path("a"), &scene.path("backup"));
    scene.write("da/second", "second");
    scene.write("da/first", "edited");
    devices.settle(&["a", "b"]);
    fs::remove_dir_all(scene.path("a")).unwrap();
    fs::rename(scene.path("backup"), scene.path("a")).unwrap();
    devices.once("a").says("earlier state");
    devices.settle(&["a", "b"]);
    for (name, text) in [("second", "second"), ("first", "edited")] {
        assert!(has(&scene.path("da").join(name), text), "{name}");
        assert!(has(&scene.path("db").join(name), text), "{name}");
    }
}

#[test]
fn a_directory_that_lost_its_marker_with_most_of_its_entries_deletes_nothing() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for name in ["one", "two", "three"] {
        scene.write(&format!("da/{name}"), name);
    }
    devices.settle(&["a", "b"]);
    copy(&scene.path("da"), &scene.path("backup"));
    // The marker alone is made again.
    fs::remove_dir_all(scene.path("da/.vfs-sync")).unwrap();
    fs::remove_file(scene.path("da/one")).unwrap();
    devices.settle(&["a", "b"]);
    assert!(!scene.path("db/one").exists(), "a deletion as any other");
    assert!(scene.path("da/.vfs-sync/marker").exists());
    for name in [".vfs-sync", "two", "three"] {
        let path = scene.path("da").join(name);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    for _ in 0..2 {
        devices.once("a").expect(5).says("marker").says("folder remove");
        devices.once("b").expect(0);
        assert_eq!(devices.files("b").len(), 2);
    }
    for name in ["two", "three"] {
        fs::copy(scene.path("backup").join(name), scene.path("da").join(name)).unwrap();
    }
    devices.settle(&["a", "b"]);
    assert_eq!(devices.files("a"), devices.files("b"));
}

#[test]
fn one_up_has_a_directory_and_others_leave_it_alone() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    scene.write("da/f", "f");
    let up = devices.up("a");
    wait_until("it is sent", || devices.state("a")["state"] == "inStep");
    let second = |args: &[&str]| scene.on("b", args);
    // Another replica on the same directory, and in it.
    second(&["up", "--once", "da"]).expect(5).says("another `vfs-sync up`");
    second(&["folder", "remove", "da"]).expect(0);
    fs::create_dir(scene.path("da/in")).unwrap();
    second(&["folder", "add", "da/in"]).expect(1).says("which another replica keeps in step");
    drop(up);
    second(&["up", "--once", "da"]).expect(0);
    second(&["folder", "remove", "da"]).expect(0);
    assert!(!scene.path("da/.vfs-sync/marker").exists());
    second(&["folder", "add", "da/in"]).expect(0);
}

#[test]
fn a_live_directory_inside_of_another_is_left_alone_on_both_sides() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    scene.write("da/in/f", "f");
    scene.write("da/g", "g");
    devices.settle(&["a", "b"]);
    // Somebody ties the folder inside to another replica, which knows nothing of the one around it.
    fs::remove_file(scene.path("da/.vfs-sync/marker")).unwrap();
    scene.replica("c");
    scene.on("c", &["up", "--once", "da/in", "/other"]).expect(0);
    scene.write("da/in/new", "of c");
    scene.write("db/in/f", "of b");
    devices.once("b").expect(0);
    let ran = devices.once("a").expect(5);
    ran.says("kept in step by itself");
    assert!(has(&scene.path("da/in/f"), "f"), "nothing is written into it");
    scene.on("b", &["rm", "-r", "/in"]).expect(0);
    devices.once("b").expect(0);
    devices.once("a").expect(5);
    assert!(has(&scene.path("da/in/f"), "f") && has(&scene.path("da/in/new"), "of c"));
    let listed = scene.on("a", &["folder", "problems"]).expect(5);
    listed.says("ownLiveFolder").says("remove the folder .vfs-sync");
    scene.on("c", &["folder", "remove", "da/in"]).expect(0);
    devices.once("a");
    devices.settle(&["a", "b"]);
    assert_eq!(devices.files("a"), devices.files("b"));
    assert!(has(&scene.path("db/in/new"), "of c"));
}
