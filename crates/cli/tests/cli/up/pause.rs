//! Paused directories: nothing happens in them until they are resumed, and then nothing is lost.

use super::{Devices, has, wait_until};

#[test]
fn a_paused_directory_is_left_alone_and_joins_when_it_is_resumed() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for name in ["both", "gone", "1", "2"] {
        scene.write(&format!("da/{name}"), "base");
    }
    devices.settle(&["a", "b"]);
    let up = devices.up("a");
    scene.on("a", &["folder", "add", "more", "/more"]).expect(0);
    scene.on("a", &["folder", "pause", "da"]).expect(0).says("paused");
    scene.write("da/new", "by a");
    scene.write("da/both", "a's");
    std::fs::remove_file(scene.path("da/gone")).unwrap();
    scene.write("db/from b", "by b");
    scene.write("db/both", "b's, longer");
    devices.once("b").expect(0);
    // The other directory goes on: when its file was taken, the paused one was passed over, too.
    scene.write("more/x", "x");
    wait_until("the other one is sent", || scene.on("a", &["cat", "/more/x"]).stdout == "x");
    let from_b = scene.path("more/from b");
    scene.write("db/more/from b", "y");
    devices.once("b").expect(0);
    wait_until("and received", || has(&from_b, "y"));
    scene.on("a", &["ls", "/new"]).expect(1);
    assert!(!scene.path("da/from b").exists());
    let list = scene.on("a", &["--json", "folder", "list"]).expect(0).json();
    assert_eq!(list["folders"][0]["state"], "paused", "{list}");
    scene.on("a", &["status"]).expect(5).says("is paused");
    scene.on("a", &["folder", "problems", "da"]).expect(0);
    assert_eq!(up.interrupt(), 5, "a paused directory is not in step");
    devices.once("a").expect(5).says("is paused");
    scene.on("a", &["ls", "/new"]).expect(1);
    // A running `up` takes it up at once.
    let up = devices.up("a");
    wait_until("it runs", || {
        scene.on("a", &["--json", "folder", "list"]).json()["running"] == true
    });
    scene.on("a", &["folder", "resume"]).expect(0).says("resumed");
    let received = scene.path("da/from b");
    wait_until("it is received", || has(&received, "by b"));
    wait_until("and sent", || scene.on("a", &["cat", "/new"]).stdout == "by a");
    wait_until("and deleted", || scene.on("a", &["ls", "/gone"]).code == 1);
    drop(up);
    devices.settle(&["a", "b"]);
    let files = devices.files("a");
    assert_eq!(files, devices.files("b"));
    assert!(!files.iter().any(|(name, _)| name == "gone"), "{files:?}");
    let texts: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
    assert!(texts.contains(&"a's") && texts.contains(&"b's, longer"), "{files:?}");
    scene.on("a", &["status"]).expect(0);
}

#[test]
fn only_directories_that_are_kept_in_step_are_paused() {
    let devices = Devices::new(&["a"]);
    devices.scene.on("a", &["folder", "pause"]).expect(1).says("no directory");
    devices.once("a").expect(0);
    devices.scene.on("a", &["folder", "pause", "other"]).expect(1).says("not kept in step");
    // A directory that is not there can be paused, too.
    std::fs::remove_dir_all(devices.scene.path("da")).unwrap();
    let paused = devices.scene.on("a", &["--json", "folder", "pause", "da"]).expect(0).json();
    assert_eq!(paused["paused"], true, "{paused}");
    devices.scene.on("a", &["up", "--once"]).expect(5).says("is paused");
    devices.scene.on("a", &["folder", "resume", "da"]).expect(0);
    devices.scene.on("a", &["up", "--once"]).expect(5).says("cannot read");
}
