//! Disks that are mounted and unmounted, as the directory and inside of it.

use std::fs;

use super::super::{Devices, has, wait_until};
use super::Odd;
use crate::support::odd_disk::{OddDisk, Traits};

#[test]
fn a_disk_that_is_not_mounted_has_lost_nothing_and_goes_on_when_it_is_back() {
    let Some(mut odd) = Odd::new(Traits::default()) else { return };
    for name in ["in/one", "two"] {
        odd.scene().write(&format!("db/{name}"), name);
    }
    odd.settle();
    odd.is_quiet();
    odd.disk.unmount();
    for _ in 0..2 {
        let ran = odd.devices.once("a");
        assert_ne!(ran.code, 0);
        ran.says("mount");
        odd.devices.once("b").expect(0);
    }
    assert_eq!(odd.names("b").len(), 2);
    assert_eq!(
        fs::read_dir(odd.at("da")).unwrap().count(),
        0,
        "nothing is written under the mount"
    );
    odd.scene().write("db/two", "edited meanwhile");
    odd.disk.mount_again();
    odd.settle();
    assert!(has(&odd.at("da/two"), "edited meanwhile"));
    odd.is_quiet();
}

#[test]
fn a_disk_with_new_inodes_is_the_same_after_it_was_mounted_again() {
    let Some(mut odd) = Odd::new(Traits::fat()) else { return };
    for name in ["in/one", "two", "three"] {
        odd.scene().write(&format!("db/{name}"), name);
    }
    odd.settle();
    odd.is_quiet();
    odd.disk.mount_again();
    odd.is_quiet();
    // An edit meanwhile, and a rename, on another computer.
    odd.disk.unmount();
    odd.scene().write("back/two", "edited on another computer");
    fs::rename(odd.at("back/in"), odd.at("back/moved")).unwrap();
    odd.disk.mount_again();
    odd.devices.settle(&["a", "b"]);
    assert_eq!(odd.files(), odd.devices.files("b"));
    assert_eq!(odd.names("b"), ["moved/one", "three", "two"]);
    assert!(has(&odd.at("db/two"), "edited on another computer"));
    odd.is_quiet();
}

#[test]
fn a_disk_that_comes_back_as_another_device_is_left_alone_until_it_is_known_again() {
    let Some(mut odd) = Odd::new(Traits::default()) else { return };
    for name in ["in/one", "two"] {
        odd.scene().write(&format!("db/{name}"), name);
    }
    odd.settle();
    // Without times of birth only the number of its device tells it from another disk.
    odd.disk.mount_as_another_device();
    odd.scene().write("da/two", "edited");
    odd.devices.once("a").expect(5).says("is not the directory that was kept in step");
    odd.devices.once("b").expect(0);
    assert!(has(&odd.at("db/two"), "two") && has(&odd.at("da/two"), "edited"));
    odd.scene().on("a", &["folder", "remove", "da"]).expect(0);
    odd.devices.settle(&["a", "b"]);
    odd.devices.settle(&["a", "b"]);
    assert_eq!(odd.files(), odd.devices.files("b"));
    let texts: Vec<_> = odd.files().into_iter().map(|(_, text)| text).collect();
    assert!(texts.iter().any(|text| text == "edited") && texts.len() == 3, "{texts:?}");
    odd.is_quiet();
}

#[test]
fn a_mount_that_appears_inside_deletes_nothing_elsewhere() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for name in ["in/one", "in/deep/two", "top"] {
        scene.write(&format!("da/{name}"), name);
    }
    devices.settle(&["a", "b"]);
    let (back, at) = (scene.path("back"), scene.path("da/in"));
    scene.write("back/foreign", "of another disk");
    let Some(mut disk) = OddDisk::mount(&back, &at, Traits::default()) else { return };
    scene.write("db/in/one", "edited on b");
    scene.write("db/in/new", "new on b");
    scene.write("da/top", "edited on a");
    devices.once("b").expect(0);
    for _ in 0..2 {
        devices.once("a").expect(5).says("another disk");
        devices.once("b").expect(0);
    }
    let names = |device: &str| -> Vec<String> {
        devices.files(device).into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names("b"), ["in/deep/two", "in/new", "in/one", "top"]);
    assert!(has(&scene.path("db/top"), "edited on a"));
    assert_eq!(fs::read_dir(&back).unwrap().count(), 1, "nothing is written to the other disk");
    disk.detach();
    devices.settle(&["a", "b"]);
    assert_eq!(devices.files("a"), devices.files("b"));
    assert!(has(&scene.path("da/in/one"), "edited on b"));
    // While `up` runs.
    let up = devices.up("a");
    let state = || {
        let list = scene.on("a", &["--json", "folder", "list"]).json();
        list["folders"][0]["state"].as_str().unwrap_or_default().to_owned()
    };
    wait_until("it is in step", || state() == "inStep");
    disk.attach();
    scene.write("da/top", "edited again");
    wait_until("it is noticed", || state() == "waiting");
    devices.once("b").expect(0);
    assert_eq!(names("b").len(), 4);
    disk.detach();
    scene.write("da/top", "and again");
    wait_until("it is in step again", || {
        devices.once("b").expect(0);
        has(&scene.path("db/top"), "and again") && state() == "inStep"
    });
    assert_eq!(up.interrupt(), 0);
    assert_eq!(devices.files("a"), devices.files("b"));
    assert_eq!(names("b").len(), 4);
    // Deleted elsewhere while another disk is in its place.
    disk.attach();
    fs::remove_dir_all(scene.path("db/in")).unwrap();
    devices.settle(&["b"]);
    devices.once("a").expect(5).says("another disk");
    assert_eq!(scene.read("back/foreign"), "of another disk");
    disk.detach();
    devices.settle(&["a", "b"]);
    assert_eq!((names("a").len(), names("b").len()), (1, 1));
    assert!(!scene.path("da/in").exists());
}

#[test]
fn a_mount_that_was_inside_and_is_gone_deletes_nothing_elsewhere() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    fs::create_dir(scene.path("da/in")).unwrap();
    let (back, at) = (scene.path("back"), scene.path("da/in"));
    let Some(mut disk) = OddDisk::mount(&back, &at, Traits::default()) else { return };
    for name in ["in/one", "in/deep/two", "top"] {
        scene.write(&format!("da/{name}"), name);
    }
    devices.settle(&["a", "b"]);
    disk.unmount();
    scene.write("db/in/one", "edited on b");
    fs::remove_file(scene.path("db/in/deep/two")).unwrap();
    scene.write("db/in/deep/three", "new on b");
    devices.once("b").expect(0);
    for _ in 0..2 {
        devices.once("a").expect(5).says("another disk");
        devices.once("b").expect(0);
    }
    assert_eq!(devices.files("b").len(), 3);
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0, "nothing is written under the mount");
    disk.mount_again();
    devices.settle(&["a", "b"]);
    assert_eq!(devices.files("a"), devices.files("b"));
    assert!(has(&scene.path("da/in/one"), "edited on b"));
    assert!(has(&scene.path("da/in/deep/three"), "new on b"));
    // It is the same disk also after its top folder has changed.
    scene.write("da/in/more", "more");
    scene.write("da/in/deep/more", "more");
    devices.settle(&["a", "b"]);
    disk.mount_again();
    devices.settle(&["a", "b"]);
    assert_eq!(devices.files("a"), devices.files("b"));
    assert!(has(&scene.path("db/in/more"), "more") && has(&scene.path("db/in/deep/more"), "more"));
    drop(disk);
}
