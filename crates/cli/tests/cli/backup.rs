//! Backups of a server that runs: taken under load, checked, restored elsewhere.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use vfs_sync_store::testing::new_postgres_database;

use crate::support::{Ran, Scene, tree_of};

/// A scene with some contents on the server: small ones, equal ones, and one of several parts.
fn scene_with(environment: &[(&str, &str)]) -> Scene {
    let mut scene = Scene::offline();
    scene.start_server_with("127.0.0.1:0", environment);
    scene.replica("a");
    for n in 0..40 {
        scene.write(&format!("tree/{}/file-{n}", n % 5), format!("content {}", n / 2));
    }
    let large: Vec<u8> =
        (0..9_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    scene.write("tree/large", large);
    scene.on("a", &["import", "tree"]).expect(0);
    scene.on("a", &["sync"]).expect(0);
    scene
}

fn create(scene: &Scene, environment: &[(&str, &str)]) -> Ran {
    run(scene, environment, &["--json", "backup", "create", "backups", "--data", "server"])
}

fn run(scene: &Scene, environment: &[(&str, &str)], args: &[&str]) -> Ran {
    let output = scene.command().envs(environment.iter().copied()).args(args).output().unwrap();
    output.into()
}

/// The files of the contents in the scene's backups.
fn contents(scene: &Scene) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for part in std::fs::read_dir(scene.path("backups/contents")).unwrap() {
        let part = std::fs::read_dir(part.unwrap().path()).unwrap();
        files.extend(part.map(|file| file.unwrap().path()));
    }
    files.sort();
    files
}

/// Backs up while devices write and delete, restores elsewhere, and lets the devices go on.
fn a_drill(from: &[(&str, &str)], to: &[(&str, &str)]) {
    let mut scene = scene_with(from);
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let writing = threads.spawn(|| {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) || round < 3 {
                round += 1;
                let file = scene.write("new", format!("round {round}"));
                let file = file.to_str().unwrap();
                scene.on("a", &["put", file, &format!("/round-{round}")]).expect(0);
                if round > 1 {
                    let old = format!("/round-{}", round - 1);
                    scene.on("a", &["rm", &old]).expect(0);
                    scene.on("a", &["sync"]).expect(0);
                    // Its content is marked for removal at once.
                    scene.on("a", &["trash", "empty", &old, "--yes"]).expect(0);
                }
                scene.on("a", &["sync"]).expect(0);
            }
        });
        for _ in 0..3 {
            create(&scene, from).expect(0);
            scene.run(["backup", "verify", "backups"]).expect(0).says("whole");
        }
        done.store(true, Ordering::Relaxed);
        writing.join().unwrap();
    });
    // What came after the last backup is lost with the server, and only the device has it.
    let file = scene.write("late", "only on the device");
    scene.on("a", &["put", file.to_str().unwrap(), "/late"]).expect(0);
    scene.on("a", &["sync"]).expect(0);
    let address = scene.url().strip_prefix("http://").unwrap().to_owned();
    scene.stop_server();
    std::fs::rename(scene.path("server"), scene.path("lost")).unwrap();

    let restore = ["--json", "backup", "restore", "backups", "--data", "server"];
    let restored = run(&scene, to, &restore).expect(0).json();
    assert!(restored["contents"].as_u64().unwrap() >= 21, "{restored}");
    run(&scene, to, &restore).expect(1).says("nothing is replaced");
    run(&scene, to, &["blobs", "check", "--data", "server", "--digests"]).expect(0).says("0 left");
    scene.start_server_with(&address, to);
    scene.on("a", &["sync"]).expect(0);
    scene.replica("b");
    scene.on("b", &["sync"]).expect(0);
    for name in ["a", "b"] {
        scene.on(name, &["export", &format!("out-{name}")]).expect(0);
    }
    assert_eq!(scene.read("out-b/late"), "only on the device");
    assert_eq!(tree_of(&scene.path("out-a")), tree_of(&scene.path("out-b")));
    assert_eq!(tree_of(&scene.path("out-b/1")), tree_of(&scene.path("tree/1")));
    assert_eq!(
        std::fs::read(scene.path("out-b/large")).unwrap(),
        std::fs::read(scene.path("tree/large")).unwrap()
    );
}

#[test]
fn a_backup_under_load_is_restored_elsewhere_and_devices_go_on() {
    a_drill(&[], &[]);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn a_backup_of_postgres_under_load_is_restored_into_an_empty_database() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = || runtime.block_on(new_postgres_database()).unwrap();
    let (from, to) = (database(), database());
    a_drill(&[("VFS_SYNC_DATABASE_URL", &from)], &[("VFS_SYNC_DATABASE_URL", &to)]);
}

#[test]
fn a_later_backup_copies_only_what_is_new() {
    let scene = scene_with(&[]);
    let first = create(&scene, &[]).expect(0).json();
    // 40 files have 20 different contents.
    assert_eq!((first["contents"].as_u64(), contents(&scene).len()), (Some(41), 21));
    // Removals are held until some time after the backup.
    let database = rusqlite::Connection::open(scene.path("server/metadata.sqlite3")).unwrap();
    let held =
        "SELECT value > (unixepoch() + 600) * 1000 FROM meta WHERE name = 'removals_held_until'";
    assert!(database.query_row(held, [], |row| row.get::<_, bool>(0)).unwrap());
    let file = scene.write("one", "one more");
    scene.on("a", &["put", file.to_str().unwrap(), "/one"]).expect(0);
    scene.on("a", &["sync"]).expect(0);
    let second = create(&scene, &[]).expect(0).json();
    assert_eq!((second["contents"].as_u64(), second["new"].as_u64()), (Some(42), Some(1)));
    let name = first["backup"].as_str().unwrap();
    scene.run(["backup", "verify", "backups", "--at", name]).expect(0).says(name);
    scene.run(["backup", "verify", "backups", "--at", "2020"]).expect(1).says(name);
}

#[test]
fn an_interrupted_backup_is_no_backup_and_its_contents_are_looked_at_again() {
    let scene = scene_with(&[]);
    create(&scene, &[]).expect(0);
    let whole = contents(&scene);
    // As a crash may leave it: without a manifest, and a content whose bytes never came to the disk.
    let name = std::fs::read_dir(scene.path("backups")).unwrap();
    let name =
        name.map(|entry| entry.unwrap().path()).find(|path| path.join("manifest.json").exists());
    std::fs::remove_file(name.unwrap().join("manifest.json")).unwrap();
    let size = whole[0].metadata().unwrap().len();
    std::fs::write(&whole[0], vec![0; usize::try_from(size).unwrap()]).unwrap();
    std::fs::create_dir(scene.path("backups/partial")).unwrap();
    scene.write("backups/partial/half-a-content", "half");
    scene.run(["backup", "verify", "backups"]).expect(1).says("no whole backup");
    let again = create(&scene, &[]).expect(0).json();
    assert!((1..=2).contains(&again["new"].as_u64().unwrap()), "{again}");
    assert!(!find(&scene.path("backups")).iter().any(|file| file.ends_with("half-a-content")));
    assert_eq!(contents(&scene), whole);
    scene.run(["backup", "verify", "backups"]).expect(0);
}

#[test]
fn damage_is_found_and_never_restored() {
    let scene = scene_with(&[]);
    create(&scene, &[]).expect(0);
    let backups = std::fs::read_dir(scene.path("backups")).unwrap();
    let backup = backups.map(|entry| entry.unwrap().path());
    let backup = backup.into_iter().find(|path| path.join("manifest.json").exists()).unwrap();
    let large = contents(&scene).into_iter().max_by_key(|file| file.metadata().unwrap().len());
    let small = contents(&scene).into_iter().min_by_key(|file| file.metadata().unwrap().len());
    let files =
        [backup.join("database"), backup.join("contents.jsonl"), large.unwrap(), small.unwrap()];
    for file in files {
        let good = std::fs::read(&file).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        for bad in [Some(bad), Some(good[..good.len() - 1].to_vec()), None] {
            match bad {
                Some(bad) => std::fs::write(&file, bad).unwrap(),
                None => std::fs::remove_file(&file).unwrap(),
            }
            let said = scene.run(["backup", "verify", "backups"]).expect(1);
            let name = file.strip_prefix(scene.dir.path()).unwrap().to_str().unwrap();
            assert!(said.stdout.contains(name), "{name}: {said:?}");
            let restored = scene.run(["backup", "restore", "backups", "--data", "elsewhere"]);
            assert_eq!(restored.code, 1, "{restored:?}");
            assert!(!scene.path("elsewhere/metadata.sqlite3").exists());
        }
        std::fs::write(&file, good).unwrap();
    }
    let manifest = backup.join("manifest.json");
    let good = scene.read(manifest.strip_prefix(scene.dir.path()).unwrap().to_str().unwrap());
    for bad in ["", "{}", &good.replace("\"format\": 1", "\"format\": 2")] {
        std::fs::write(&manifest, bad).unwrap();
        scene.run(["backup", "verify", "backups"]).expect(1).says("manifest.json");
        scene.run(["backup", "restore", "backups", "--data", "elsewhere"]).expect(1);
    }
    std::fs::write(&manifest, good).unwrap();
    // What an attempt left is gone on with.
    scene.run(["backup", "restore", "backups", "--data", "elsewhere"]).expect(0);
}

#[test]
fn a_content_that_the_store_lost_is_named_and_the_rest_is_backed_up() {
    let scene = scene_with(&[]);
    // The smallest one, and nobody has the same bytes.
    scene.write("tree/smallest", "u");
    scene.on("a", &["import", "tree"]).expect(0);
    scene.on("a", &["sync"]).expect(0);
    let objects: Vec<PathBuf> = find(&scene.path("server/blobs"));
    let size = |path: &&PathBuf| path.metadata().unwrap().len();
    let [lost, rotten] = [objects.iter().max_by_key(size), objects.iter().min_by_key(size)];
    std::fs::remove_file(lost.unwrap()).unwrap();
    let bytes = vec![b'x'; usize::try_from(size(&rotten.unwrap())).unwrap()];
    std::fs::write(rotten.unwrap(), bytes).unwrap();
    let made = create(&scene, &[]).expect(5);
    let made = made.json();
    assert_eq!((made["contents"].as_u64(), made["missing"].as_u64()), (Some(40), Some(2)));
    scene.run(["backup", "verify", "backups"]).expect(1).says("the backup lacks it");
}

fn find(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(find(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn nothing_is_replaced() {
    let scene = scene_with(&[]);
    let create = |to: &str| scene.run(["backup", "create", to, "--data", "server"]);
    create("tree").expect(2).says("has other files");
    create("backups").expect(0);
    let restore = |to: &str| scene.run(["backup", "restore", "backups", "--data", to]);
    restore("server").expect(1).says("nothing is replaced");
    scene
        .run(["backup", "restore", "tree", "--data", "x"])
        .expect(1)
        .says("not a directory of backups");
    // Contents of another server are in the way, even without a database.
    std::fs::create_dir_all(scene.path("other/blobs")).unwrap();
    scene.write("other/blobs/somebody", "else's");
    restore("other").expect(1).says("somebody");
    assert!(!scene.path("other/metadata.sqlite3").exists());
    let url = [("VFS_SYNC_DATABASE_URL", "postgres://vfs@localhost:1/vfs")];
    run(&scene, &url, &["backup", "restore", "backups", "--data", "new"]).expect(2).says("sqlite");
}
