//! Sharing by the built binary: `share`, `unshare`, `shares`, `shared-with-me`, `group`, and what
//! the other commands make of what somebody else owns.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use crate::support::{Ran, Scene, signal};
use serde_json::{Value, json};

/// Alice and bob, and alice's folder `docs` with `deep/plan.txt` in it, which is on the server.
fn scene() -> Scene {
    let scene = Scene::with_server();
    scene.replica_of("alice");
    scene.replica_of("bob");
    scene.write("files/docs/deep/plan.txt", "the plan");
    alice(&scene, &["import", "files"]);
    alice(&scene, &["sync"]);
    bob(&scene, &["mkdir", "/own"]);
    bob(&scene, &["sync"]);
    scene
}

fn alice(scene: &Scene, args: &[&str]) -> Ran {
    scene.on("alice", args).expect(0)
}

fn bob(scene: &Scene, args: &[&str]) -> Ran {
    scene.on("bob", args).expect(0)
}

fn shared(level: &str) -> Scene {
    let scene = scene();
    alice(&scene, &["share", "/docs", "bob", level]).says("/docs is shared with user:bob");
    alice(&scene, &["sync"]);
    bob(&scene, &["sync"]).says("shared with you by alice: shared:alice/docs (");
    scene
}

fn names(list: &Value) -> Vec<String> {
    let entries = list["entries"].as_array().unwrap();
    entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_share_is_seen_listed_and_revoked() {
    let scene = shared("write");
    bob(&scene, &["cat", "shared:alice/docs/deep/plan.txt"]).says("the plan");
    let mine = bob(&scene, &["--json", "shared-with-me"]).json();
    assert_eq!(names(&mine), ["docs"]);
    assert_eq!(mine["entries"][0]["owner"], "alice");
    assert_eq!(mine["entries"][0]["accessLevel"], "write");
    assert_eq!(mine["entries"][0]["path"], "shared:alice/docs");
    bob(&scene, &["shared-with-me"]).says("alice  write  shared:alice/docs/");
    bob(&scene, &["ls", "-l", "shared:alice"]).says("alice  write");
    assert_eq!(bob(&scene, &["ls", "shared:"]).stdout, "alice/\n");
    assert_eq!(bob(&scene, &["ls"]).stdout, "own/\n", "it is no part of one's own tree");
    let tree = bob(&scene, &["tree", "shared:"]).stdout;
    assert_eq!(tree, "alice/\n  docs/\n    deep/\n      plan.txt\n");
    let inside = bob(&scene, &["--json", "stat", "shared:alice/docs"]).json();
    assert_eq!(inside["places"], json!(["shared:alice"]));
    bob(&scene, &["stat", "shared:alice/docs"]).says("shared with  user:bob: write");

    let all = alice(&scene, &["--json", "shares"]).json();
    let grant = json!({
        "principalType": "user", "principalId": "bob", "accessLevel": "write", "pending": false,
    });
    assert_eq!(all["shares"][0]["path"], "/docs");
    assert_eq!(all["shares"][0]["grants"], json!([grant]));
    let plan = alice(&scene, &["--json", "shares", "/docs/deep/plan.txt"]).json();
    assert_eq!(plan["grants"], json!([]));
    let readers = plan["readers"].as_array().unwrap();
    assert_eq!(
        (&readers[0]["principalId"], &readers[0]["through"]),
        (&json!("alice"), &json!(null))
    );
    assert_eq!(
        (&readers[1]["principalId"], &readers[1]["through"]),
        (&json!("bob"), &json!("/docs"))
    );
    alice(&scene, &["shares", "/docs"]).says("user:alice  admin  owner");

    scene
        .on("alice", &["unshare", "/docs/deep", "bob"])
        .expect(1)
        .says("is not shared with user:bob itself")
        .says("a grant on /docs");
    alice(&scene, &["unshare", "/docs", "bob"]);
    alice(&scene, &["sync"]);
    bob(&scene, &["sync"]).says("no longer shared with you");
    assert_eq!(names(&bob(&scene, &["--json", "ls"]).json()), ["own"]);
    alice(&scene, &["shares"]).says("nothing is shared");
}

#[test]
fn sharing_warns_of_somebody_whom_nobody_has_seen_and_works_offline() {
    let mut scene = scene();
    let warned = alice(&scene, &["share", "/docs", "bbo", "read"]);
    assert!(warned.stderr.contains("the server does not know user:bbo"), "{warned:?}");
    let known = alice(&scene, &["--json", "share", "/docs", "bob", "read"]).json();
    assert_eq!(known["known"], true);
    assert_eq!(alice(&scene, &["share", "/docs", "bob", "write"]).stderr, "");
    scene.stop_server();
    let offline = alice(&scene, &["--json", "share", "/docs", "organization:acme", "admin"]).json();
    assert_eq!(offline["known"], Value::Null);
    assert_eq!(offline["grant"]["principalType"], "organization");
    alice(&scene, &["shares"]).says("organization:acme  admin");
}

#[test]
fn what_makes_no_sense_to_share_is_refused_with_the_next_step() {
    let scene = shared("read");
    let on_bob = |args: &[&str], code| scene.on("bob", args).expect(code);
    on_bob(&["share", "shared:alice/docs", "carol", "read"], 1)
        .says("shared:alice/docs is in alice's tree: this needs admin");
    on_bob(&["share", "shared:alice/docs", "carol", "own"], 2).says("LEVEL");
    on_bob(&["share", "shared:alice/docs", "group:", "read"], 2).says("must not be empty");
    on_bob(&["share", "/", "carol", "read"], 2).says("the top of the tree is not an item");
    on_bob(&["share", "/own", "bob", "read"], 1).says("bob owns it already");
    on_bob(&["unshare", "/own", "carol"], 1).says("vfs-sync shares '/own'");
    on_bob(&["mkdir", "shared:alice/docs/new"], 1)
        .says("shared:alice/docs is in alice's tree: this needs write access, and you have read")
        .says("vfs-sync shares 'shared:alice/docs'");
    scene.write("note.txt", "x");
    on_bob(&["put", "note.txt", "shared:alice/docs"], 1).says("this needs write");
    on_bob(&["put", "note.txt", "shared:alice/docs/deep/plan.txt"], 1)
        .says("shared:alice/docs/deep/plan.txt is in alice's");
    on_bob(&["ln", "/own", "shared:alice/docs"], 1).says("this needs write");
    on_bob(&["mv", "shared:alice/docs/deep/plan.txt", "shared:alice/docs/deep/new.txt"], 1)
        .says("this needs write");
    on_bob(&["rm", "-r", "shared:alice/docs"], 1)
        .says("alice's tree")
        .says("vfs-sync shares decline 'shared:alice/docs'");
    bob(&scene, &["unshare", "shared:alice/docs", "user:bob"]);
    bob(&scene, &["sync"]);
    assert_eq!(names(&bob(&scene, &["--json", "ls"]).json()), ["own"]);
}

#[test]
fn a_move_between_trees_copies_and_deletes_and_says_so() {
    let scene = shared("admin");
    bob(&scene, &["mv", "shared:alice/docs/deep", "/own"])
        .says("shared:alice/docs/deep copied to /own/deep and deleted in alice's tree");
    bob(&scene, &["sync"]);
    alice(&scene, &["sync"]);
    assert_eq!(names(&alice(&scene, &["--json", "ls", "/docs"]).json()), [""; 0]);
    bob(&scene, &["cat", "/own/deep/plan.txt"]).says("the plan");
    let back = bob(&scene, &["--json", "mv", "/own/deep/plan.txt", "shared:alice/docs"]).json();
    assert_eq!(
        (&back["copied"], &back["path"]),
        (&json!(true), &json!("shared:alice/docs/plan.txt"))
    );
    let renamed =
        bob(&scene, &["--json", "mv", "shared:alice/docs/plan.txt", "shared:alice/docs/new.txt"])
            .json();
    assert_eq!(renamed["copied"], false);

    let scene = shared("write");
    scene
        .on("bob", &["mv", "shared:alice/docs", "/own"])
        .expect(1)
        .says("deleting needs admin on it, or write on all folders that it is in; you have write")
        .says("vfs-sync cp");
    bob(&scene, &["cp", "shared:alice/docs/deep", "/own"]);
    bob(&scene, &["cat", "/own/deep/plan.txt"]).says("the plan");
}

#[test]
fn whoever_may_write_in_a_shared_folder_may_delete_in_it_and_not_the_folder() {
    let scene = shared("write");
    scene
        .on("bob", &["rm", "-r", "shared:alice/docs"])
        .expect(1)
        .says("deleting needs admin on it, or write on all folders that it is in; you have write");
    bob(&scene, &["mv", "shared:alice/docs/deep/plan.txt", "/own"]).says("deleted in alice's tree");
    bob(&scene, &["rm", "-r", "shared:alice/docs/deep"]).says("deleted shared:alice/docs/deep");
    bob(&scene, &["sync"]).says("0 rejected");
    alice(&scene, &["sync"]);
    assert_eq!(names(&alice(&scene, &["--json", "ls", "/docs"]).json()), [""; 0]);
    assert_eq!(bob(&scene, &["cat", "/own/plan.txt"]).stdout, "the plan");
}

#[test]
fn a_shortcut_is_moved_and_removed_without_what_it_leads_to() {
    let scene = shared("read");
    bob(&scene, &["ln", "shared:alice/docs", "/own"]);
    bob(&scene, &["tree"]).says("docs@");
    bob(&scene, &["cat", "/own/docs/deep/plan.txt"]).says("the plan");
    bob(&scene, &["mkdir", "/other"]);
    bob(&scene, &["mv", "/own/docs", "/other"]).says("/own/docs -> /other/docs");
    scene
        .on("bob", &["mv", "/other/docs", "/"])
        .expect(1)
        .says("is a shortcut: only a folder can contain it");
    scene.on("bob", &["mv", "/other/docs", "/own/name"]).expect(1).says("the name of its target");
    let removed = bob(&scene, &["--json", "rm", "-r", "/other/docs"]).json();
    assert_eq!(removed, json!({"deleted": 0, "unlinked": 1}));
    bob(&scene, &["sync"]);
    assert_eq!(names(&bob(&scene, &["--json", "ls"]).json()), ["other", "own"]);
    assert_eq!(names(&bob(&scene, &["--json", "ls", "shared:alice"]).json()), ["docs"]);
    assert_eq!(names(&bob(&scene, &["--json", "ls", "/other"]).json()), [""; 0]);
}

#[test]
fn administrators_keep_groups_and_members_see_what_is_shared_with_them() {
    let scene = scene();
    let token = scene.run(["token", "--user", "root", "--scope", "vfs:admin"]).expect(0).stdout;
    scene.write("root.token", token);
    let admin = |args: &[&str]| {
        let server = ["--server", scene.url(), "--token-file", "root.token"];
        scene.run(["--json", "group"].iter().chain(args).chain(&server)).expect(0).json()
    };
    let added = admin(&["add", "eng", "bob"]);
    assert_eq!((&added["principalType"], &added["member"]), (&json!("group"), &json!(true)));
    admin(&["add", "--organization", "acme", "bob"]);
    assert_eq!(admin(&["members", "eng"])["members"], json!(["bob"]));
    let mine = bob(&scene, &["group", "mine"]);
    assert_eq!(mine.stdout, "group:eng\norganization:acme\n");

    alice(&scene, &["share", "/docs", "group:eng", "read"]);
    alice(&scene, &["sync"]);
    bob(&scene, &["sync"]).says("shared with you by alice: shared:alice/docs");
    admin(&["remove", "eng", "bob"]);
    assert_eq!(admin(&["members", "eng"])["members"], json!([]));
    bob(&scene, &["sync"]).says("no longer shared with you");

    let refused = scene.on("bob", &["--json", "group", "add", "eng", "bob"]).expect(4);
    assert!(refused.stderr.contains("vfs:admin"), "{refused:?}");
    scene.run(["--replica", "none", "group", "mine"]).expect(1).says("--server");
}

#[test]
fn an_import_deletes_nothing_that_others_share_and_reports_what_it_may_not_change() {
    let scene = shared("read");
    bob(&scene, &["ln", "shared:alice/docs", "/own"]);
    scene.write("mine/own/note.txt", "mine");
    let import = ["--json", "import", "mine", "--delete"];
    let report = bob(&scene, &import).json();
    assert_eq!((&report["deleted"], &report["filesCreated"]), (&json!(0), &json!(1)));
    assert_eq!(names(&bob(&scene, &["--json", "ls", "shared:alice"]).json()), ["docs"]);
    assert_eq!(names(&bob(&scene, &["--json", "ls", "/own"]).json()), ["docs", "note.txt"]);

    scene.write("mine/docs/deep/plan.txt", "bob's plan");
    scene.write("mine/docs/new.txt", "new");
    scene.write("mine/own/docs/x.txt", "x");
    let report = scene.on("bob", &import).expect(5).json();
    let problems = report["problems"]["first"].as_array().unwrap();
    let problems: Vec<_> = problems.iter().map(|one| (&one["path"], &one["kind"])).collect();
    assert_eq!(problems, [(&json!("own/docs"), &json!("shortcut"))]);
    let into = ["--json", "import", "mine/docs", "shared:alice/docs"];
    let report = scene.on("bob", &into).expect(5).json();
    let problems = report["problems"]["first"].as_array().unwrap();
    let mut problems: Vec<_> = problems.iter().map(|one| (&one["path"], &one["kind"])).collect();
    problems.retain(|(path, _)| *path != "" && *path != "deep");
    let denied = json!("notPermitted");
    let paths = [json!("new.txt"), json!("deep/plan.txt")];
    assert_eq!(problems, [(&paths[0], &denied), (&paths[1], &denied)]);
    bob(&scene, &["sync"]);
    alice(&scene, &["sync"]);
    assert_eq!(alice(&scene, &["cat", "/docs/deep/plan.txt"]).stdout, "the plan");
    assert_eq!(bob(&scene, &["cat", "/docs/deep/plan.txt"]).stdout, "bob's plan");

    let report = scene.on("bob", &["--json", "export", "out"]).expect(5).json();
    assert_eq!(report["problems"]["counts"], json!({"shortcut": 1}));
    assert_eq!(scene.read("out/docs/deep/plan.txt"), "bob's plan");
    bob(&scene, &["--json", "export", "theirs", "shared:alice/docs"]);
    assert_eq!(scene.read("theirs/deep/plan.txt"), "the plan");
}

#[test]
fn what_others_share_is_met_where_it_is_named_and_nowhere_else() {
    let scene = shared("admin");
    let refused = |args: &[&str], code, says: &str| {
        scene.on("bob", args).expect(code).says(says);
    };
    refused(&["cat", "/docs/deep/plan.txt"], 1, "did you mean shared:alice/docs/deep/plan.txt?");
    refused(&["ls", "shared:carol"], 1, "carol shares nothing with you");
    refused(&["ls", "shared:alice/nothing"], 1, "see `vfs-sync ls 'shared:alice'`");
    refused(&["stat", "shared:alice"], 2, "is not an item");
    scene.write("note.txt", "x");
    for place in ["shared:alice", "shared:"] {
        refused(&["put", "note.txt", place], 2, "name a folder in it");
        refused(&["cp", "/own", place], 2, "name a folder in it");
        refused(&["mv", "/own", place], 2, "name a folder in it");
        refused(&["import", ".", place], 2, "name a folder in it");
        refused(&["export", "out", place], 2, "name a folder in it");
        refused(&["mkdir", place], 2, "name a folder in it");
        refused(&["mkdir", "-p", place], 2, "name a folder in it");
    }
    assert!(!scene.path("out").exists());
    for args in [&["mkdir", "shared:alice/new"][..], &["mkdir", "-p", "shared:alice/new/x"]] {
        refused(args, 2, "name a folder in it");
    }
    refused(&["put", "note.txt", "shared:carol/x"], 1, "carol shares nothing");
    assert_eq!(names(&bob(&scene, &["--json", "ls"]).json()), ["own"]);
    bob(&scene, &["mkdir", "/docs"]);
    bob(&scene, &["put", "note.txt", "/docs"]);
    bob(&scene, &["mv", "shared:alice/docs", "shared:alice/papers"])
        .says("shared:alice/docs -> shared:alice/papers");
    bob(&scene, &["sync"]);
    alice(&scene, &["sync"]);
    let names_of = |at: &str| names(&alice(&scene, &["--json", "ls", at]).json());
    assert_eq!((names_of("/"), names_of("/papers")), (vec!["papers".into()], vec!["deep".into()]));
}

#[test]
fn nothing_is_written_through_a_shortcut_that_somebody_else_may_have_made() {
    let scene = shared("write");
    alice(&scene, &["mkdir", "/team"]);
    alice(&scene, &["share", "/team", "bob", "write"]);
    alice(&scene, &["sync"]);
    // Bob shares a folder of a likely name, and puts it where alice works.
    bob(&scene, &["mkdir", "/Documents"]);
    bob(&scene, &["share", "/Documents", "alice", "write"]);
    bob(&scene, &["sync"]);
    bob(&scene, &["ln", "/Documents", "shared:alice/team"]);
    bob(&scene, &["sync"]);
    alice(&scene, &["sync"]);
    alice(&scene, &["ls", "/team"]).says("Documents@");
    scene.write("salary.txt", "1");
    scene.write("dir/salary.txt", "1");
    for args in [
        &["put", "salary.txt", "/team/Documents"][..],
        &["put", "salary.txt", "/team/Documents/salary.txt"],
        &["mkdir", "/team/Documents/new"],
        &["mkdir", "-p", "/team/Documents/new/er"],
        &["cp", "/docs/deep", "/team/Documents"],
        &["mv", "/docs/deep", "/team/Documents/deep"],
        &["import", "dir", "/team/Documents"],
    ] {
        scene
            .on("alice", args)
            .expect(1)
            .says("a shortcut into bob's tree")
            .says("name it 'shared:bob/Documents'");
    }
    let report = scene.on("alice", &["--json", "import", "dir", "/team"]).expect(0).json();
    assert_eq!(report["filesCreated"], 1);
    alice(&scene, &["put", "salary.txt", "shared:bob/Documents"]);
    // One's own, where nobody else writes, is a way like any other.
    bob(&scene, &["mkdir", "/mine"]);
    bob(&scene, &["ln", "shared:alice/docs", "/mine"]);
    bob(&scene, &["put", "salary.txt", "/mine/docs/deep"]);
    bob(&scene, &["rm", "/mine/docs"]).says("removed the shortcut /mine/docs");
}

#[test]
fn a_directory_is_imported_into_what_somebody_shares() {
    let scene = shared("write");
    scene.write("mine/docs/deep/plan.txt", "bob's plan");
    scene.write("mine/docs/new/note.txt", "a note");
    let report =
        scene.on("bob", &["--json", "import", "mine/docs", "shared:alice/docs", "--delete"]).json();
    assert_eq!((&report["filesCreated"], &report["contentsChanged"]), (&json!(2), &json!(0)));
    let copy = report["conflicts"]["first"][0]["copy"].as_str().unwrap().to_owned();
    bob(&scene, &["sync"]);
    alice(&scene, &["sync"]);
    assert_eq!(alice(&scene, &["cat", "/docs/deep/plan.txt"]).stdout, "the plan");
    assert_eq!(alice(&scene, &["cat", &format!("/docs/deep/{copy}")]).stdout, "bob's plan");
    let note = alice(&scene, &["--json", "stat", "/docs/new/note.txt"]).json();
    assert_eq!(note["owner"], "alice");
    std::fs::remove_file(scene.path("mine/docs/deep/plan.txt")).unwrap();
    let import = ["--json", "import", "mine/docs", "shared:alice/docs", "--delete"];
    let report = scene.on("bob", &import).expect(0).json();
    assert_eq!(report["deleted"], 1, "whoever may write in a folder may delete in it");
}

#[test]
fn a_share_by_name_is_declined_and_what_comes_otherwise_is_named() {
    let scene = shared("write");
    let token = scene.run(["token", "--user", "root", "--scope", "vfs:admin"]).expect(0).stdout;
    scene.write("root.token", token);
    let server = ["--server", scene.url(), "--token-file", "root.token"];
    scene.run(["group", "add", "eng", "bob"].iter().chain(&server)).expect(0);
    alice(&scene, &["mkdir", "/team"]);
    alice(&scene, &["share", "/team", "group:eng", "read"]);
    alice(&scene, &["sync"]);
    bob(&scene, &["sync"]);
    scene
        .on("bob", &["shares", "decline", "shared:alice/team"])
        .expect(1)
        .says("is not shared with you by name")
        .says("the grant to group:eng on shared:alice/team");
    scene
        .on("bob", &["shares", "decline", "shared:alice/docs/deep"])
        .expect(1)
        .says("the grant to user:bob on shared:alice/docs");
    scene.on("bob", &["shares", "decline", "/own"]).expect(2).says("is your own");
    bob(&scene, &["shares", "decline", "shared:alice/docs"]).says("declined shared:alice/docs");
    bob(&scene, &["sync"]);
    alice(&scene, &["sync"]);
    assert_eq!(bob(&scene, &["ls", "shared:alice"]).stdout, "team/\n");
    let left = alice(&scene, &["--json", "shares"]).json();
    assert_eq!(left["shares"].as_array().unwrap().len(), 1, "the grant to the group stays: {left}");
}

#[test]
fn a_blocked_owner_shares_in_vain_until_unblocked_and_cannot_tell() {
    let scene = shared("admin");
    let before = alice(&scene, &["--json", "shares", "/docs"]).json();
    assert_eq!(bob(&scene, &["block", "--list"]).stdout, "no users are blocked\n");
    bob(&scene, &["block", "alice"]).says("alice is blocked");
    assert_eq!(bob(&scene, &["block", "--list"]).stdout, "alice\n");
    bob(&scene, &["sync"]).says("no longer shared with you: 3 items");
    assert_eq!(bob(&scene, &["ls", "shared:"]).stdout, "");
    alice(&scene, &["mkdir", "/docs/more"]);
    alice(&scene, &["share", "/docs/more", "bob", "write"]);
    alice(&scene, &["sync"]);
    bob(&scene, &["sync"]);
    assert_eq!(bob(&scene, &["ls", "shared:"]).stdout, "");
    assert_eq!(alice(&scene, &["--json", "shares", "/docs"]).json(), before);
    bob(&scene, &["unblock", "alice"]);
    bob(&scene, &["sync"]).says("shared with you by alice: shared:alice/docs");
    assert_eq!(bob(&scene, &["ls", "shared:alice/docs"]).stdout, "deep/\nmore/\n");
    scene.on("bob", &["block", "bob"]).expect(1).says("another user");
    scene.on("bob", &["block"]).expect(2);
}

#[test]
fn an_owner_is_blocked_while_the_replica_is_watched() {
    let scene = shared("read");
    let mut command = scene.command();
    command.args(["--replica", "bob", "--json", "sync", "--watch", "--interval", "1"]);
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut wait_for = |event: &str| {
        let is_it = |line: std::io::Result<String>| {
            let seen: Value = serde_json::from_str(&line.unwrap()).unwrap();
            seen["event"] == event
        };
        assert!(lines.any(is_it), "{event}");
    };
    alice(&scene, &["mkdir", "/docs/more"]);
    alice(&scene, &["sync"]);
    wait_for("appeared");
    bob(&scene, &["block", "alice"]);
    wait_for("revoked");
    assert_eq!(bob(&scene, &["block", "--list"]).stdout, "alice\n");
    bob(&scene, &["unblock", "alice"]);
    wait_for("shared");
    signal(&watch, "INT");
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

#[test]
fn an_import_deletes_what_its_user_may_delete_and_reports_the_rest() {
    let scene = shared("read");
    alice(&scene, &["share", "/docs/deep", "bob", "write"]);
    alice(&scene, &["sync"]);
    bob(&scene, &["sync"]);
    bob(&scene, &["export", "out", "shared:alice/docs"]);
    std::fs::remove_dir_all(scene.path("out/deep")).unwrap();
    let import = ["import", "--delete", "--yes", "out", "shared:alice/docs"];
    scene.on("bob", &import).expect(5).says("deleted: 1").says("notPermitted: deep");
    bob(&scene, &["sync"]).says("0 rejected");
    alice(&scene, &["sync"]);
    assert_eq!(alice(&scene, &["ls", "/docs"]).stdout, "deep/\n");
    assert_eq!(alice(&scene, &["ls", "/docs/deep"]).stdout, "");

    alice(&scene, &["put", "alice.token", "/docs/deep/new"]);
    alice(&scene, &["share", "/docs", "bob", "write"]);
    alice(&scene, &["sync"]);
    bob(&scene, &["sync"]);
    bob(&scene, &["export", "again", "shared:alice/docs"]);
    std::fs::remove_dir_all(scene.path("again/deep")).unwrap();
    let import = ["import", "--delete", "--yes", "again", "shared:alice/docs"];
    bob(&scene, &import).says("deleted: 2");
    bob(&scene, &["sync"]).says("0 rejected");
    alice(&scene, &["sync"]);
    assert_eq!(alice(&scene, &["ls", "/docs"]).stdout, "");
}

#[test]
fn the_permission_bits_of_others_are_masked_by_the_umask() {
    let scene = shared("read");
    let set = |name: &str, mode| {
        let bits = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(scene.path(name), bits).unwrap();
    };
    scene.write("with/open/file", "for all");
    set("with/open", 0o777);
    set("with/open/file", 0o666);
    alice(&scene, &["import", "with", "/docs/top"]);
    alice(&scene, &["put", "with/open/file", "/docs/file"]);
    alice(&scene, &["sync"]);
    bob(&scene, &["sync"]);
    let mode = |name: &str| scene.path(name).metadata().unwrap().permissions().mode() & 0o777;
    for (user, path, directory, folder, file) in [
        ("bob", "shared:alice/docs", "bobs", 0o750, 0o640),
        ("alice", "/docs", "alices", 0o777, 0o666),
    ] {
        let script = "umask 027; exec \"$0\" --replica \"$1\" export \"$2\" \"$3\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(scene.command().get_program());
        let status = shell.args([user, directory, path]).current_dir(scene.dir.path()).status();
        assert!(status.unwrap().success());
        assert_eq!(mode(&format!("{directory}/top/open")), folder, "{user}");
        assert_eq!(mode(&format!("{directory}/top/open/file")), file, "{user}");
        assert_eq!(mode(&format!("{directory}/file")), file, "{user}");
    }
}
