//! Excluded folders: not on this device, and in the tree all the same.

use std::fs;

use super::{Devices, has, wait_until};

/// Returns the names of all files under a device's directory, sorted.
fn names(devices: &Devices, device: &str) -> Vec<String> {
    devices.files(device).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn an_excluded_folder_leaves_this_device_only_and_comes_back() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    let on = |args: &[&str]| scene.on("a", args);
    for name in ["big/x", "big/in/y", "big/edited", "more/deep/z", "f"] {
        scene.write(&format!("da/{name}"), name);
    }
    devices.settle(&["a", "b"]);
    on(&["folder", "exclude", "da", "none"]).expect(1).says("not in the tree");
    on(&["folder", "exclude", "da", "f"]).expect(1).says("is no folder");
    on(&["folder", "exclude", "da", "../da"]).expect(1).says("leads out");
    on(&["folder", "exclude", "elsewhere", "big"]).expect(1).says("not kept in step");
    on(&["folder", "include", "da", "big"]).expect(1).says("is not excluded");
    on(&["folder", "exclude", "da", "big"]).expect(0);
    on(&["folder", "exclude", "da", "more/deep"]).expect(0);
    // Saved after it was excluded: it stays, and is listed.
    scene.write("da/big/edited", "only here");
    scene.write("da/big/in/new", "only here");
    devices.once("a").expect(5).says("big/edited").says("big/in/new").says("excluded");
    assert_eq!(names(&devices, "a"), ["big/edited", "big/in/new", "f"]);
    for kept in ["trash", "displaced"] {
        assert!(!scene.path("da/.vfs-sync").join(kept).exists(), "its space is free");
    }
    fs::remove_dir_all(scene.path("da/big")).unwrap();
    devices.settle(&["a", "b"]);
    let all = ["big/edited", "big/in/y", "big/x", "f", "more/deep/z"];
    assert_eq!(names(&devices, "b"), all);
    assert_eq!(names(&devices, "a"), ["f"]);
    assert!(scene.path("da/more").is_dir());
    let list = on(&["--json", "folder", "list"]).expect(0).json();
    let paths: Vec<&str> = list["folders"][0]["excluded"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["path"].as_str().unwrap())
        .collect();
    assert!(paths.len() == 2 && paths.contains(&"/big") && paths.contains(&"/more/deep"));
    on(&["folder", "list"]).expect(0).says("without");
    // What others do in it does not come here, also when they move it.
    scene.write("db/big/new", "by b");
    fs::rename(scene.path("db/big"), scene.path("db/more/big")).unwrap();
    devices.settle(&["b", "a"]);
    assert_eq!(names(&devices, "a"), ["f"]);
    // A deletion of the folder above keeps what is not here.
    fs::remove_dir(scene.path("da/more")).unwrap();
    devices.settle(&["a", "b"]);
    assert!(
        has(&scene.path("db/more/big/new"), "by b")
            && has(&scene.path("db/more/deep/z"), "more/deep/z")
    );
    let up = devices.up("a");
    on(&["folder", "include", "da", "more/big"]).expect(0);
    let back = scene.path("da/more/big/new");
    wait_until("it is back", || has(&back, "by b"));
    drop(up);
    on(&["folder", "include", "da", "more/deep"]).expect(0);
    devices.settle(&["a", "b"]);
    assert_eq!(devices.files("a"), devices.files("b"));
    assert_eq!(names(&devices, "a").len(), 6);
}

#[test]
fn a_directory_in_the_place_of_an_excluded_folder_is_reported_and_joins_when_it_is_included() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for name in ["big/same", "big/other", "f"] {
        scene.write(&format!("da/{name}"), name);
    }
    devices.settle(&["a", "b"]);
    scene.on("a", &["folder", "exclude", "da", "big"]).expect(0);
    devices.settle(&["a", "b"]);
    assert_eq!(names(&devices, "a"), ["f"]);
    scene.write("da/big/same", "big/same");
    scene.write("da/big/other", "mine");
    for _ in 0..2 {
        devices.once("a").expect(5).says("excluded from this device has its name");
        devices.once("b").expect(0);
    }
    assert_eq!(names(&devices, "a"), ["big/other", "big/same", "f"]);
    assert_eq!(scene.read("da/big/other"), "mine");
    assert_eq!(scene.read("db/big/other"), "big/other");
    assert_eq!(names(&devices, "b").len(), 3);
    fs::remove_file(scene.path("da/big/same")).unwrap();
    scene.on("a", &["folder", "include", "da", "big"]).expect(0);
    devices.settle(&["a", "b"]);
    devices.settle(&["a", "b"]);
    let files = devices.files("a");
    assert_eq!(files, devices.files("b"));
    let mut texts: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["big/other", "big/same", "f", "mine"]);
}

#[test]
fn a_folder_that_was_moved_away_here_before_it_was_excluded_is_not_deleted() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for name in ["big/x", "other/y", "f"] {
        scene.write(&format!("da/{name}"), name);
    }
    devices.settle(&["a", "b"]);
    fs::remove_dir_all(scene.path("da/big")).unwrap();
    fs::rename(scene.path("da/other"), scene.path("da/moved")).unwrap();
    scene.on("a", &["folder", "exclude", "da", "big"]).expect(0);
    scene.on("a", &["folder", "exclude", "da", "other"]).expect(0);
    let report = scene.on("a", &["--json", "import", "da", "--delete"]).expect(0).json();
    assert_eq!((&report["deleted"], &report["moved"]), (&0.into(), &1.into()), "{report}");
    devices.settle(&["a", "b"]);
    devices.settle(&["a", "b"]);
    let b = devices.files("b");
    assert!(b.contains(&("big/x".to_owned(), "big/x".to_owned())), "{b:?}");
    assert!(b.iter().any(|(_, text)| text == "other/y"), "{b:?}");
}
