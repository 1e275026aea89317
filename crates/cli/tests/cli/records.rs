//! Decisions of import and export by a directory's record: no saved file is lost or undone,
//! whichever side is behind.

use std::path::Path;

use crate::support::{Ran, Scene, tree_of};

/// Two devices of alice's with a directory each, which start out in step.
struct Pair {
    scene: Scene,
}

impl Pair {
    fn new(files: &[(&str, &str)]) -> Self {
        let scene = Scene::with_server();
        scene.replica("a");
        scene.replica("b");
        for (name, text) in files {
            scene.write(&format!("da/{name}"), text);
        }
        let pair = Self { scene };
        std::fs::create_dir_all(pair.scene.path("da")).unwrap();
        pair.on("a", &["import", "da"]).expect(0);
        pair.sync();
        pair.on("b", &["export", "db"]).expect(0);
        pair
    }

    fn on(&self, device: &str, args: &[&str]) -> Ran {
        self.scene.on(device, args)
    }

    fn sync(&self) {
        for device in ["a", "b", "a"] {
            self.on(device, &["sync"]).expect(0);
        }
    }

    fn import(&self, device: &str) -> serde_json::Value {
        let directory = format!("d{device}");
        let ran = self.on(device, &["--json", "import", "--delete", &directory]);
        assert!(matches!(ran.code, 0 | 5), "{ran:?}");
        ran.json()
    }

    fn export(&self, device: &str) -> Ran {
        self.on(device, &["export", "--force", "--delete", &format!("d{device}")])
    }

    fn write(&self, name: &str, text: &str) {
        self.scene.write(name, text);
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.scene.path(name)).unwrap();
    }

    /// The texts of all files under a directory, sorted.
    fn texts(&self, directory: &str) -> Vec<String> {
        let mut texts = texts(&self.scene.path(directory));
        texts.sort();
        texts
    }

    fn id(&self, device: &str, path: &str) -> String {
        let stat = self.on(device, &["--json", "stat", path]).expect(0).json();
        stat["id"].as_str().unwrap().to_owned()
    }
}

fn texts(directory: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            texts.extend(self::texts(&entry.path()));
        } else {
            texts.push(String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned());
        }
    }
    texts
}

fn names(scene: &Scene, directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(scene.path(directory)).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_directory_that_is_behind_undoes_nothing() {
    let pair = Pair::new(&[
        ("edited", "v1"),
        ("gone", "g"),
        ("renamed", "r"),
        ("dir/moved", "m"),
        ("own", "o"),
    ]);
    pair.write("da/edited", "v2, a day of work");
    pair.remove("da/gone");
    pair.write("da/new", "n");
    pair.import("a");
    pair.on("a", &["mv", "/renamed", "/other name"]).expect(0);
    pair.on("a", &["mv", "/dir/moved", "/moved"]).expect(0);
    pair.sync();
    // The other directory is as it was, but for one edit of its own.
    pair.write("db/own", "o, edited");
    let report = pair.import("b");
    assert_eq!((&report["contentsChanged"], &report["filesCreated"]), (&1.into(), &0.into()));
    assert_eq!((&report["deleted"], &report["stale"]), (&0.into(), &2.into()), "{report}");
    pair.sync();
    for (path, text) in [
        ("/edited", "v2, a day of work"),
        ("/new", "n"),
        ("/own", "o, edited"),
        ("/other name", "r"),
        ("/moved", "m"),
    ] {
        assert_eq!(pair.on("a", &["cat", path]).expect(0).stdout, text);
    }
    for path in ["/gone", "/renamed", "/dir/moved"] {
        pair.on("a", &["stat", path]).expect(1);
    }
    pair.export("b").expect(0);
    pair.export("a").expect(0);
    assert_eq!(tree_of(&pair.scene.path("da")), tree_of(&pair.scene.path("db")));
    assert_eq!(names(&pair.scene, "db"), ["dir", "edited", "moved", "new", "other name", "own"]);
}

#[test]
fn what_both_edited_is_kept_twice_on_every_device_and_told() {
    let pair = Pair::new(&[("report.txt", "v1"), ("same", "v1")]);
    for (device, text) in [("a", "by a"), ("b", "by b")] {
        pair.write(&format!("d{device}/report.txt"), text);
        pair.write(&format!("d{device}/same"), "v2");
        pair.import(device);
    }
    pair.on("a", &["sync"]).expect(0);
    let told = pair.on("b", &["--json", "sync"]).expect(0).json();
    let copies = told["conflictedCopies"].as_array().unwrap();
    assert_eq!(copies.len(), 1, "{told}");
    let copy = copies[0]["copy"].as_str().unwrap();
    assert!(copy.starts_with("/report (conflict ") && copy.ends_with(").txt"), "{copy}");
    pair.sync();
    for device in ["a", "b"] {
        pair.export(device).expect(0);
        let directory = format!("d{device}");
        assert_eq!(pair.texts(&directory), ["by a", "by b", "v2"]);
        assert_eq!(pair.scene.read(&format!("{directory}/report.txt")), "by a");
        assert_eq!(pair.scene.read(&format!("{directory}{copy}")), "by b");
    }
}

#[test]
fn an_edit_that_meets_a_newer_one_in_the_replica_is_kept_beside_it() {
    let pair = Pair::new(&[("doc.md", "v1")]);
    pair.write("da/doc.md", "by a");
    pair.import("a");
    pair.sync();
    pair.write("db/doc.md", "by b");
    let report = pair.import("b");
    assert_eq!(report["conflicts"]["count"], 1);
    pair.write("db/doc.md", "by b, again");
    let report = pair.import("b");
    assert_eq!((&report["conflicts"]["count"], &report["contentsChanged"]), (&0.into(), &1.into()));
    pair.sync();
    for device in ["b", "a"] {
        pair.export(device).expect(0);
        assert_eq!(pair.texts(&format!("d{device}")), ["by a", "by b, again"]);
        assert_eq!(pair.scene.read(&format!("d{device}/doc.md")), "by a");
    }
    assert_eq!(pair.import("b")["unchanged"], 2);
}

#[test]
fn an_edit_and_a_deletion_leave_the_edit() {
    let pair = Pair::new(&[
        ("x/edited here", "v1"),
        ("x/edited there", "v1"),
        ("x/y/both gone", "v1"),
        ("keep", "k"),
    ]);
    // A deletes all of it in the tree; B has edited one of them meanwhile.
    pair.on("a", &["rm", "-r", "/x"]).expect(0);
    pair.sync();
    pair.write("db/x/edited here", "v2 of b");
    let report = pair.import("b");
    assert_eq!(report["filesCreated"], 1, "{report}");
    pair.sync();
    assert_eq!(pair.on("a", &["cat", "/x/edited here"]).expect(0).stdout, "v2 of b");
    pair.on("a", &["stat", "/x/edited there"]).expect(1);
    pair.export("b").expect(0);
    assert_eq!(pair.texts("db"), ["k", "v2 of b"]);
    // The other way round: deleted on the disk, edited in the tree.
    pair.export("a").expect(0);
    pair.write("da/keep", "k2 of a");
    pair.import("a");
    pair.sync();
    pair.remove("db/keep");
    assert_eq!(pair.import("b")["deleted"], 0);
    pair.export("b").expect(0);
    assert_eq!(pair.scene.read("db/keep"), "k2 of a");
}

#[test]
fn a_folder_that_is_gone_stays_for_what_is_new_in_it() {
    let pair = Pair::new(&[("f/one", "1"), ("f/two", "2"), ("other/a", "a"), ("other/b", "b")]);
    pair.write("da/f/new", "new in it");
    pair.import("a");
    pair.sync();
    std::fs::remove_dir_all(pair.scene.path("db/f")).unwrap();
    let report = pair.import("b");
    assert_eq!(report["deleted"], 2, "{report}");
    pair.sync();
    pair.export("b").expect(0);
    pair.export("a").expect(0);
    assert_eq!(tree_of(&pair.scene.path("da")), tree_of(&pair.scene.path("db")));
    assert_eq!(names(&pair.scene, "db/f"), ["new"]);
}

#[test]
fn deleting_most_of_it_waits_for_a_word() {
    let scene = Scene::offline();
    scene.replica("r");
    for n in 0..250 {
        scene.write(&format!("d/keep/{n}"), "k");
        scene.write(&format!("d/go/{n}"), "g");
    }
    scene.on("r", &["import", "d"]).expect(0);
    let all = tree_of(&scene.path("d")).len();
    // Less than half needs no word; what is new goes in all the same.
    std::fs::remove_dir_all(scene.path("d/go")).unwrap();
    std::fs::remove_file(scene.path("d/keep/0")).unwrap();
    scene.write("d/new", "n");
    let held = scene.on("r", &["--json", "import", "--delete", "d"]).expect(5);
    let report = held.json();
    assert_eq!((&report["held"], &report["deleted"]), (&252.into(), &0.into()), "of {all}");
    let held = held.says("252 of the 502 entries").says("--yes");
    assert!(held.stderr.contains("none was deleted"), "{held:?}");
    scene.on("r", &["cat", "/new"]).expect(0);
    scene.on("r", &["cat", "/go/7"]).expect(0);
    scene.on("r", &["import", "--delete", "--yes", "d"]).expect(0).says("deleted: 252");
    // All of a few is all.
    scene.write("few/one", "1");
    scene.on("r", &["import", "few", "/few"]).expect(0);
    std::fs::remove_file(scene.path("few/one")).unwrap();
    scene.on("r", &["import", "--delete", "few", "/few"]).expect(5).says("1 of the 1 entries");
    scene.on("r", &["cat", "/few/one"]).expect(0);
}

#[test]
fn a_directory_in_anothers_place_is_no_deletion() {
    let scene = Scene::offline();
    scene.replica("r");
    for n in 0..5 {
        scene.write(&format!("d/{n}"), "photo");
    }
    scene.on("r", &["import", "d"]).expect(0);
    std::fs::rename(scene.path("d"), scene.path("drive")).unwrap();
    std::fs::create_dir(scene.path("d")).unwrap();
    scene.on("r", &["import", "--delete", "d"]).expect(1).says("not the directory");
    scene.write("d/mine", "m");
    scene.on("r", &["import", "d"]).expect(0);
    scene.on("r", &["import", "--delete", "d"]).expect(0).says("deleted: 0");
    scene.on("r", &["cat", "/0"]).expect(0);
    // The directory itself is known wherever it is moved.
    std::fs::remove_file(scene.path("drive/4")).unwrap();
    scene.on("r", &["import", "--delete", "drive"]).expect(0).says("deleted: 1");
    // A copy is another directory: what it lacks was never in it.
    scene.write("copy/0", "photo");
    scene.on("r", &["import", "--delete", "copy"]).expect(0).says("deleted: 0");
    // Whoever means it says so.
    std::fs::rename(scene.path("drive"), scene.path("old")).unwrap();
    scene.write("drive/0", "photo");
    scene.on("r", &["import", "--delete", "drive"]).expect(1);
    scene.on("r", &["import", "--delete", "--yes", "drive"]).expect(0).says("deleted: 3");
}

#[test]
fn an_export_replaces_and_removes_only_what_it_knows() {
    let pair = Pair::new(&[
        ("old", "v1"),
        ("mine", "v1"),
        ("touched", "v1"),
        ("gone", "g"),
        ("gone but mine", "g"),
        ("d/x", "x"),
    ]);
    for name in ["old", "mine", "touched"] {
        pair.write(&format!("da/{name}"), "v2");
    }
    pair.import("a");
    pair.on("a", &["rm", "-r", "/gone", "/gone but mine", "/d"]).expect(0);
    pair.sync();
    // Saved after the last import, before the export.
    pair.write("db/mine", "mine");
    pair.write("db/gone but mine", "work");
    pair.write("db/new", "n");
    pair.write("db/d/note", "note");
    let touched =
        std::fs::File::options().append(true).open(pair.scene.path("db/touched")).unwrap();
    touched.set_modified(std::time::SystemTime::now()).unwrap();
    // Without --force what was changed is left where it is.
    pair.on("b", &["export", "db"]).expect(5).says("differs: mine");
    assert_eq!(pair.scene.read("db/mine"), "mine");
    assert_eq!(
        (pair.scene.read("db/old"), pair.scene.read("db/touched")),
        ("v2".into(), "v2".into())
    );
    pair.export("b")
        .expect(5)
        .says("kept: new")
        .says("kept: gone but mine")
        .says("conflictedCopy: mine");
    assert_eq!(pair.texts("db"), ["mine", "n", "note", "v2", "v2", "v2", "work"]);
    assert_eq!(pair.scene.read("db/mine"), "v2");
    assert!(!pair.scene.path("db/gone").exists() && !pair.scene.path("db/d/x").exists());
    // All of it goes to the other device with the next round.
    pair.import("b");
    pair.sync();
    pair.export("a").expect(0);
    pair.export("b").expect(0);
    assert_eq!(pair.texts("da"), ["mine", "n", "note", "v2", "v2", "v2", "work"]);
    assert_eq!(tree_of(&pair.scene.path("da")), tree_of(&pair.scene.path("db")));
}

#[test]
fn what_is_moved_on_the_disk_is_moved_in_the_tree() {
    let pair =
        Pair::new(&[("a/f", "f"), ("a/deep/g", "g"), ("h", "h"), ("linked", "l"), ("saved", "v1")]);
    let ids = ["/a", "/a/f", "/a/deep/g", "/h", "/saved"].map(|path| pair.id("a", path));
    let at = |name: &str| pair.scene.path(&format!("da/{name}"));
    std::fs::rename(at("a"), at("4 - a")).unwrap();
    std::fs::rename(at("h"), at("4 - a/deep/h2")).unwrap();
    // A second name of one inode is no move, nor is a save by a temporary file.
    std::fs::hard_link(at("linked"), at("linked too")).unwrap();
    std::fs::write(at("saved.tmp"), "v2").unwrap();
    std::fs::rename(at("saved.tmp"), at("saved")).unwrap();
    // The other device edits meanwhile.
    pair.write("db/a/f", "f of b");
    pair.write("db/a/deep/new", "new");
    let report = pair.import("a");
    assert_eq!((&report["moved"], &report["deleted"]), (&2.into(), &0.into()), "{report}");
    assert_eq!((&report["filesCreated"], &report["contentsChanged"]), (&1.into(), &1.into()));
    pair.import("b");
    pair.sync();
    let now = ["/4 - a", "/4 - a/f", "/4 - a/deep/g", "/4 - a/deep/h2", "/saved"];
    assert_eq!(now.map(|path| pair.id("b", path)), ids);
    assert_eq!(pair.on("a", &["cat", "/4 - a/f"]).expect(0).stdout, "f of b");
    assert_eq!(pair.on("a", &["cat", "/4 - a/deep/new"]).expect(0).stdout, "new");
    pair.export("a").expect(0);
    pair.export("b").expect(0);
    assert_eq!(tree_of(&pair.scene.path("da")), tree_of(&pair.scene.path("db")));
    assert_eq!(pair.import("a")["unchanged"], pair.import("b")["unchanged"]);
}

#[test]
fn two_devices_that_have_the_same_get_one_of_each() {
    let scene = Scene::with_server();
    for device in ["a", "b"] {
        scene.replica(device);
        for (name, text) in [("docs/sub/x", "x"), ("docs/y", "y"), ("top", "t")] {
            scene.write(&format!("d{device}/{name}"), text);
        }
        scene.write(&format!("d{device}/docs/only {device}"), device);
        scene.write(&format!("d{device}/docs/differs.txt"), format!("of {device}"));
        scene.on(device, &["import", &format!("d{device}")]).expect(0);
    }
    for device in ["a", "b", "a", "b"] {
        scene.on(device, &["sync"]).expect(0);
    }
    for device in ["a", "b"] {
        scene.on(device, &["export", "--force", "--delete", &format!("d{device}")]).expect(0);
    }
    assert_eq!(tree_of(&scene.path("da")), tree_of(&scene.path("db")));
    let mut all = texts(&scene.path("da"));
    all.sort();
    assert_eq!(all, ["a", "b", "of a", "of b", "t", "x", "y"]);
    for device in ["a", "b"] {
        let again = scene.on(device, &["--json", "import", "--delete", &format!("d{device}")]);
        let again = again.expect(0).json();
        assert_eq!((&again["filesCreated"], &again["deleted"]), (&0.into(), &0.into()), "{again}");
    }
}

#[test]
fn without_a_record_equal_files_are_joined_and_others_kept() {
    let scene = Scene::offline();
    scene.write("d/same", "s");
    scene.write("d/differs", "of the tree");
    scene.write("d/kind", "a file");
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    scene.write("e/same", "s");
    scene.write("e/differs", "of the disk");
    scene.write("e/kind/inside", "a folder");
    let report = scene.on("r", &["--json", "import", "--delete", "e"]).expect(0).json();
    assert_eq!((&report["conflicts"]["count"], &report["deleted"]), (&2.into(), &0.into()));
    assert_eq!(scene.on("r", &["cat", "/differs"]).expect(0).stdout, "of the tree");
    scene.on("r", &["export", "--force", "--delete", "e"]).expect(0);
    scene.on("r", &["import", "e"]).expect(0);
    scene.on("r", &["export", "--force", "--delete", "d"]).expect(0);
    let mut all = texts(&scene.path("d"));
    all.sort();
    assert_eq!(all, ["a file", "a folder", "of the disk", "of the tree", "s"]);
}

#[test]
fn a_dry_run_lists_paths_and_changes_nothing() {
    let scene = Scene::offline();
    for name in ["gone", "edited", "moved", "same", "other"] {
        scene.write(&format!("d/{name}"), name);
    }
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    std::fs::remove_file(scene.path("d/gone")).unwrap();
    scene.write("d/edited", "edited, now");
    std::fs::rename(scene.path("d/moved"), scene.path("d/moved too")).unwrap();
    scene.write("d/sub/new", "n");
    let expected = [
        "content: edited",
        "moved: moved too",
        "new folder: sub",
        "new file: sub/new",
        "deleted: gone",
    ];
    for _ in 0..2 {
        let said = scene.on("r", &["import", "--dry-run", "--delete", "d"]).expect(0).stdout;
        let listed: Vec<&str> = said.lines().take(expected.len()).collect();
        assert_eq!(listed, expected, "{said}");
    }
    let json = scene.on("r", &["--json", "import", "-n", "--delete", "d"]).expect(0).json();
    assert_eq!(
        json["changes"]["entries"][0],
        serde_json::json!({"change": "content", "path": "edited"})
    );
    let into_new = scene.on("r", &["import", "-n", "d", "/not/there"]).expect(0);
    assert!(into_new.says("new file: sub/new").stdout.contains("new file: same"));
    scene.on("r", &["stat", "/not"]).expect(1);
    scene.on("r", &["import", "--delete", "d"]).expect(0).says("moved: 1").says("deleted: 1");
}

#[test]
fn an_import_makes_the_folder_that_it_goes_into() {
    let scene = Scene::offline();
    scene.write("d/p.jpg", "p");
    scene.replica("r");
    scene.on("r", &["import", "d", "/photos/2026", "--delete"]).expect(0);
    assert_eq!(scene.on("r", &["cat", "/photos/2026/p.jpg"]).expect(0).stdout, "p");
    scene.on("r", &["import", "nothing", "/other"]).expect(1);
    scene.on("r", &["stat", "/other"]).expect(1);
    scene.on("r", &["import", "d", "/photos/2026/p.jpg"]).expect(1).says("is a file");
}

#[test]
fn what_a_killed_export_had_taken_from_its_place_comes_back() {
    let scene = Scene::offline();
    scene.write("d/a", "of the tree");
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    scene.on("r", &["export", "out"]).expect(0);
    let taken = format!("out/.vfs-sync-old-{}", "0".repeat(32));
    scene.write(&taken, "somebody's work");
    scene.on("r", &["import", "out"]).expect(0).says("temporary");
    scene.on("r", &["export", "out"]).expect(5).says("recovered (conflict ");
    let mut all = texts(&scene.path("out"));
    all.sort();
    assert_eq!(all, ["of the tree", "somebody's work"]);
    // What is recorded or in the tree is no loss.
    scene.write(&taken, "of the tree");
    scene.on("r", &["export", "out"]).expect(0);
    assert_eq!(texts(&scene.path("out")).len(), 2);
}

#[test]
fn a_device_has_the_name_that_it_was_given() {
    let scene = Scene::offline();
    std::fs::write(scene.path("token"), scene.token("alice")).unwrap();
    let init = [
        "init",
        "--server",
        "http://127.0.0.1:9",
        "--token-file",
        "token",
        "--device",
        "my/laptop",
    ];
    scene.on("r", &init).expect(0);
    scene.write("d/f.txt", "tree");
    scene.on("r", &["import", "d"]).expect(0);
    scene.write("e/f.txt", "disk");
    let report = scene.on("r", &["--json", "import", "e"]).expect(0).json();
    let copy = report["conflicts"]["first"][0]["copy"].as_str().unwrap();
    assert!(copy.starts_with("f (conflict mylaptop 20") && copy.ends_with(").txt"), "{copy}");
}

/// Programs save, delete and rename in two directories while each is imported, synchronised and
/// exported in turn: every text that was saved is in a directory or a version, unless a program had
/// it in front of itself when it overwrote or deleted it.
#[test]
fn programs_and_rounds_of_two_devices_lose_nothing() {
    let rounds: u64 = std::env::var("VFS_SYNC_TEST_ROUNDS").ok().map_or(20, |n| n.parse().unwrap());
    let seed: u64 = std::env::var("VFS_SYNC_TEST_SEED").ok().map_or(1, |n| n.parse().unwrap());
    let mut chance = fastrand::Rng::with_seed(seed);
    let pair = Pair::new(&[("f0", "start 0"), ("s/f1", "start 1"), ("s/f2", "start 2")]);
    let mut saved: std::collections::BTreeSet<String> =
        ["start 0", "start 1", "start 2"].map(str::to_owned).into();
    let mut count = 0;
    let mut acts = |chance: &mut fastrand::Rng,
                    device: &str,
                    saved: &mut std::collections::BTreeSet<String>| {
        let top = pair.scene.path(&format!("d{device}"));
        for _ in 0..chance.u64(..3) {
            let mut files = Vec::new();
            let mut folders = vec![top.clone()];
            while let Some(folder) = folders.pop() {
                for entry in std::fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() { folders.push(path) } else { files.push(path) }
                }
            }
            files.sort();
            let any = files.get(chance.usize(..files.len().max(1))).cloned();
            let named = top.join(["f0", "s/f1", "s/f2", "f3", "s/f4", "t/f5"][chance.usize(..6)]);
            count += 1;
            let text = format!("{device} {count:04}");
            let save = |path: &Path, saved: &mut std::collections::BTreeSet<String>| {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                if path.is_dir() {
                    return;
                }
                // What the program had in front of it.
                if let Ok(before) = std::fs::read_to_string(path) {
                    saved.remove(&before);
                }
                std::fs::write(path, &text).unwrap();
                saved.insert(text.clone());
            };
            match (chance.u64(..6), any) {
                (0, Some(path)) => {
                    saved.remove(&std::fs::read_to_string(&path).unwrap());
                    std::fs::remove_file(path).unwrap();
                }
                (1, Some(path)) => {
                    std::fs::create_dir_all(named.parent().unwrap()).unwrap();
                    if path != named && !named.is_dir() {
                        if let Ok(before) = std::fs::read_to_string(&named) {
                            saved.remove(&before);
                        }
                        std::fs::rename(path, named).unwrap();
                    }
                }
                (2, Some(path)) => save(&path, saved),
                (3, _) => {
                    let temporary = top.join("save.tmp");
                    std::fs::create_dir_all(named.parent().unwrap()).unwrap();
                    if !named.is_dir() {
                        if let Ok(before) = std::fs::read_to_string(&named) {
                            saved.remove(&before);
                        }
                        std::fs::write(&temporary, &text).unwrap();
                        saved.insert(text.clone());
                        std::fs::rename(temporary, named).unwrap();
                    }
                }
                _ => save(&named, saved),
            }
        }
    };
    for _ in 0..rounds {
        let device = if chance.bool() { "a" } else { "b" };
        let other = if device == "a" { "b" } else { "a" };
        acts(&mut chance, device, &mut saved);
        acts(&mut chance, other, &mut saved);
        pair.import(device);
        acts(&mut chance, device, &mut saved);
        if chance.u64(..4) > 0 {
            pair.on(device, &["sync"]).expect(0);
        }
        acts(&mut chance, device, &mut saved);
        if chance.u64(..4) > 0 {
            let ran = pair.export(device);
            assert!(matches!(ran.code, 0 | 5), "{ran:?}");
        }
    }
    for _ in 0..4 {
        for device in ["a", "b"] {
            pair.import(device);
            pair.on(device, &["sync"]).expect(0);
            let ran = pair.export(device);
            assert!(matches!(ran.code, 0 | 5), "{ran:?}");
        }
    }
    let there: std::collections::BTreeSet<String> = pair.texts("da").into_iter().collect();
    let lost: Vec<_> = saved.difference(&there).filter(|text| !is_version(&pair, text)).collect();
    assert!(lost.is_empty(), "seed {seed}: {lost:?} of {saved:?}; there are {there:?}");
    assert_eq!(tree_of(&pair.scene.path("da")), tree_of(&pair.scene.path("db")), "seed {seed}");
}

/// Returns whether a text is an earlier content of some file.
fn is_version(pair: &Pair, text: &str) -> bool {
    let tree = pair.on("a", &["--json", "tree"]).expect(0).json();
    let entries = tree["entries"].as_array().unwrap().clone();
    for entry in entries.iter().filter(|entry| entry["type"] == "file") {
        let path = format!("/{}", entry["path"].as_str().unwrap());
        let versions = pair.on("a", &["--json", "versions", &path]).expect(0).json();
        for number in 1..=versions["versions"].as_array().unwrap().len() {
            let number = number.to_string();
            let got = pair.on("a", &["get", &path, "-", "--version", &number]);
            if got.stdout == text {
                return true;
            }
        }
    }
    false
}

#[test]
fn a_dry_run_of_an_export_lists_what_the_export_then_does_and_changes_nothing() {
    let pair = Pair::new(&[
        ("old/gone.txt", "one"),
        ("old/deep/gone.txt", "two"),
        ("edited.txt", "three"),
        ("mine.txt", "four"),
        ("bits.txt", "five"),
        ("same.txt", "six"),
    ]);
    pair.on("a", &["rm", "-r", "/old"]).expect(0);
    std::fs::remove_dir_all(pair.scene.path("da")).unwrap();
    for (name, text) in [("new/made.txt", "new"), ("edited.txt", "3"), ("mine.txt", "4")] {
        pair.write(&format!("more/{name}"), text);
        pair.on("a", &["put", &format!("more/{name}"), "/"]).expect(0);
    }
    pair.on("a", &["mkdir", "/folder"]).expect(0);
    pair.on("a", &["mv", "/made.txt", "/folder"]).expect(0);
    pair.sync();
    pair.write("db/mine.txt", "changed here");
    pair.write("db/extra.txt", "made here");
    std::fs::remove_file(pair.scene.path("db/same.txt")).unwrap();

    let before = tree_of(&pair.scene.path("db"));
    let arguments = ["--json", "export", "--force", "--delete", "db"];
    let dry = pair.on("b", &[&arguments[..], &["--dry-run"]].concat()).expect(5).json();
    assert_eq!(tree_of(&pair.scene.path("db")), before, "nothing changes");
    let entries = dry["changes"]["entries"].as_array().unwrap().iter();
    let mut listed: Vec<_> = entries
        .map(|one| {
            format!("{}: {}", one["change"].as_str().unwrap(), one["path"].as_str().unwrap())
        })
        .collect();
    listed.sort_unstable();
    let expected = [
        "content: edited.txt",
        "content: mine.txt",
        "copy: mine.txt",
        "deleted: old",
        "deleted: old/deep",
        "deleted: old/deep/gone.txt",
        "deleted: old/gone.txt",
        "newFile: folder/made.txt",
        "newFile: same.txt",
        "newFolder: folder",
    ];
    assert_eq!(listed, expected);
    let says = pair.on("b", &["export", "-n", "--delete", "db"]).expect(5);
    says.says("content: edited.txt").says("would be new: 1 folders, 3 files");

    let done = pair.on("b", &arguments).expect(5).json();
    for count in ["foldersCreated", "filesWritten", "removed", "unchanged", "bytes"] {
        assert_eq!(dry[count], done[count], "{count}");
    }
    assert_eq!(done["changes"]["entries"].as_array().unwrap().len(), 0);
    let nowhere = pair.on("b", &["--json", "export", "-n", "nowhere"]).expect(0).json();
    assert_eq!(nowhere["filesWritten"], 5);
    assert!(!pair.scene.path("nowhere").exists());
}
