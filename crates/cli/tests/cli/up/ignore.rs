//! Rules of `.vfsignore` files: what they match does not cross, and is never deleted.

use std::fs;

use super::{Devices, Up, has, wait_until};
use crate::support::{Scene, tree_of};

/// Returns the names of all files under a device's directory, sorted.
fn names(devices: &Devices, device: &str) -> Vec<String> {
    devices.files(device).into_iter().map(|(name, _)| name).collect()
}

/// Returns whether the tree has something at `path`, as `device` sees it.
fn in_tree(devices: &Devices, device: &str, path: &str) -> bool {
    devices.scene.on(device, &["stat", path]).code == 0
}

#[test]
fn what_a_rule_or_a_built_in_one_matches_crosses_in_neither_direction() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    scene.write("da/.vfsignore", "*.log\n/build/\n!keep.log\n!Thumbs.db\n");
    for name in ["a.log", "keep.log", "in/b.log", "build/out", ".f.swp", ".DS_Store"] {
        scene.write(&format!("da/{name}"), "x");
    }
    for name in ["Thumbs.db", "in/build/out", "f~", "in/.vfsignore", "in/n.txt", "in/x.log"] {
        scene.write(&format!("da/{name}"), "x");
    }
    scene.write("da/in/.vfsignore", "!x.log\nn.*\n");
    std::os::unix::fs::symlink("user@host", scene.path("da/.#f")).unwrap();
    devices.settle(&["a", "b"]);
    let crossed =
        [".vfsignore", "Thumbs.db", "f~", "in/.vfsignore", "in/build/out", "in/x.log", "keep.log"];
    assert_eq!(names(&devices, "b"), crossed);
    // The other direction: an item that is made in the tree is not written.
    scene.write("text", "of the tree");
    scene.on("b", &["put", "text", "/t.log"]).expect(0);
    scene.on("b", &["mkdir", "/build"]).expect(0);
    devices.settle(&["b", "a"]);
    assert!(!scene.path("da/t.log").exists() && !scene.path("db/t.log").exists());
    assert!(!scene.path("db/build").exists());
    assert!(in_tree(&devices, "a", "/t.log") && in_tree(&devices, "a", "/build"));
    let report = scene.on("a", &["--json", "import", "da", "--delete"]).expect(0).json();
    assert_eq!((report["ignored"].as_u64(), report["deleted"].as_u64()), (Some(7), Some(0)));
    let report = scene.on("a", &["--json", "export", "da", "--delete"]).expect(0).json();
    assert_eq!((report["ignored"].as_u64(), report["removed"].as_u64()), (Some(2), Some(0)));
    let report = scene.on("a", &["--json", "export", "fresh"]).expect(0).json();
    assert_eq!(report["ignored"], 2, "the rules come before everything else");
    assert!(!scene.path("fresh/t.log").exists() && scene.path("fresh/keep.log").exists());
    let report = scene.on("a", &["--json", "export", "dry", "-n"]).expect(0).json();
    assert_eq!(report["ignored"], 2);
}

#[test]
fn forgetting_deletes_what_is_ignored_in_the_tree_and_no_file() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for name in ["p/build/out", "p/build/in/deep", "p/src", "p/a.log", "b.log", "keep.log"] {
        scene.write(&format!("da/{name}"), name);
    }
    devices.settle(&["a", "b"]);
    scene.write("da/.vfsignore", "*.log\n!keep.log\n");
    scene.write("da/p/.vfsignore", "build/\n");
    devices.settle(&["a", "b"]);
    let before = (devices.files("a"), devices.files("b"));
    let forget = |args: &[&str]| scene.on("a", &[&["folder", "forget"], args].concat());
    forget(&["da/p/src"]).expect(1).says("no rule ignores");
    forget(&["da/keep.log"]).expect(1).says("no rule ignores");
    forget(&["da/nothing"]).expect(1).says("not in the tree");
    forget(&["elsewhere"]).expect(1).says("in no directory");
    forget(&["da/p", "--dry-run"]).expect(0).says("p/build").says("p/a.log");
    assert!(in_tree(&devices, "a", "/p/build/out"), "only listed");
    let report = scene.on("a", &["--json", "folder", "forget", "da/p"]).expect(0).json();
    assert_eq!(report["paths"], serde_json::json!(["p/a.log", "p/build"]), "{report}");
    assert_eq!(report["deleted"], 5, "{report}");
    assert!(in_tree(&devices, "a", "/p/src") && in_tree(&devices, "a", "/b.log"), "outside of it");
    let all = scene.on("a", &["--json", "folder", "forget", "da", "--dry-run"]).expect(0).json();
    assert_eq!(all["paths"], serde_json::json!(["b.log"]), "of the directory itself: {all}");
    // The folder is ignored, so everything in it is.
    forget(&["da/b.log"]).expect(0);
    devices.settle(&["a", "b"]);
    assert!(!in_tree(&devices, "b", "/p/build") && !in_tree(&devices, "b", "/b.log"));
    assert_eq!((devices.files("a"), devices.files("b")), before, "no file is touched");
    forget(&["da/p"]).expect(1).says("no rule ignores");
    // One that is in another folder too is only there afterwards.
    scene.on("a", &["put", "da/p/a.log", "/p/twice.log"]).expect(0);
    scene.on("a", &["mkdir", "/other"]).expect(0);
    scene.on("a", &["ln", "/p/twice.log", "/other/"]).expect(0);
    forget(&["da/p"]).expect(0).says("p/twice.log");
    assert!(!in_tree(&devices, "a", "/p/twice.log"));
    assert!(in_tree(&devices, "a", "/other/twice.log"));
    scene.on("a", &["trash", "restore", "/p/a.log"]).expect(0);
}

#[test]
fn a_rule_for_everything_deletes_nothing_and_taking_it_back_doubles_nothing() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for name in ["one", "two", "d/in", "d/e/deep", "edited", "gone", "both"] {
        scene.write(&format!("da/{name}"), name);
    }
    devices.settle(&["a", "b"]);
    let before = devices.files("a");
    let id = devices.id("a", "/d/in");
    scene.write("da/.vfsignore", "*\n");
    devices.settle(&["a", "b"]);
    let with_rules = |text: &str| {
        let mut files = before.clone();
        files.insert(0, (".vfsignore".to_owned(), text.to_owned()));
        files
    };
    assert_eq!(devices.files("a"), with_rules("*\n"));
    assert_eq!(devices.files("b"), with_rules("*\n"));
    // While all is ignored neither edits nor deletions cross.
    fs::remove_file(scene.path("da/gone")).unwrap();
    scene.write("da/edited", "by a");
    scene.write("da/both", "a's");
    scene.write("db/both", "b's");
    devices.settle(&["a", "b"]);
    assert_eq!(scene.read("db/edited"), "edited");
    assert!(in_tree(&devices, "a", "/gone"));
    fs::write(scene.path("da/.vfsignore"), "").unwrap();
    devices.settle(&["a", "b"]);
    devices.settle(&["a", "b"]);
    let files = devices.files("a");
    assert_eq!(files, devices.files("b"));
    assert_eq!(devices.id("b", "/d/in"), id, "the same item");
    let text_of = |text: &str| files.iter().filter(|(_, found)| found == text).count();
    for text in ["one", "two", "d/in", "d/e/deep", "gone", "edited", "by a", "a's", "b's", "both"] {
        assert_eq!(text_of(text), 1, "{text}: {files:?}");
    }
    assert_eq!(files.len(), 11, "{files:?}");
}

#[test]
fn what_goes_together_with_its_new_rule_is_not_deleted() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for name in ["x.log", "d/x.log", "d/f", "stays", "more", "k/in", "l"] {
        scene.write(&format!("da/{name}"), name);
    }
    devices.settle(&["a", "b"]);
    scene.write("da/.vfsignore", "*.log\nk/\n");
    fs::remove_file(scene.path("da/x.log")).unwrap();
    fs::remove_dir_all(scene.path("da/d")).unwrap();
    // A folder that is ignored becomes a file that is not.
    fs::remove_dir_all(scene.path("da/k")).unwrap();
    scene.write("da/k", "a file");
    devices.settle(&["a", "b"]);
    assert!(in_tree(&devices, "b", "/x.log") && in_tree(&devices, "b", "/d/x.log"));
    assert!(!in_tree(&devices, "b", "/d/f"));
    assert!(in_tree(&devices, "b", "/k/in"));
    assert_eq!(scene.read("db/x.log"), "x.log");
    assert_eq!(scene.read("db/d/x.log"), "d/x.log");
    assert_eq!(scene.read("db/k/in"), "k/in");
    assert!(devices.files("a").iter().any(|(_, text)| text == "a file"));
}

#[test]
fn a_rename_to_an_ignored_name_is_no_deletion() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    scene.write("da/.vfsignore", "*.log\nbuild/\n");
    for name in ["one", "two", "d/three", "d/four", "e/five", "stays", "goes"] {
        scene.write(&format!("da/{name}"), name);
    }
    scene.write("da/build/deep/x", "x");
    devices.settle(&["a", "b"]);
    let rename = |from: &str, to: &str| {
        fs::rename(scene.path("da").join(from), scene.path("da").join(to)).unwrap();
    };
    rename("one", "one.log");
    rename("two", "build/deep/two");
    rename("d/three", "three.log");
    fs::remove_dir_all(scene.path("da/d")).unwrap();
    rename("e", "build/e");
    fs::remove_file(scene.path("da/goes")).unwrap();
    devices.settle(&["a", "b"]);
    for (path, stays) in
        [("one", true), ("two", true), ("d/three", true), ("d/four", false), ("goes", false)]
    {
        assert_eq!(in_tree(&devices, "b", &format!("/{path}")), stays, "{path}");
        assert_eq!(scene.path("db").join(path).exists(), stays, "{path}");
    }
    assert_eq!(scene.read("db/e/five"), "e/five");
    assert_eq!(scene.read("da/one.log"), "one");
    assert_eq!(scene.read("da/build/e/five"), "e/five");
    // And the items come back under their old names here.
    assert_eq!(scene.read("da/one"), "one");
    assert_eq!(scene.read("da/d/three"), "d/three");
}

#[test]
fn a_folder_deleted_elsewhere_keeps_its_ignored_entries_and_does_not_come_back() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    scene.write("da/.vfsignore", "*.log\n");
    scene.write("da/p/.vfsignore", "build/\n");
    scene.write("da/p/src/main", "text");
    scene.write("da/p/src/x.log", "log");
    scene.write("da/p/build/out", "built");
    scene.write("da/more", "more");
    devices.settle(&["a", "b"]);
    assert!(!scene.path("db/p/build").exists());
    fs::remove_dir_all(scene.path("db/p")).unwrap();
    devices.once("b").expect(0);
    let ran = devices.once("a").expect(0).says("deleted in the tree").says("stays here");
    assert!(!ran.stderr.contains("created here"), "{ran:?}");
    for _ in 0..2 {
        devices.settle(&["a", "b"]);
        assert!(!in_tree(&devices, "b", "/p"), "it does not come back");
        let left = [".vfsignore", "more", "p/.vfsignore", "p/build/out", "p/src/x.log"];
        assert_eq!(names(&devices, "a"), left);
    }
    // Until something is saved in it: then with its rules, so that nothing ignored gets out.
    scene.write("da/p/new", "new");
    devices.settle(&["a", "b"]);
    devices.settle(&["a", "b"]);
    assert_eq!(names(&devices, "b"), [".vfsignore", "more", "p/.vfsignore", "p/new"]);
    assert_eq!(scene.read("da/p/build/out"), "built");
}

#[test]
fn rules_that_go_let_everything_join_again() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    scene.write("da/.vfsignore", "*.log\n");
    scene.write("da/a.log", "a's");
    scene.write("db/b.log", "b's");
    scene.write("da/f", "f");
    devices.settle(&["a", "b"]);
    scene.write("text", "in the tree");
    scene.on("a", &["put", "text", "/t.log"]).expect(0);
    devices.settle(&["a", "b"]);
    assert_eq!(names(&devices, "b"), [".vfsignore", "b.log", "f"]);
    // The rules of the tree held already when the directory of b was joined.
    assert!(!in_tree(&devices, "b", "/b.log"));
    fs::remove_file(scene.path("db/.vfsignore")).unwrap();
    devices.settle(&["b", "a"]);
    devices.settle(&["b", "a"]);
    assert_eq!(names(&devices, "a"), ["a.log", "b.log", "f", "t.log"]);
    assert_eq!(devices.files("a"), devices.files("b"));
}

#[test]
fn rules_that_are_away_for_a_moment_let_nothing_out() {
    let devices = Devices::new(&["a"]);
    let scene = &devices.scene;
    scene.write("da/.vfsignore", "secret\n");
    scene.write("da/secret", "s");
    scene.write("da/f", "f");
    devices.settle(&["a"]);
    let up = devices.up("a");
    fs::rename(scene.path("da/.vfsignore"), scene.path("aside")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    fs::rename(scene.path("aside"), scene.path("da/.vfsignore")).unwrap();
    scene.write("da/g", "g");
    wait_until("it goes on", || in_tree(&devices, "a", "/g"));
    drop(up);
    assert!(!in_tree(&devices, "a", "/secret"));
    // Without --delete nothing says that the rules are to go.
    fs::remove_file(scene.path("da/.vfsignore")).unwrap();
    scene.on("a", &["import", "da"]).expect(5).says("it is missing");
    assert!(!in_tree(&devices, "a", "/secret"));
}

#[test]
fn rules_that_cannot_be_used_leave_their_folder_as_it_is() {
    let devices = Devices::new(&["a", "b"]);
    let scene = &devices.scene;
    for name in ["d/f", "d/g", "d/in/h", "e/f", "more"] {
        scene.write(&format!("da/{name}"), name);
    }
    devices.settle(&["a", "b"]);
    scene.write("da/d/.vfsignore", vec![b'x'; 1024 * 1024 + 1]);
    fs::remove_file(scene.path("da/d/f")).unwrap();
    scene.write("da/d/new", "new");
    scene.write("da/e/new", "new");
    fs::remove_file(scene.path("db/d/g")).unwrap();
    devices.once("b").expect(0);
    devices.once("a").expect(5).says("d/.vfsignore").says("more than 1048576 bytes");
    assert!(in_tree(&devices, "a", "/d/f") && !in_tree(&devices, "a", "/d/new"));
    assert!(in_tree(&devices, "a", "/e/new"), "other folders go on");
    assert!(scene.path("da/d/g").exists());
    // A malformed rule alone does not count.
    scene.write("da/d/.vfsignore", "new\n[a\n*.log\n");
    scene.write("da/d/x.log", "x");
    devices.once("a").expect(5).says("d/.vfsignore").says("line 2");
    assert!(!in_tree(&devices, "a", "/d/new") && !in_tree(&devices, "a", "/d/x.log"));
    assert!(!scene.path("da/d/g").exists() && !in_tree(&devices, "a", "/d/f"));
    scene.write("da/d/.vfsignore", "*.log\n");
    devices.settle(&["a", "b"]);
    assert_eq!(scene.read("db/d/new"), "new");
}

#[test]
fn rules_of_others_count_in_their_trees_only_when_they_are_trusted() {
    let scene = Scene::with_server();
    for user in ["alice", "bob"] {
        scene.replica_of(user);
    }
    scene.write("da/f", "f");
    scene.write("da/g", "g");
    scene.on("alice", &["up", "--once", "da", "/shared"]).expect(0);
    scene.on("alice", &["share", "/shared", "bob", "write"]).expect(0);
    scene.on("alice", &["sync"]).expect(0);
    scene.on("bob", &["sync"]).expect(0);
    let bob = |args: &[&str]| scene.on("bob", args);
    bob(&["up", "--once", "db", "shared:alice/shared"]).expect(0);
    // His own rules count, in that import and in later ones.
    scene.write("db/.vfsignore", "own\n");
    scene.write("db/own", "x");
    bob(&["up", "--once"]).expect(0);
    bob(&["up", "--once"]).expect(0);
    assert_eq!(bob(&["stat", "shared:alice/shared/own"]).code, 1);
    // Hers do not: they would keep his files from being sent.
    fs::remove_file(scene.path("db/.vfsignore")).unwrap();
    fs::remove_file(scene.path("db/own")).unwrap();
    bob(&["up", "--once"]).expect(0);
    scene.on("alice", &["up", "--once"]).expect(0);
    scene.write("da/.vfsignore", "*.txt\n");
    scene.on("alice", &["up", "--once"]).expect(0);
    scene.write("db/one.txt", "one");
    bob(&["up", "--once"]).expect(0);
    bob(&["up", "--once"]).expect(0).says("trust-ignore");
    bob(&["stat", "shared:alice/shared/one.txt"]).expect(0);
    bob(&["folder", "trust-ignore", "elsewhere"]).expect(1).says("not kept in step");
    let up = Up::start(&scene, "bob", &[]);
    bob(&["folder", "trust-ignore", "db"]).expect(0);
    scene.write("db/two.txt", "two");
    scene.write("db/three", "three");
    wait_until("it is sent", || bob(&["stat", "shared:alice/shared/three"]).code == 0);
    drop(up);
    assert_eq!(bob(&["stat", "shared:alice/shared/two.txt"]).code, 1);
    assert!(has(&scene.path("db/one.txt"), "one"));
    assert!(tree_of(&scene.path("db")).len() == 6);
    let list = bob(&["--json", "folder", "list"]).expect(0).json();
    assert_eq!(list["folders"][0]["trustIgnore"], true);
}
