//! Symbolic links: carried as they are, never followed, and not made where they could do harm.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Devices, dir};
use crate::support::{Scene, tree_of};

impl Devices {
    fn link(&self, target: impl AsRef<Path>, device: &str, name: impl AsRef<Path>) {
        let at = self.scene.path(&dir(device)).join(name);
        let _ = fs::remove_file(&at);
        symlink(target, at).unwrap();
    }

    /// Returns the target of a link in a device's directory; `None` if there is none.
    fn target(&self, device: &str, name: &str) -> Option<String> {
        let target = fs::read_link(self.scene.path(&dir(device)).join(name)).ok()?;
        Some(target.to_string_lossy().into_owned())
    }

    #[track_caller]
    fn are_equal(&self) {
        let [a, b] = ["a", "b"].map(|device| tree_of(&self.scene.path(&dir(device))));
        assert_eq!(a, b);
    }
}

#[test]
fn links_are_made_changed_moved_and_deleted_on_the_other_side() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    scene.write("outside", "precious");
    scene.write("da/d/f", "f");
    devices.link("d/f", "a", "to file");
    devices.link("d", "a", "to folder");
    devices.link("nowhere", "a", "d/broken");
    devices.link("../../outside", "a", "d/out");
    devices.link("/etc/hostname", "a", "absolute");
    devices.link(OsStr::from_bytes(b"caf\xE9/%raw%x"), "a", OsStr::from_bytes(b"l\xFF"));
    devices.settle(&["a", "b"]);
    devices.are_equal();
    assert_eq!(devices.target("b", "d/broken").as_deref(), Some("nowhere"));
    assert_eq!(devices.target("b", "absolute").as_deref(), Some("/etc/hostname"));
    // In step: neither side has a change.
    let report =
        scene.on("b", &["--json", "import", "db", "--delete", "--checksum"]).expect(0).json();
    let changes =
        ["filesCreated", "contentsChanged", "metadataChanged", "moved", "deleted", "stale"];
    assert!(changes.iter().all(|change| report[change] == 0), "{report}");
    let report =
        scene.on("b", &["--json", "export", "db", "--delete", "--checksum"]).expect(0).json();
    assert!(["filesWritten", "removed"].iter().all(|change| report[change] == 0), "{report}");
    let id = devices.id("a", "/to file");
    devices.link("d/other", "a", "to file");
    fs::rename(scene.path("da/to folder"), scene.path("da/d/moved")).unwrap();
    fs::remove_file(scene.path("db/absolute")).unwrap();
    devices.settle(&["a", "b"]);
    devices.are_equal();
    assert_eq!(devices.target("b", "to file").as_deref(), Some("d/other"));
    assert_eq!(devices.target("b", "d/moved").as_deref(), Some("d"));
    assert_eq!((devices.target("a", "absolute"), devices.id("b", "/to file")), (None, id));
    // A file that is written through a link is outside, and is not touched.
    assert_eq!(scene.read("outside"), "precious");
    let on = |args: &[&str]| scene.on("a", args);
    assert!(on(&["ls"]).expect(0).stdout.contains("to file -> d/other\n"));
    on(&["stat", "/to file"]).expect(0).says("d/other");
    on(&["cat", "/to file"]).expect(1).says("is a symbolic link").says("d/other");
    on(&["get", "/to file", "got"]).expect(1).says("is a symbolic link");
    // A content makes a file of it, everywhere.
    scene.write("text", "content");
    on(&["put", "text", "/to file"]).expect(0);
    devices.settle(&["a", "b"]);
    devices.are_equal();
    assert_eq!(scene.read("db/to file"), "content");
}

#[test]
fn links_that_both_sides_changed_or_made_are_both_kept() {
    let devices = Devices::new(&["a", "b"]);
    devices.scene.write("da/f", "f");
    devices.link("base", "a", "l");
    devices.settle(&["a", "b"]);
    devices.link("a's", "a", "l");
    devices.link("b's", "b", "l");
    devices.link("same", "a", "both");
    devices.link("same", "b", "both");
    devices.link("one", "a", "new");
    devices.link("other", "b", "new");
    devices.scene.write("da/kind", "same");
    devices.link("same", "b", "kind");
    for _ in 0..2 {
        devices.settle(&["a", "b"]);
    }
    devices.are_equal();
    let entries = tree_of(&devices.scene.path("da"));
    for target in ["a's", "b's", "one", "other"] {
        let is_it = |what: &String| *what == format!("link {target:?}");
        assert_eq!(entries.iter().filter(|(_, what)| is_it(what)).count(), 1, "{entries:?}");
    }
    let same = entries.iter().filter(|(_, what)| *what == "link \"same\"");
    assert_eq!(same.count(), 2, "one is `both`: {entries:?}");
    assert_eq!(entries.len(), 8, "{entries:?}");
}

#[test]
fn entries_change_between_links_files_and_folders() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for name in ["x", "f", "g", "h"] {
        scene.write(&format!("da/{name}"), name);
    }
    devices.settle(&["a", "b"]);
    devices.link("f", "a", "x");
    devices.settle(&["a", "b"]);
    devices.are_equal();
    assert_eq!(devices.target("b", "x").as_deref(), Some("f"));
    fs::remove_file(scene.path("db/x")).unwrap();
    scene.write("db/x/in", "in");
    devices.settle(&["b", "a"]);
    devices.are_equal();
    assert_eq!(scene.read("da/x/in"), "in");
    // A folder with entries in the place of which is a link waits for the user.
    fs::rename(scene.path("da/x"), scene.path("aside")).unwrap();
    devices.link("f", "a", "x");
    devices.once("a").expect(5).says("folder confirm-deletions");
    devices.once("b").expect(0);
    assert_eq!(scene.read("db/x/in"), "in");
    scene.on("a", &["folder", "confirm-deletions", "da", "--yes"]).expect(0);
    devices.settle(&["a", "b"]);
    devices.are_equal();
    fs::remove_file(scene.path("db/x")).unwrap();
    scene.write("db/x", "f");
    devices.settle(&["b", "a"]);
    devices.are_equal();
    assert_eq!(scene.read("da/x"), "f");
}

#[test]
fn links_of_others_that_lead_outside_are_made_only_if_they_are_allowed() {
    let scene = Scene::with_server();
    for user in ["alice", "bob"] {
        scene.replica_of(user);
    }
    scene.write("da/d/f", "f");
    for (target, name) in
        [("d/f", "in"), ("/etc/passwd", "abs"), ("../../x", "d/out"), ("../d", "d/up")]
    {
        symlink(target, scene.path("da").join(name)).unwrap();
    }
    scene.on("alice", &["up", "--once", "da", "/shared"]).expect(0);
    scene.on("alice", &["share", "/shared", "bob", "write"]).expect(0);
    scene.on("alice", &["sync"]).expect(0);
    scene.on("bob", &["sync"]).expect(0);
    let bob = |args: &[&str]| scene.on("bob", args);
    let target = |path: &str| fs::read_link(scene.path(path)).ok();
    bob(&["up", "--once", "db", "shared:alice/shared"]).expect(5).says("folder allow");
    assert_eq!(target("db/in").as_deref(), Some(Path::new("d/f")));
    assert_eq!(target("db/d/up").as_deref(), Some(Path::new("../d")));
    assert_eq!((target("db/abs"), target("db/d/out")), (None, None));
    bob(&["export", "out", "shared:alice/shared"]).expect(5).says("linkNotAllowed");
    assert_eq!(target("out/abs"), None);
    bob(&["export", "out", "shared:alice/shared", "--allow-links"]).expect(0);
    assert_eq!(target("out/abs").as_deref(), Some(Path::new("/etc/passwd")));
    bob(&["folder", "allow", "db/none"]).expect(1).says("not in the tree");
    bob(&["folder", "allow", "out/abs"]).expect(1).says("no directory that is kept in step");
    bob(&["folder", "allow", "db/d/f"]).expect(1).says("no symbolic link");
    bob(&["folder", "allow", "db/abs"]).expect(0).says("/etc/passwd");
    bob(&["up", "--once"]).expect(5);
    assert_eq!(target("db/abs").as_deref(), Some(Path::new("/etc/passwd")));
    assert_eq!(target("db/d/out"), None);
    // That one was not made is no deletion, and another target needs another word.
    fs::remove_file(scene.path("da/abs")).unwrap();
    symlink("/etc/shadow", scene.path("da/abs")).unwrap();
    scene.on("alice", &["up", "--once"]).expect(0);
    bob(&["up", "--once"]).expect(5);
    assert_eq!(target("db/abs").as_deref(), Some(Path::new("/etc/passwd")));
    bob(&["folder", "allow", "db/d/out"]).expect(0);
    bob(&["folder", "allow", "db/abs"]).expect(0);
    bob(&["up", "--once"]).expect(0);
    assert_eq!(tree_of(&scene.path("db")), tree_of(&scene.path("da")));
    // His own links are made where others may write.
    symlink("/his", scene.path("db/his")).unwrap();
    bob(&["up", "--once"]).expect(0);
    scene.on("alice", &["up", "--once"]).expect(5).says("/his");
    assert_eq!(target("da/his"), None);
    scene.on("alice", &["stat", "/shared/his"]).expect(0);
    // Nor when he may write no more: she who unshares has not looked at his links.
    for change in [["share", "/shared", "bob", "read"], ["unshare", "/shared", "bob", "--"]] {
        scene.on("alice", &change[..change.len() - usize::from(change[3] == "--")]).expect(0);
        scene.on("alice", &["up", "--once"]).expect(5).says("/his");
        assert_eq!(target("da/his"), None);
    }
    let problems = scene.on("alice", &["folder", "problems"]).expect(5);
    let allow = format!("folder allow '{}'", scene.path("da/his").display());
    problems.says(&allow);
    scene.on("alice", &["folder", "allow", "da/his"]).expect(0);
    scene.on("alice", &["up", "--once"]).expect(0);
    assert_eq!(target("da/his").as_deref(), Some(Path::new("/his")));
}

#[test]
fn a_link_takes_the_place_of_a_file_that_was_just_saved() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    std::os::unix::fs::symlink("nowhere", scene.path("da/f")).unwrap();
    devices.once("a").expect(0);
    // Its times do not tell yet that nobody has changed it since it was read.
    scene.write("db/f", "of b");
    devices.once("b").expect(0);
    devices.settle(&["a", "b"]);
    assert_eq!(std::fs::read_link(scene.path("db/f")).unwrap(), Path::new("nowhere"));
    let files = devices.files("b");
    let copies = files.iter().filter(|(name, text)| name.contains("conflict") && text == "of b");
    assert_eq!(copies.count(), 1, "{files:?}");
    assert_eq!(tree_of(&scene.path("da")), tree_of(&scene.path("db")));
}
