//! The command line as somebody meets it who makes mistakes.

use crate::support::Scene;

#[test]
fn help_teaches_with_examples_and_is_no_failure() {
    let scene = Scene::offline();
    for args in [&["--help"][..], &["import", "--help"], &["state", "hydrate", "--help"]] {
        let ran = scene.run(args).expect(0);
        assert!(ran.stdout.contains("vfs-sync "), "{}", ran.stdout);
    }
    scene.run(["--help"]).says("Exit codes");
    scene.run(["--version"]).expect(0).says("vfs-sync ");
}

#[test]
fn a_wrong_command_line_is_exit_code_2_and_says_what_is_wrong() {
    let scene = Scene::offline();
    let wrong: [(&[&str], &str); 9] = [
        (&[], "Usage"),
        (&["frobnicate"], "frobnicate"),
        (&["import"], "DIR"),
        (&["serve", "--listen", "nowhere", "--data", "d"], "nowhere"),
        (&["token", "--user", "alice", "--ttl", "soon"], "30d"),
        (&["token", "--user", ""], "empty"),
        (&["completions", "tcsh-ish"], "tcsh-ish"),
        (&["rejected", "retry"], "ID"),
        (&["sync", "--interval", "0", "--watch"], "interval"),
    ];
    for (args, text) in wrong {
        scene.run(args).expect(2).says(text);
    }
}

#[test]
fn a_token_or_secret_file_that_is_none_is_refused_at_once() {
    let scene = Scene::offline();
    scene.write("huge", "x".repeat(70_000));
    let init = ["init", "--server", "http://127.0.0.1:9", "--token-file"];
    for (file, text) in
        [("/dev/zero", "not a regular file"), ("huge", "more than"), ("nowhere", "nowhere")]
    {
        scene.run(init.iter().chain([&file])).expect(2).says(text);
    }
    let mut command = scene.command();
    command.env_remove("VFS_SYNC_JWT_SECRET").env("VFS_SYNC_JWT_SECRET_FILE", "/dev/zero");
    let output = command.args(["token", "--user", "alice"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("VFS_SYNC_JWT_SECRET_FILE"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn what_a_replica_and_a_server_keep_is_for_their_owners_eyes() {
    use std::os::unix::fs::PermissionsExt as _;
    let scene = Scene::offline();
    let mode = |name: &str| scene.path(name).metadata().unwrap().permissions().mode() & 0o777;
    std::fs::create_dir(scene.path("open")).unwrap();
    scene
        .run(["--replica", "open", "init", "--server", "http://127.0.0.1:9", "--user", "alice"])
        .expect(0);
    assert_eq!((mode("open/contents"), mode("open/replica.db")), (0o700, 0o600));
    std::fs::create_dir(scene.path("data")).unwrap();
    scene.run(["migrate", "--data", "data"]).expect(0);
    assert_eq!(mode("data/metadata.sqlite3"), 0o600);
}

#[test]
fn errors_are_json_too() {
    let scene = Scene::offline();
    let ran = scene.run(["--json", "ls"]).expect(1);
    let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "notFound");
    assert!(error["error"]["hint"].as_str().unwrap().contains("init"));
    let ran = scene.run(["--json", "frobnicate"]).expect(2);
    let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "usage");
}

#[test]
fn a_server_without_a_secret_says_how_to_make_one() {
    let scene = Scene::offline();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data", "d"];
    let mut command = scene.command();
    let output = command.env_remove("VFS_SYNC_JWT_SECRET").args(serve).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("VFS_SYNC_JWT_SECRET") && stderr.contains("openssl rand"), "{stderr}");
    let output = scene.command().env("VFS_SYNC_JWT_SECRET", "short").args(serve).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!scene.path("d").exists(), "nothing is made before the configuration is good");
    let mut command = scene.command();
    command.env("VFS_SYNC_DATABASE_URL", "mysql://x").args(serve);
    assert_eq!(command.output().unwrap().status.code(), Some(2));
}

#[test]
fn a_server_that_cannot_listen_leaves_nothing_behind() {
    let scene = Scene::offline();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for listen in [["--listen", &address], ["--admin-listen", &address]] {
        let mut command = scene.command();
        command.env("VFS_SYNC_JWT_SECRET", "x".repeat(32)).args(["serve", "--data", "d"]);
        if listen[0] != "--listen" {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let output = command.args(listen).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("cannot listen on {address}")), "{said}");
        assert!(!scene.path("d").exists());
    }
}

#[test]
fn a_replica_needs_a_server_a_user_and_a_free_directory() {
    let scene = Scene::offline();
    scene.on("r", &["init", "--server", "http://127.0.0.1:9"]).expect(2).says("--token-file");
    let user = |url: &str| scene.on("r", &["init", "--server", url, "--user", "alice"]);
    user("not a url").expect(2).says("http://");
    user("ftp://127.0.0.1").expect(2);
    user("http://127.0.0.1:9").expect(0);
    user("http://127.0.0.1:9").expect(1);
    scene.on("other", &["ls"]).expect(1).says("init");
}

#[test]
fn a_path_that_is_not_there_says_where_to_look() {
    let scene = Scene::offline();
    scene.replica("r");
    scene.on("r", &["mkdir", "/photos"]).expect(0);
    scene.on("r", &["stat", "/photos/beach.jpg"]).expect(1).says("vfs-sync ls '/photos'");
    scene.on("r", &["stat", "/nope"]).expect(1).says("vfs-sync ls '/'");
    scene.on("r", &["stat", "/nope/deeper/still"]).expect(1).says("vfs-sync ls '/'");
    scene.on("r", &["cat", "/photos"]).expect(1).says("is a folder");
    scene.on("r", &["mkdir", "/photos"]).expect(1).says("--parents");
    scene.on("r", &["mkdir", "/photos/.."]).expect(2).says("must not be '.' or '..'");
    scene.on("r", &["import", "nowhere"]).expect(1).says("nowhere");
    scene.on("r", &["import", "r"]).expect(2).says("replica's own");
    let before = crate::support::tree_of(&scene.path("r"));
    for inside in ["r", "r/new", "r/new/deep"] {
        scene.on("r", &["export", inside]).expect(1).says("the replica keeps its own files");
    }
    let paths = |tree: Vec<(std::path::PathBuf, String)>| {
        tree.into_iter().map(|(path, _)| path).collect::<Vec<_>>()
    };
    assert_eq!(
        paths(crate::support::tree_of(&scene.path("r"))),
        paths(before),
        "nothing is made there"
    );
}

#[test]
fn completions_are_made_for_every_shell() {
    let scene = Scene::offline();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = scene.run(["completions", shell]).expect(0);
        assert!(ran.stdout.contains("vfs-sync"));
    }
}

#[test]
fn a_file_that_is_not_there_is_named_with_a_next_step() {
    let scene = Scene::offline();
    scene.replica("r");
    let ran = scene.on("r", &["put", "absent.txt", "/absent.txt"]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("absent.txt") && ran.stderr.contains("- for standard input"));
    assert!(!scene.on("r", &["ls", "/"]).expect(0).stdout.contains("absent"));
}

#[test]
fn a_damaged_replica_is_named_and_not_touched() {
    let scene = Scene::offline();
    scene.replica("r");
    scene.on("r", &["mkdir", "/a"]).expect(0);
    let database = std::fs::read_dir(scene.path("r"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "db"))
        .unwrap();
    let noise = vec![0x5A; 8_192];
    std::fs::write(&database, &noise).unwrap();
    let ran = scene.on("r", &["ls"]).expect(1);
    assert!(ran.stderr.contains("cannot be read") && ran.stderr.contains("hint"), "{ran:?}");
    assert_eq!(std::fs::read(&database).unwrap(), noise);
    std::fs::write(scene.path("r/settings.json"), "{").unwrap();
    scene.on("r", &["ls"]).expect(1).says("settings.json");
}

#[test]
fn an_operator_cannot_make_a_new_database_by_mistyping() {
    let scene = Scene::offline();
    scene.run(["admin", "new-epoch", "--data", "nowhere"]).expect(2).says("nowhere");
    assert!(!scene.path("nowhere").exists());
    scene.run(["admin", "new-epoch"]).expect(2).says("--data");
    scene.run(["migrate", "--data", "data"]).expect(0).says("schema version");
    scene.run(["admin", "new-epoch", "--data", "data"]).expect(0).says("epoch");
}
