//! Directories on disks of other systems: what such a disk cannot hold is listed, and nothing is
//! lost or changed elsewhere because of it.

mod faults;
mod mounts;
mod power;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{Devices, dir, has};
use crate::support::odd_disk::{OddDisk, Traits};
use crate::support::{Ran, Scene};

/// Devices `a`, whose directory is on an odd disk, and `b`. The disk goes first.
struct Odd {
    disk: OddDisk,
    devices: Devices,
}

impl Odd {
    fn new(traits: Traits) -> Option<Self> {
        let devices = Devices::new(&["a", "b"]);
        let scene = &devices.scene;
        let disk = OddDisk::mount(&scene.path("back"), &scene.path("da"), traits)?;
        Some(Self { disk, devices })
    }

    fn scene(&self) -> &Scene {
        &self.devices.scene
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scene().path(name)
    }

    /// Fails unless both directories are in step: further runs change, queue and send nothing.
    #[track_caller]
    fn is_quiet(&self) {
        for device in ["a", "a", "b"] {
            assert_eq!(changes(&run_json(&self.devices, device).expect(0)), [""; 0]);
        }
    }

    #[track_caller]
    fn settle(&self) {
        self.devices.settle(&["b", "a"]);
    }

    /// The names and texts of the files of `a`, as the disk gives them.
    fn files(&self) -> Vec<(String, String)> {
        self.devices.files("a")
    }

    fn names(&self, device: &str) -> Vec<String> {
        self.devices.files(device).into_iter().map(|(name, _)| name).collect()
    }
}

fn run_json(devices: &Devices, device: &str) -> Ran {
    devices.scene.on(device, &["--json", "up", "--once", &dir(device)])
}

/// Returns what a run of `up` changed.
fn changes(ran: &Ran) -> Vec<&str> {
    let is_change = |line: &&str| {
        ["\"imported\"", "\"exported\"", "\"synced\""].iter().any(|event| line.contains(event))
    };
    ran.stdout.lines().filter(is_change).collect()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn set_time(path: &Path, millis: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(millis);
    fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_disk_that_may_not_tell_of_changes_is_scanned_and_says_so() {
    let Some(odd) = Odd::new(Traits::default()) else { return };
    odd.devices.once("a").expect(0).says("noticed by scanning").says("FUSE");
    let list = odd.scene().on("a", &["folder", "list"]).expect(0);
    list.says("scanned from time to time");
    odd.devices.once("b").expect(0);
    let list = odd.scene().on("b", &["--json", "folder", "list"]).expect(0).json();
    assert_eq!(list["folders"][0]["scans"], serde_json::Value::Null, "{list}");
}

#[test]
fn modes_and_times_that_a_disk_does_not_keep_are_no_changes() {
    let Some(odd) = Odd::new(Traits::fat()) else { return };
    let scene = odd.scene();
    for name in ["private", "in/run.sh", "touched", "both"] {
        set_time(&scene.write(&format!("db/{name}"), name), 1_767_225_601_123);
    }
    let (private, run) = (odd.at("db/private"), odd.at("db/in/run.sh"));
    set_mode(&private, 0o600);
    set_mode(&run, 0o750);
    set_mode(&odd.at("db/in"), 0o700);
    odd.settle();
    odd.is_quiet();
    // Edited where bits and times are lost: the tree's bits stay.
    scene.write("da/in/run.sh", "edited on a");
    scene.write("da/private", "edited on a");
    scene.write("da/new", "new on a");
    set_time(&odd.at("db/touched"), 1_767_225_607_789);
    set_mode(&odd.at("db/touched"), 0o640);
    odd.devices.settle(&["a", "b"]);
    assert!(has(&private, "edited on a") && has(&run, "edited on a"));
    assert_eq!((mode(&private), mode(&run), mode(&odd.at("db/in"))), (0o600, 0o750, 0o700));
    assert_eq!(mode(&odd.at("db/touched")), 0o640);
    assert_eq!(mode(&odd.at("db/new")) & 0o111, 0, "the bits of the disk are no one's");
    odd.is_quiet();
    let time = odd.at("db/touched").metadata().unwrap().modified().unwrap();
    let millis = time.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert_eq!(millis, 1_767_225_607_789, "the tree keeps the whole time");
    // Both sides: one conflicted copy, on both.
    scene.write("da/both", "by a");
    scene.write("db/both", "by b");
    odd.devices.settle(&["a", "b"]);
    odd.devices.once("a").expect(0);
    assert_eq!(odd.files(), odd.devices.files("b"));
    let both = odd.files().into_iter().filter(|(name, _)| name.starts_with("both"));
    let mut texts: Vec<_> = both.map(|(_, text)| text).collect();
    texts.sort();
    assert_eq!(texts, ["by a", "by b"]);
    odd.is_quiet();
}

#[test]
fn a_disk_that_refuses_modes_is_in_step_and_takes_none_back() {
    let Some(odd) = Odd::new(Traits { refuses_chmod: true, ..Traits::default() }) else { return };
    let scene = odd.scene();
    for name in ["private", "in/deep/file"] {
        scene.write(&format!("db/{name}"), name);
    }
    set_mode(&odd.at("db/private"), 0o600);
    set_mode(&odd.at("db/in"), 0o700);
    odd.settle();
    odd.is_quiet();
    // Only bits change, of what is there.
    set_mode(&odd.at("db/private"), 0o640);
    set_mode(&odd.at("db/in"), 0o750);
    set_mode(&odd.at("db/in/deep/file"), 0o400);
    odd.settle();
    odd.is_quiet();
    // Saved by way of a temporary file, whose bits are others.
    scene.write("da/in/deep/file.tmp", "edited");
    fs::rename(odd.at("da/in/deep/file.tmp"), odd.at("da/in/deep/file")).unwrap();
    scene.write("da/private.tmp", "edited");
    fs::rename(odd.at("da/private.tmp"), odd.at("da/private")).unwrap();
    odd.devices.settle(&["a", "b"]);
    assert!(has(&odd.at("db/in/deep/file"), "edited") && has(&odd.at("db/private"), "edited"));
    let modes = ["db/private", "db/in", "db/in/deep/file"].map(|name| mode(&odd.at(name)));
    assert_eq!(modes, [0o640, 0o750, 0o400]);
    odd.is_quiet();
}

#[test]
fn names_that_a_disk_takes_for_one_are_kept_apart() {
    let traits = Traits { case_insensitive: true, decomposing: true, ..Traits::default() };
    let Some(odd) = Odd::new(traits) else { return };
    let scene = odd.scene();
    let names = [
        "readme.md",
        "README.md",
        "Test/f",
        "test/f",
        "test/g",
        "F\u{e4}lder/x",
        "Fa\u{308}lder/x",
    ];
    for name in names {
        scene.write(&format!("db/{name}"), name);
    }
    odd.settle();
    odd.is_quiet();
    let texts = |device: &str| {
        let mut texts: Vec<_> =
            odd.devices.files(device).into_iter().map(|(_, text)| text).collect();
        texts.sort();
        texts
    };
    assert_eq!(texts("a"), texts("b"), "each is on the disk");
    scene.on("a", &["folder", "problems"]).expect(0).says("the disk confuses");
    // Edits of both go to their own items.
    for (name, text) in odd.files() {
        scene.write(&format!("da/{name}"), format!("{text}, edited"));
    }
    odd.devices.settle(&["a", "b"]);
    for name in names {
        assert!(has(&odd.at(&format!("db/{name}")), &format!("{name}, edited")), "{name}");
    }
    odd.is_quiet();
    // Without its twin a name is free again.
    fs::remove_file(odd.at("db/README.md")).unwrap();
    fs::remove_dir_all(odd.at("db/Test")).unwrap();
    odd.settle();
    assert_eq!(texts("a"), texts("b"));
    assert_eq!(texts("b").len(), names.len() - 2);
    odd.is_quiet();
    scene.on("a", &["folder", "problems"]).expect(0);
}

#[test]
fn a_rename_that_changes_only_the_case_arrives_and_stays() {
    let Some(odd) = Odd::new(Traits { case_insensitive: true, ..Traits::default() }) else {
        return;
    };
    let scene = odd.scene();
    for name in ["Photo.JPG", "Folder/in/file", "edited", "mine"] {
        scene.write(&format!("db/{name}"), name);
    }
    odd.settle();
    odd.is_quiet();
    let id = odd.devices.id("a", "/Photo.JPG");
    let rename = |from: &str, to: &str| fs::rename(odd.at(from), odd.at(to)).unwrap();
    rename("db/Photo.JPG", "db/photo.jpg");
    rename("db/Folder", "db/FOLDER");
    rename("db/edited", "db/Edited");
    scene.write("db/Edited", "and edited");
    odd.settle();
    assert_eq!(odd.files(), odd.devices.files("b"));
    assert_eq!(odd.names("a"), ["Edited", "FOLDER/in/file", "mine", "photo.jpg"]);
    assert_eq!(odd.devices.id("b", "/photo.jpg"), id);
    odd.is_quiet();
    // And from the disk, as its own system renames.
    rename("da/mine", "da/between");
    rename("da/between", "da/Mine");
    rename("da/photo.jpg", "da/between");
    rename("da/between", "da/Photo.jpg");
    odd.devices.settle(&["a", "b"]);
    assert_eq!(odd.names("b"), ["Edited", "FOLDER/in/file", "Mine", "Photo.jpg"]);
    assert_eq!(odd.devices.id("b", "/Photo.jpg"), id);
    odd.is_quiet();
}

#[test]
fn a_twin_of_a_name_that_is_there_loses_neither() {
    let Some(odd) = Odd::new(Traits { case_insensitive: true, ..Traits::default() }) else {
        return;
    };
    let scene = odd.scene();
    for name in ["readme", "folder/in", "new at once"] {
        scene.write(&format!("db/{name}"), name);
    }
    fs::remove_file(odd.at("db/new at once")).unwrap();
    odd.settle();
    // The twins come later, and one pair at the same time on both sides.
    for name in ["README", "FOLDER/in", "FOLDER/other", "NEW"] {
        scene.write(&format!("db/{name}"), name);
    }
    scene.write("da/new", "new");
    odd.devices.settle(&["a", "b"]);
    odd.devices.once("a").expect(0);
    let texts = |device: &str| {
        let mut texts: Vec<_> =
            odd.devices.files(device).into_iter().map(|(_, text)| text).collect();
        texts.sort();
        texts
    };
    let all = ["FOLDER/in", "FOLDER/other", "NEW", "README", "folder/in", "new", "readme"];
    assert_eq!(texts("a"), all);
    assert_eq!(texts("b"), all);
    for name in all {
        assert!(has(&odd.at(&format!("db/{name}")), name), "{name}");
    }
    odd.is_quiet();
    // A save by way of a temporary file, which the disk gives the letters of the old name.
    scene.write("da/plain", "plain");
    odd.devices.settle(&["a", "b"]);
    scene.write("da/saved.tmp", "saved");
    fs::rename(odd.at("da/saved.tmp"), odd.at("da/PLAIN")).unwrap();
    odd.devices.settle(&["a", "b"]);
    assert!(has(&odd.at("db/plain"), "saved") && !odd.at("db/PLAIN").exists());
    odd.is_quiet();
}

#[test]
fn names_that_come_back_decomposed_are_no_changes() {
    let Some(odd) = Odd::new(Traits { decomposing: true, ..Traits::default() }) else { return };
    let scene = odd.scene();
    let name = "db/B\u{e4}ume/\u{e9}t\u{e9}.txt";
    scene.write(name, "one");
    odd.settle();
    odd.is_quiet();
    scene.write("da/B\u{e4}ume/\u{e9}t\u{e9}.txt", "edited on a");
    odd.devices.settle(&["a", "b"]);
    assert!(has(&odd.at(name), "edited on a"));
    odd.is_quiet();
    scene.write(name, "edited on b");
    scene.write("da/B\u{e4}ume/n\u{e9}w", "new on a");
    odd.devices.settle(&["a", "b"]);
    odd.devices.once("a").expect(0);
    assert_eq!(odd.devices.files("b").len(), 2, "{:?}", odd.devices.files("b"));
    assert!(has(&odd.at("da/B\u{e4}ume/\u{e9}t\u{e9}.txt"), "edited on b"));
    odd.is_quiet();
    fs::remove_dir_all(odd.at("db/B\u{e4}ume")).unwrap();
    scene.write("db/other", "keeps it from being all");
    odd.devices.settle(&["a", "b"]);
    odd.devices.once("a").expect(0);
    assert_eq!(odd.names("a"), ["other"]);
    odd.is_quiet();
}

#[test]
fn names_that_a_disk_refuses_or_changes_stay_elsewhere_and_are_listed() {
    let Some(odd) = Odd::new(Traits::fat()) else { return };
    let scene = odd.scene();
    for name in ["a:b", "q?", "dot.", "dots../in", "plain", "plain."] {
        scene.write(&format!("db/{name}"), name);
    }
    std::os::unix::fs::symlink("plain", odd.at("db/link")).unwrap();
    let all = odd.names("b");
    odd.devices.once("b").expect(0);
    for _ in 0..3 {
        odd.devices.once("a").expect(5);
        odd.devices.once("b").expect(0);
    }
    assert_eq!(odd.names("b"), all);
    assert!(odd.at("db/link").is_symlink());
    let problems = scene.on("a", &["folder", "problems"]).expect(5);
    let problems = ["a:b", "q?", "dot.", "dots..", "plain.", "link"]
        .iter()
        .fold(problems, |problems, name| problems.says(name));
    problems.says("the disk has no symbolic links");
    assert_eq!(odd.names("a"), ["plain"]);
    // What is there goes on, by a save through a temporary file too.
    scene.write("da/plain.tmp", "saved");
    fs::rename(odd.at("da/plain.tmp"), odd.at("da/plain")).unwrap();
    scene.write("db/dot.", "edited elsewhere");
    scene.write("da/new", "new");
    odd.devices.once("a").expect(5);
    odd.devices.once("b").expect(0);
    assert!(has(&odd.at("db/plain"), "saved") && has(&odd.at("db/new"), "new"));
    assert!(has(&odd.at("db/dot."), "edited elsewhere") && has(&odd.at("db/plain."), "plain."));
    // Renamed to names that the disk holds, they arrive; then all is in step.
    for (from, to) in
        [("a:b", "ab"), ("q?", "q"), ("dot.", "dot"), ("dots..", "dots"), ("plain.", "plain2")]
    {
        fs::rename(odd.at("db").join(from), odd.at("db").join(to)).unwrap();
    }
    fs::remove_file(odd.at("db/link")).unwrap();
    odd.settle();
    assert_eq!(odd.files(), odd.devices.files("b"));
    odd.is_quiet();
}
