//! Disks that are full, that cannot be read, and that go away: nothing is deleted elsewhere, and
//! nothing unfinished has a file's name.

use std::fs;

use super::super::{has, wait_until};
use super::Odd;
use crate::support::odd_disk::Traits;

/// A disk in step with some files in folders.
fn in_step() -> Option<Odd> {
    let odd = Odd::new(Traits::default())?;
    for name in ["many/a", "many/b", "many/m", "many/z", "other/f", "top"] {
        odd.scene().write(&format!("db/{name}"), name);
    }
    odd.settle();
    odd.is_quiet();
    Some(odd)
}

#[test]
fn a_full_disk_holds_nothing_unfinished_and_goes_on_once_there_is_room() {
    let Some(odd) = in_step() else { return };
    let scene = odd.scene();
    let large = "x".repeat(300_000);
    scene.write("db/large", &large);
    scene.write("db/top", &large);
    fs::remove_file(odd.at("db/other/f")).unwrap();
    odd.devices.once("b").expect(0);
    odd.disk.set(|disk| (disk.room, disk.hides_room) = (Some(100_000), true));
    let all = odd.devices.files("b");
    for _ in 0..2 {
        let ran = odd.devices.once("a");
        assert_ne!(ran.code, 0);
        ran.says("No space left");
        odd.disk.set(|disk| disk.room = Some(0));
        assert!(!odd.at("da/large").exists() && has(&odd.at("da/top"), "top"));
        let listed = fs::read_dir(odd.at("da")).unwrap();
        let names: Vec<_> = listed.map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().contains("tmp")), "{names:?}");
        odd.devices.once("b").expect(0);
        assert_eq!(odd.devices.files("b"), all);
    }
    odd.disk.set(|disk| disk.room = None);
    odd.settle();
    assert_eq!(odd.files(), all);
    odd.is_quiet();
}

#[test]
fn an_almost_full_disk_takes_nothing_new_and_still_sends_renames_and_deletes() {
    let Some(odd) = in_step() else { return };
    let scene = odd.scene();
    scene.write("db/new", "new");
    fs::remove_file(odd.at("db/other/f")).unwrap();
    fs::rename(odd.at("db/many/z"), odd.at("db/renamed")).unwrap();
    odd.devices.once("b").expect(0);
    scene.write("da/saved here", "saved");
    fs::remove_file(odd.at("da/many/a")).unwrap();
    odd.disk.set(|disk| disk.room = Some(10_000_000));
    odd.devices.once("a").expect(5).says("almost full");
    assert!(!odd.at("da/new").exists(), "it waits");
    assert!(!odd.at("da/other/f").exists(), "a deletion goes on");
    assert!(has(&odd.at("da/renamed"), "many/z"), "so does a rename");
    odd.devices.once("b").expect(0);
    assert!(has(&odd.at("db/saved here"), "saved") && !odd.at("db/many/a").exists());
    assert!(has(&odd.at("db/new"), "new"), "what waits elsewhere is not deleted");
    odd.disk.set(|disk| disk.room = None);
    odd.settle();
    assert!(has(&odd.at("da/new"), "new"));
    odd.is_quiet();
}

#[test]
fn a_folder_that_cannot_be_read_to_its_end_has_lost_nothing() {
    let Some(odd) = in_step() else { return };
    let scene = odd.scene();
    for (broken, end) in [("many", 0), ("many", 2)] {
        odd.disk.set(|disk| disk.breaks_off = Some((broken, end)));
        for _ in 0..2 {
            odd.devices.once("a").expect(5).says("many");
            odd.devices.once("b").expect(0);
        }
        assert_eq!(odd.names("b").len(), 6);
    }
    // Changes elsewhere wait, and those of other folders go on.
    scene.write("db/many/z", "edited on b");
    scene.write("db/many/new", "new on b");
    fs::remove_file(odd.at("db/many/b")).unwrap();
    scene.write("da/many/a", "edited on a");
    scene.write("da/other/f", "edited on a");
    odd.devices.once("b").expect(0);
    odd.devices.once("a").expect(5);
    odd.devices.once("b").expect(0);
    assert!(has(&odd.at("db/other/f"), "edited on a"));
    assert!(has(&odd.at("db/many/z"), "edited on b") && has(&odd.at("db/many/m"), "many/m"));
    odd.disk.set(|disk| disk.breaks_off = None);
    odd.devices.settle(&["a", "b"]);
    odd.settle();
    assert_eq!(odd.files(), odd.devices.files("b"));
    assert_eq!(odd.names("a"), ["many/a", "many/m", "many/new", "many/z", "other/f", "top"]);
    assert!(has(&odd.at("db/many/a"), "edited on a") && has(&odd.at("da/many/z"), "edited on b"));
    odd.is_quiet();
}

#[test]
fn a_file_that_cannot_be_read_is_listed_and_stays_elsewhere() {
    let Some(odd) = in_step() else { return };
    let scene = odd.scene();
    scene.write("da/many/m", "edited, on a bad sector");
    scene.write("da/many/n", "new");
    odd.disk.set(|disk| disk.unreadable = Some("m"));
    for _ in 0..2 {
        odd.devices.once("a").expect(5).says("many/m");
        odd.devices.once("b").expect(0);
    }
    assert!(has(&odd.at("db/many/m"), "many/m") && has(&odd.at("db/many/n"), "new"));
    scene.on("a", &["folder", "problems"]).expect(5).says("many/m");
    // Edited elsewhere too: the one that cannot be read is not replaced.
    scene.write("db/many/m", "edited on b");
    odd.devices.once("b").expect(0);
    odd.devices.once("a").expect(5).says("many/m");
    odd.disk.set(|disk| disk.unreadable = None);
    odd.settle();
    odd.settle();
    let texts: Vec<_> = odd.devices.files("b").into_iter().map(|(_, text)| text).collect();
    for text in ["edited, on a bad sector", "edited on b"] {
        assert!(texts.iter().any(|found| found == text), "{texts:?}");
    }
    assert_eq!(odd.files(), odd.devices.files("b"));
    odd.is_quiet();
}

#[test]
fn a_disk_that_goes_away_during_a_scan_has_lost_nothing() {
    let Some(odd) = in_step() else { return };
    odd.scene().write("da/many/a", "edited");
    for at in ["many", "m", "other", "top"] {
        odd.disk.set(|disk| disk.goes_at = Some(at));
        let ran = odd.devices.once("a");
        assert!(odd.disk.is_gone(), "at {at}");
        assert_ne!(ran.code, 0, "{ran:?}");
        odd.devices.once("a");
        odd.devices.once("b").expect(0);
        assert_eq!(odd.names("b").len(), 6, "at {at}");
        odd.disk.set(|disk| (disk.goes_at, disk.gone) = (None, false));
    }
    odd.devices.settle(&["a", "b"]);
    assert!(has(&odd.at("db/many/a"), "edited"));
    odd.is_quiet();
}

#[test]
fn a_disk_that_goes_away_during_an_export_has_lost_nothing() {
    let Some(odd) = in_step() else { return };
    let scene = odd.scene();
    for name in ["many/a", "many/new", "top", "last"] {
        scene.write(&format!("db/{name}"), name.repeat(10_000));
    }
    fs::remove_file(odd.at("db/many/b")).unwrap();
    let all = odd.names("b");
    odd.devices.once("b").expect(0);
    for room in [10_000, 100_000] {
        odd.disk.set(|disk| {
            (disk.room, disk.hides_room, disk.goes_when_full) = (Some(room), true, true);
        });
        let ran = odd.devices.once("a");
        assert!(odd.disk.is_gone());
        assert_ne!(ran.code, 0, "{ran:?}");
        odd.devices.once("b").expect(0);
        assert_eq!(odd.names("b"), all);
        odd.disk.set(|disk| (disk.room, disk.gone) = (None, false));
    }
    odd.settle();
    assert_eq!(odd.files(), odd.devices.files("b"));
    odd.is_quiet();
}

#[test]
fn a_running_up_goes_on_once_its_disk_is_back() {
    let Some(odd) = in_step() else { return };
    let scene = odd.scene();
    let up = odd.devices.up("a");
    let state = || {
        let list = scene.on("a", &["--json", "folder", "list"]).json();
        list["folders"][0]["state"].as_str().unwrap_or_default().to_owned()
    };
    wait_until("it is in step", || state() == "inStep");
    odd.disk.set(|disk| disk.gone = true);
    scene.write("db/many/new", "new on b");
    odd.devices.once("b").expect(0);
    wait_until("it waits for the disk", || state() == "waiting");
    odd.devices.once("b").expect(0);
    assert_eq!(odd.names("b").len(), 7);
    odd.disk.set(|disk| disk.gone = false);
    wait_until("it is back", || has(&odd.at("da/many/new"), "new on b") && state() == "inStep");
    assert_eq!(up.interrupt(), 0);
    odd.is_quiet();
}
