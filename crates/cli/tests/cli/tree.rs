//! A replica on its own: importing, looking, editing, exporting.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;

use crate::support::{Scene, tree_of};
use vfs_sync_client::{ClientConfig, HttpConfig, HttpTransport, StaticToken, SyncClient};
use vfs_sync_core::item::Name;

/// A directory with depth, empty folders, odd names, an executable and an old time.
fn furnish(scene: &Scene) {
    scene.write("d/a/b/c/deep.txt", "deep");
    scene.write("d/run.sh", "#!/bin/sh\n");
    scene.write("d/empty file", "");
    scene.write("d/odd \u{1b}[31m\u{202e}\n", "odd");
    scene.write("d/%raw%name", "looks escaped");
    scene.write("d/large", vec![7; 1_500_000]);
    std::fs::write(scene.path("d").join(OsStr::from_bytes(b"latin \xe9")), "latin").unwrap();
    std::fs::create_dir_all(scene.path("d/empty/inner")).unwrap();
    let mode = |bits| std::fs::Permissions::from_mode(bits);
    std::fs::set_permissions(scene.path("d/run.sh"), mode(0o755)).unwrap();
    std::fs::set_permissions(scene.path("d/empty"), mode(0o700)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_millis(981_173_106_789);
    let file = std::fs::File::options().append(true).open(scene.path("d/run.sh")).unwrap();
    file.set_modified(old).unwrap();
}

#[test]
fn what_is_imported_comes_out_the_same() {
    let scene = Scene::offline();
    furnish(&scene);
    scene.replica("r");
    let report = scene.on("r", &["--json", "import", "d"]).expect(0).json();
    assert_eq!((&report["filesCreated"], &report["foldersCreated"]), (&7.into(), &5.into()));
    scene.on("r", &["export", "out"]).expect(0);
    assert_eq!(tree_of(&scene.path("out")), tree_of(&scene.path("d")));
    let again = scene.on("r", &["--json", "export", "out"]).expect(0).json();
    assert_eq!(again["filesWritten"], 0);
    scene.on("r", &["import", "out"]).expect(0).says("new: 0 folders, 0 files");
}

#[test]
fn importing_again_changes_only_what_changed_and_deletes_only_if_asked() {
    let scene = Scene::offline();
    furnish(&scene);
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    let pending = |scene: &Scene| scene.on("r", &["--json", "status"]).json()["pending"].clone();
    let before = pending(&scene);
    let again = scene.on("r", &["--json", "import", "d"]).expect(0).json();
    assert_eq!(again["unchanged"], 12);
    assert_eq!(pending(&scene), before, "nothing was queued");

    scene.write("d/a/new.txt", "new");
    scene.write("d/large", vec![8; 1_500_000]);
    std::fs::remove_file(scene.path("d/a/b/c/deep.txt")).unwrap();
    std::fs::set_permissions(scene.path("d/run.sh"), std::fs::Permissions::from_mode(0o700))
        .unwrap();
    let dry = scene.on("r", &["--json", "import", "--dry-run", "--delete", "d"]).expect(0).json();
    let changed = scene.on("r", &["--json", "import", "d"]).expect(0).json();
    for (field, count) in [("filesCreated", 1), ("contentsChanged", 1), ("metadataChanged", 1)] {
        assert_eq!((&changed[field], &dry[field]), (&count.into(), &count.into()), "{field}");
    }
    assert_eq!((&changed["deleted"], &dry["deleted"]), (&0.into(), &1.into()));
    scene.on("r", &["stat", "/a/b/c/deep.txt"]).expect(0);
    scene.on("r", &["import", "--delete", "d"]).expect(0).says("deleted: 1");
    scene.on("r", &["stat", "/a/b/c/deep.txt"]).expect(1);
    scene.on("r", &["export", "out"]).expect(0);
    assert_eq!(tree_of(&scene.path("out")), tree_of(&scene.path("d")));
}

#[test]
fn a_change_that_keeps_size_and_time_is_found() {
    let scene = Scene::offline();
    let path = scene.write("d/f", "one");
    let time = path.metadata().unwrap().modified().unwrap();
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    std::fs::write(&path, "two").unwrap();
    std::fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
    scene.on("r", &["import", "d"]).expect(0).says("changed: 1 contents");
    scene.on("r", &["cat", "/f"]).expect(0).says("two");
    scene.on("r", &["import", "--checksum", "d"]).expect(0).says("unchanged: 1");
    // A new time alone is no new content.
    let later = time + std::time::Duration::from_secs(60);
    std::fs::File::options().append(true).open(&path).unwrap().set_modified(later).unwrap();
    scene.on("r", &["import", "d"]).expect(0).says("changed: 0 contents, 1 attributes");
}

#[test]
fn special_files_are_reported_and_links_never_followed() {
    let scene = Scene::offline();
    scene.write("secret.txt", "not in the tree");
    scene.write("d/file", "x");
    symlink("../secret.txt", scene.path("d/link")).unwrap();
    symlink("..", scene.path("d/up")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(scene.path("d/socket")).unwrap();
    scene.replica("r");
    let ran = scene.on("r", &["--json", "import", "d"]).expect(5);
    let counts = &ran.json()["problems"]["counts"];
    assert_eq!(counts, &serde_json::json!({ "specialFile": 1 }));
    let names = scene.on("r", &["ls"]).expect(0).stdout;
    assert_eq!(names, "file\nlink -> ../secret.txt\nup -> ..\n");
}

#[test]
fn what_a_link_has_replaced_waits_for_delete_and_a_folder_for_yes() {
    let scene = Scene::offline();
    scene.write("d/file", "x");
    scene.write("d/folder/in", "x");
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    std::fs::remove_file(scene.path("d/file")).unwrap();
    std::fs::remove_dir_all(scene.path("d/folder")).unwrap();
    symlink("elsewhere", scene.path("d/file")).unwrap();
    symlink("elsewhere", scene.path("d/folder")).unwrap();
    scene.on("r", &["import", "d"]).expect(5).says("a file in the tree is a link");
    scene.on("r", &["cat", "/file"]).expect(0).says("x");
    scene.on("r", &["import", "--delete", "d"]).expect(5).says("deleted: 1").says("--yes");
    scene.on("r", &["cat", "/folder/in"]).expect(0).says("x");
    scene.on("r", &["import", "--delete", "--yes", "d"]).expect(0).says("deleted: 2");
    let names = scene.on("r", &["ls"]).expect(0).stdout;
    assert_eq!(names, "file -> elsewhere\nfolder -> elsewhere\n");
}

#[test]
fn a_content_makes_a_file_of_a_link_and_an_export_replaces_it() {
    let scene = Scene::offline();
    scene.write("d/s/file", "x");
    symlink("s/file", scene.path("d/link")).unwrap();
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    scene.on("r", &["export", "out"]).expect(0);
    scene.on("r", &["cp", "/link", "/copy"]).expect(0);
    scene.write("new", "new");
    scene.on("r", &["put", "new", "/link"]).expect(0);
    scene.on("r", &["export", "out", "--delete"]).expect(0);
    assert_eq!(scene.read("out/link"), "new");
    assert!(scene.path("out/link").symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read_link(scene.path("out/copy")).unwrap().to_str(), Some("s/file"));
    assert_eq!(scene.read("d/s/file"), "x");
}

#[test]
fn a_file_that_became_a_folder_waits_for_delete() {
    let scene = Scene::offline();
    scene.write("d/thing", "a file");
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    std::fs::remove_file(scene.path("d/thing")).unwrap();
    scene.write("d/thing/inside", "now a folder");
    scene.on("r", &["import", "d"]).expect(5).says("--delete");
    scene.on("r", &["cat", "/thing"]).expect(0).says("a file");
    scene.on("r", &["import", "--delete", "d"]).expect(0);
    scene.on("r", &["cat", "/thing/inside"]).expect(0).says("now a folder");
}

#[test]
fn the_replica_is_not_imported_into_itself() {
    let scene = Scene::offline();
    scene.write("d/file", "x");
    scene.replica("d/replica");
    scene.on("d/replica", &["import", "d"]).expect(0).says("ownReplica");
    assert_eq!(scene.on("d/replica", &["ls"]).expect(0).stdout, "file\n");
}

#[test]
fn names_cannot_control_a_terminal() {
    let scene = Scene::offline();
    furnish(&scene);
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    let commands: [&[&str]; 6] =
        [&["ls"], &["ls", "-l"], &["tree"], &["queue"], &["--json", "ls"], &["--json", "tree"]];
    for command in commands {
        let ran = scene.on("r", command).expect(0);
        let harmless = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
        assert!(ran.stdout.chars().all(harmless) && ran.stderr.chars().all(harmless), "{ran:?}");
    }
    let json = scene.on("r", &["--json", "ls"]).json();
    let names: Vec<_> = json["entries"].as_array().unwrap().iter().map(|e| &e["name"]).collect();
    assert!(names.iter().any(|name| *name == "odd \u{1b}[31m\u{202e}\n"), "{names:?}");
}

#[test]
fn an_export_overwrites_nothing_unless_told_to() {
    let scene = Scene::offline();
    scene.write("d/a", "from the tree");
    scene.write("d/b/c", "from the tree");
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    scene.write("out/a", "mine");
    scene.write("out/b", "a file where a folder goes");
    scene.write("out/extra", "mine too");
    scene.on("r", &["export", "out"]).expect(5).says("--force");
    assert_eq!((scene.read("out/a"), scene.read("out/extra")), ("mine".into(), "mine too".into()));
    scene.on("r", &["export", "--force", "out"]).expect(5).says("conflictedCopy");
    assert_eq!(scene.read("out/a"), "from the tree");
    assert_eq!(scene.read("out/b/c"), "from the tree");
    scene.on("r", &["export", "--force", "--delete", "out"]).expect(5).says("kept: extra");
    assert_eq!(scene.read("out/extra"), "mine too", "it never was in the tree");
    let kept = |stem: &str| {
        let names =
            std::fs::read_dir(scene.path("out")).unwrap().map(|one| one.unwrap().file_name());
        let mut names = names.map(|name| name.into_string().unwrap());
        let name = names.find(|name| name.starts_with(&format!("{stem} (conflict ")));
        scene.read(&format!("out/{}", name.unwrap()))
    };
    assert_eq!(kept("a"), "mine");
    assert_eq!(kept("b"), "a file where a folder goes");
}

#[test]
fn an_export_follows_no_link_out_of_its_folder() {
    let scene = Scene::offline();
    scene.write("d/folder/file", "from the tree");
    scene.write("d/plain", "from the tree");
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    scene.write("elsewhere/precious", "precious");
    std::fs::create_dir(scene.path("out")).unwrap();
    symlink("../elsewhere", scene.path("out/folder")).unwrap();
    symlink("../elsewhere/precious", scene.path("out/plain")).unwrap();
    scene.on("r", &["export", "out"]).expect(5).says("symbolicLink");
    scene.on("r", &["export", "--force", "out"]).expect(5).says("symbolicLink");
    assert_eq!(scene.read("elsewhere/precious"), "precious");
    assert!(!scene.path("elsewhere/file").exists());
    let plain = scene.path("out/plain").symlink_metadata().unwrap();
    assert!(plain.is_file(), "the link itself was replaced");
    scene.on("r", &["export", "--force", "--delete", "out"]).expect(5);
    assert_eq!(scene.read("elsewhere/precious"), "precious");
}

#[test]
fn an_export_cleans_up_after_one_that_was_killed() {
    let scene = Scene::offline();
    scene.write("d/a", "x");
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    scene.write(&format!("out/.vfs-sync-tmp-{}", "0".repeat(32)), "half");
    scene.on("r", &["export", "out"]).expect(0);
    assert_eq!(tree_of(&scene.path("out")), tree_of(&scene.path("d")));
}

#[test]
fn an_export_never_touches_the_replica_that_it_reads() {
    let scene = Scene::offline();
    scene.write("d/replica.db", "a name of ours");
    scene.replica("home/r");
    let on = |args: &[&str]| scene.on("home/r", args);
    on(&["import", "d"]).expect(0);
    for inside in ["home/r", "home/r/contents", "home/r/new"] {
        on(&["export", "--force", "--delete", inside]).expect(1).says("own files");
    }
    scene.write("home/other", "x");
    for around in ["home", "."] {
        on(&["export", "--force", "--delete", around]).says("ownReplica");
        on(&["cat", "/replica.db"]).expect(0).says("a name of ours");
    }
    assert!(scene.path("home/other").exists());
    on(&["mkdir", "/home"]).expect(0);
    on(&["mkdir", "/home/r"]).expect(0);
    on(&["put", "home/replica.db", "/home/r"]).expect(0);
    on(&["export", "--force", "--delete", "."]).expect(5).says("ownReplica");
    on(&["ls", "/home/r"]).expect(0).says("replica.db");
}

#[test]
fn a_file_that_only_looks_like_work_in_progress_is_somebodys_own() {
    let scene = Scene::offline();
    scene.write("d/.vfs-sync-tmp-notes", "mine");
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    scene.write("out/.vfs-sync-tmp-other", "theirs");
    for _ in 0..2 {
        scene.on("r", &["export", "out"]).expect(0);
        assert_eq!(scene.read("out/.vfs-sync-tmp-notes"), "mine");
        assert_eq!(scene.read("out/.vfs-sync-tmp-other"), "theirs");
    }
    let taken = format!("/.vfs-sync-tmp-{}", "0".repeat(32));
    scene.on("r", &["mkdir", &taken]).expect(0);
    scene.on("r", &["export", "out"]).expect(5).says("reserved");
}

#[test]
fn two_items_of_one_name_become_two_files() {
    let scene = Scene::offline();
    scene.replica("r");
    scene.run_with_input(&["--replica", "r", "put", "-", "/a.txt"], b"first").expect(0);
    scene.run_with_input(&["--replica", "r", "put", "-", "/b.txt"], b"second").expect(0);
    scene.on("r", &["mkdir", "/f"]).expect(0);
    scene.on("r", &["mv", "/a.txt", "/f/same.txt"]).expect(0);
    // Hung beside it and renamed, which the tree allows: another replica might have done it.
    scene.on("r", &["mv", "/b.txt", "/f"]).expect(0);
    scene.on("r", &["mv", "/f/b.txt", "/f/same.txt"]).expect(1).says("already");
}

#[test]
fn a_tree_is_edited_by_paths() {
    let scene = Scene::offline();
    scene.write("report.txt", "draft");
    scene.replica("r");
    let on = |args: &[&str]| scene.on("r", args);
    on(&["mkdir", "-p", "/documents/2024/summer", "/album"]).expect(0);
    on(&["put", "report.txt", "/documents"]).expect(0).says("/documents/report.txt");
    on(&["cp", "/documents/report.txt", "/documents/copy.txt"]).expect(0);
    on(&["mv", "/documents/report.txt", "/documents/2024"]).expect(0);
    on(&["ln", "/documents/2024/report.txt", "/album"]).expect(0);
    let places = on(&["--json", "stat", "/album/report.txt"]).json()["places"].clone();
    assert_eq!(places.as_array().unwrap().len(), 2);
    scene.write("report.txt", "final");
    on(&["put", "report.txt", "/documents/2024/report.txt"]).expect(0);
    on(&["cat", "/album/report.txt"]).expect(0).says("final");
    on(&["cat", "/documents/copy.txt"]).expect(0).says("draft");
    on(&["ln", "--remove", "/documents/2024/report.txt", "/album"]).expect(0);
    on(&["stat", "/album/report.txt"]).expect(1);
    on(&["mv", "/documents", "/documents/2024"]).expect(1).says("into itself");
    on(&["rm", "/documents"]).expect(1).says("--recursive");
    on(&["get", "/documents/copy.txt", "local.txt"]).expect(0);
    assert_eq!(scene.read("local.txt"), "draft");
    on(&["get", "/documents/copy.txt", "local.txt"]).expect(1).says("--force");
    on(&["rm", "-r", "/documents", "/album"]).expect(0);
    assert_eq!(on(&["--json", "ls"]).json()["entries"].as_array().unwrap().len(), 0);
}

#[test]
fn a_folder_that_is_met_again_refers_to_where_its_contents_are_shown() {
    let scene = Scene::offline();
    scene.write("f", "x");
    scene.replica("r");
    let on = |args: &[&str]| scene.on("r", args);
    on(&["mkdir", "-p", "/a/shared/inner", "/b/empty"]).expect(0);
    on(&["put", "f", "/a/shared/inner/f"]).expect(0);
    on(&["ln", "/a/shared", "/b"]).expect(0);
    on(&["ln", "/b/empty", "/a"]).expect(0);
    on(&["ln", "/a/shared/inner/f", "/b"]).expect(0);
    let shown = on(&["tree"]).expect(0).stdout;
    // Of an empty folder and of a file nothing is left out where they are met again.
    let expected = "a/\n  empty/\n  shared/\n    inner/\n      f\n\
                    b/\n  empty/\n  f\n  shared/ (see /a/shared)\n";
    assert_eq!(shown, expected);
    let entries = on(&["--json", "tree"]).expect(0).json()["entries"].clone();
    for entry in entries.as_array().unwrap() {
        let again = if entry["path"] == "b/shared" { Some("a/shared") } else { None };
        assert_eq!(entry["linkedAgain"].as_str(), again, "{entry}");
    }
    on(&["mkdir", "/c"]).expect(0);
    on(&["mv", "/a", "/c"]).expect(0);
    on(&["ln", "/c/a/shared", "/c"]).expect(0);
    let below = on(&["tree", "/c/"]).expect(0).stdout;
    assert!(below.ends_with("\nshared/ (see /c/a/shared)\n"), "{below}");
}

#[test]
fn a_state_that_is_exported_can_be_hydrated_and_redacted() {
    let scene = Scene::offline();
    scene.replica("r");
    scene.on("r", &["mkdir", "/private name"]).expect(0);
    let state = scene.on("r", &["state", "export"]).expect(0).stdout;
    scene.write("state.json", &state);
    let redacted = scene.on("r", &["state", "export", "--redact"]).expect(0).stdout;
    assert!(state.contains("private name") && !redacted.contains("private name"));
    let hydrate = ["state", "hydrate", "state.json", "--server", scene.url(), "--user", "alice"];
    scene.on("fresh", &hydrate).expect(0).says("1 queued");
    assert_eq!(scene.on("fresh", &["state", "export"]).expect(0).stdout, state);
    for (broken, says) in [
        ("", "is not JSON"),
        ("PNG\u{0}", "is not JSON"),
        (&state[..state.len() / 2], "is not JSON"),
        ("[]", "is not an object"),
        ("{}", "format"),
        (&state.replacen("\"version\":1", "\"version\":2", 1), "version"),
        (&state.replacen("\"clientId\"", "\"client\"", 1), "clientId"),
    ] {
        scene.write("broken.json", broken);
        let hydrate = ["state", "hydrate", "broken.json", "--server", scene.url()];
        let refused = scene.on("other", &hydrate).expect(3).says(says);
        refused.says("hydrate:hydrateGuardrailViolation");
    }
    // What the state's head does not show is found while it is taken over.
    scene.write("late.json", state.replacen("item_upsert", "item_upturn", 1));
    scene.write("kept/mine.txt", "mine");
    let before = tree_of(scene.dir.path());
    for place in ["new/deep/replica", "kept"] {
        let late = ["state", "hydrate", "late.json", "--server", scene.url(), "--user", "alice"];
        scene.on(place, &late).expect(3).says("hydrate:hydrateGuardrailViolation");
        assert_eq!(
            tree_of(scene.dir.path()),
            before,
            "a refused state leaves everything as it was"
        );
    }
    scene.on("kept", &hydrate).expect(0).says("1 queued");
}

#[test]
fn a_signal_ends_a_wait_for_standard_input() {
    use std::io::Write as _;
    let scene = Scene::offline();
    scene.replica("r");
    let mut command = scene.command();
    command.args(["--replica", "r", "put", "-", "/f"]).stdin(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    // More than a pipe holds: once it is written, somebody reads.
    child.stdin.as_ref().unwrap().write_all(&[0; 1_000_000]).unwrap();
    crate::support::signal(&child, "INT");
    let mut input = child.stdin.take().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(input.write_all(b"more").is_err(), "nobody reads on");
    scene.on("r", &["stat", "/f"]).expect(1);
}

#[test]
fn an_import_that_is_stopped_or_killed_goes_on_where_it_was() {
    let scene = Scene::offline();
    for number in 0..1_000 {
        scene.write(&format!("d/{}/{number}", number % 50), number.to_string());
    }
    scene.replica("r");
    for name in ["INT", "KILL", "TERM"] {
        let mut command = scene.command();
        let mut child = command.args(["--replica", "r", "-q", "import", "d"]).spawn().unwrap();
        // Until some of it is there, or all.
        let items = || {
            let mut status = scene.command();
            status.args(["--replica", "r", "--json", "ls"]);
            status.output().is_ok_and(|output| !output.stdout.is_empty())
        };
        while child.try_wait().unwrap().is_none() && !scene.path("r/contents/drafts/20").exists() {
            std::thread::yield_now();
        }
        if child.try_wait().unwrap().is_none() {
            crate::support::signal(&child, name);
        }
        let status = child.wait().unwrap();
        let expected = [Some(130), Some(0), None];
        assert!(expected.contains(&status.code()), "{status:?}");
        assert!(items(), "the replica opens again");
    }
    scene.on("r", &["import", "d"]).expect(0);
    scene.on("r", &["export", "out"]).expect(0);
    assert_eq!(tree_of(&scene.path("out")), tree_of(&scene.path("d")));
}

#[test]
fn an_export_that_is_stopped_or_killed_goes_on_where_it_was() {
    let scene = Scene::offline();
    for number in 0..600 {
        scene.write(&format!("d/{}/{number}", number % 20), number.to_string());
    }
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    for name in ["INT", "KILL", "TERM"] {
        let mut command = scene.command();
        let mut child = command.args(["--replica", "r", "-q", "export", "out"]).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && !scene.path("out/3").exists() {
            std::thread::yield_now();
        }
        if child.try_wait().unwrap().is_none() {
            crate::support::signal(&child, name);
        }
        let code = child.wait().unwrap().code();
        assert!([Some(130), Some(0), None].contains(&code), "{code:?}");
    }
    scene.on("r", &["export", "out"]).expect(0);
    assert_eq!(tree_of(&scene.path("out")), tree_of(&scene.path("d")));
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let scene = Scene::offline();
    scene.write("d/file", "x");
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    for args in [&["tree"][..], &["cat", "/file"], &["--json", "ls"], &["state", "export"]] {
        let mut command = scene.command();
        command.args(["--replica", "r"]).args(args);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!([Some(0), Some(141)].contains(&output.status.code()), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn one_command_at_a_time_works_on_a_replica() {
    let scene = Scene::offline();
    scene.write("d/file", "x");
    scene.replica("r");
    let mut command = scene.command();
    command.args(["--replica", "r", "put", "-", "/slow"]);
    let mut slow = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let drafts = scene.path("r/contents/drafts");
    while drafts.read_dir().map_or(0, Iterator::count) == 0 {
        std::thread::yield_now();
    }
    scene.on("r", &["ls"]).expect(1).says("in use");
    drop(slow.stdin.take());
    assert!(slow.wait().unwrap().success());
    scene.on("r", &["stat", "/slow"]).expect(0);
}

#[test]
fn an_export_reports_what_hangs_under_a_file() {
    let scene = Scene::offline();
    scene.write("d/a.txt", "a");
    scene.replica("r");
    scene.on("r", &["import", "d"]).expect(0);
    let nowhere = HttpConfig::new("http://127.0.0.1:1");
    let transport = HttpTransport::new(nowhere, StaticToken::new("none")).unwrap();
    let config = ClientConfig::default();
    let client =
        SyncClient::builder(Arc::new(transport)).config(config).open(scene.path("r")).unwrap();
    let file = client.resolve("a.txt").unwrap().id;
    client.create_file(Some(&file), Name::new("under").unwrap()).unwrap();
    drop(client);
    let report = scene.on("r", &["--json", "export", "out"]).expect(5).json();
    assert!(report.to_string().contains("a.txt/under"), "{report}");
    assert_eq!(tree_of(&scene.path("out")), tree_of(&scene.path("d")));
}
