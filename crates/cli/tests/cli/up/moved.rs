//! Directories that the user has moved on the disk.

use super::{Devices, has, wait_until};

#[test]
fn a_moved_directory_keeps_its_record_and_a_copy_is_refused() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for name in ["da/f", "da/deleted", "da/stays", "da/in/g"] {
        scene.write(name, "base");
    }
    devices.settle(&["a", "b"]);
    let id = devices.id("a", "/f");
    let up = devices.up("a");
    let on = |args: &[&str]| scene.on("a", args);
    on(&["folder", "move", "da", "moved"]).expect(1).says("mv 'da' 'moved'");
    on(&["folder", "move", "nothing", "moved"]).expect(1).says("not kept in step");
    // A copy is another directory.
    std::fs::create_dir(scene.path("copy")).unwrap();
    for name in ["f", "deleted", "stays"] {
        std::fs::copy(scene.path(&format!("da/{name}")), scene.path(&format!("copy/{name}")))
            .unwrap();
    }
    on(&["folder", "move", "da", "copy"]).expect(1).says("copied").says("folder add");
    // Another directory that has a record for the same folder is not the one that was moved.
    on(&["export", "exported"]).expect(0);
    on(&["folder", "move", "da", "exported"]).expect(1).says("is not the directory");
    on(&["folder", "move", "da", "a"]).expect(2).says("inside each other");
    std::fs::rename(scene.path("da"), scene.path("moved")).unwrap();
    std::fs::remove_file(scene.path("moved/deleted")).unwrap();
    std::fs::rename(scene.path("moved/f"), scene.path("moved/renamed")).unwrap();
    on(&["folder", "move", "da", "moved"]).expect(0).says("moved");
    // A running `up` goes on there: nothing joins anew, so what is gone is deleted.
    wait_until("it is deleted", || on(&["ls", "/deleted"]).code == 1);
    wait_until("it is renamed", || on(&["ls", "/renamed"]).code == 0);
    assert_eq!(devices.id("a", "/renamed"), id, "the same item");
    scene.write("db/new", "b's");
    devices.once("b").expect(0);
    let new = scene.path("moved/new");
    wait_until("it is received", || has(&new, "b's"));
    drop(up);
    assert!(!scene.path("da").exists());
    // Moved again and back, without an `up` in between.
    std::fs::rename(scene.path("moved"), scene.path("again")).unwrap();
    on(&["folder", "move", "moved", "again"]).expect(0);
    std::fs::rename(scene.path("again"), scene.path("da")).unwrap();
    on(&["folder", "move", "again", "da"]).expect(0);
    devices.settle(&["a", "b"]);
    assert_eq!(devices.files("a"), devices.files("b"));
    let list = on(&["--json", "folder", "list"]).expect(0).json();
    assert_eq!(list["folders"].as_array().unwrap().len(), 1, "{list}");
}
