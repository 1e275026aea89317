//! Real programs in live folders: at rest every device has what the program left, no more and no
//! less, although `up` worked all the while.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Devices, PATIENCE, Up, dir, has, wait_until};

/// An entry of a directory: its type with its permission bits, its time in milliseconds and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) what: String,
    millis: i64,
    pub(super) bytes: Vec<u8>,
}

/// Reads a directory; fails if an entry goes away meanwhile.
pub(super) fn entries(top: &Path) -> io::Result<BTreeMap<PathBuf, Entry>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(top.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if path == Path::new(".vfs-sync") {
                continue;
            }
            let meta = entry.path().symlink_metadata()?;
            let mode = meta.permissions().mode() & 0o777;
            let millis = meta.mtime() * 1_000 + meta.mtime_nsec() / 1_000_000;
            let entry = if meta.is_symlink() {
                let what = format!("link {:?}", std::fs::read_link(entry.path())?);
                Entry { what, millis: 0, bytes: Vec::new() }
            } else if meta.is_dir() {
                folders.push(path.clone());
                Entry { what: format!("folder {mode:o}"), millis: 0, bytes: Vec::new() }
            } else {
                let bytes = std::fs::read(entry.path())?;
                Entry { what: format!("file {mode:o}"), millis, bytes }
            };
            found.insert(path, entry);
        }
    }
    Ok(found)
}

/// Returns the paths at which two directories differ.
pub(super) fn differing(
    one: &BTreeMap<PathBuf, Entry>,
    other: &BTreeMap<PathBuf, Entry>,
) -> Vec<String> {
    let paths = one.keys().chain(other.keys().filter(|path| !one.contains_key(*path)));
    let differ = paths.filter(|path| one.get(*path) != other.get(*path));
    let shown = |entry: Option<&Entry>| match entry {
        None => "nothing".to_owned(),
        Some(Entry { what, millis, bytes }) => format!("{what} {millis} ({} bytes)", bytes.len()),
    };
    differ
        .take(20)
        .map(|path| format!("{path:?}: {} / {}", shown(one.get(path)), shown(other.get(path))))
        .collect()
}

/// Two devices with `up` on both.
pub(super) struct Pair {
    pub(super) devices: Devices,
    ups: [Up; 2],
}

impl Pair {
    pub(super) fn new() -> Self {
        let devices = Devices::new(&["a", "b"]);
        let ups = ["a", "b"].map(|device| devices.up(device));
        Self { devices, ups }
    }

    pub(super) fn at(&self, device: &str, path: &str) -> PathBuf {
        self.devices.scene.path(&dir(device)).join(path)
    }

    fn entries(&self, device: &str) -> io::Result<BTreeMap<PathBuf, Entry>> {
        entries(&self.devices.scene.path(&dir(device)))
    }

    /// Waits until both directories are equal and in step.
    #[track_caller]
    pub(super) fn rest(&self) {
        let (until, mut since) = (Instant::now() + PATIENCE, Instant::now());
        // For a second: each agent has noticed what it wrote itself.
        while since.elapsed() < Duration::from_secs(1) {
            if !(self.is_in_step() && self.is_equal()) {
                since = Instant::now();
            }
            if Instant::now() > until {
                let [a, b] = ["a", "b"].map(|device| self.entries(device).unwrap());
                let on = |device| self.devices.scene.on(device, &["folder", "problems"]);
                let states = ["a", "b"].map(|device| (self.devices.state(device), on(device)));
                panic!("not in step: {:#?}\n{states:#?}", differing(&a, &b));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn is_equal(&self) -> bool {
        let both = self.entries("a").ok().zip(self.entries("b").ok());
        both.is_some_and(|(a, b)| a == b)
    }

    fn is_in_step(&self) -> bool {
        ["a", "b"].iter().all(|device| self.devices.state(device)["state"] == "inStep")
    }

    /// Waits until both are at rest, and fails unless the directory of `a` is as its program left
    /// it; returns its entries.
    #[track_caller]
    fn rest_as_left(&self) -> BTreeMap<PathBuf, Entry> {
        let left = self.entries("a").unwrap();
        self.rest();
        let (a, b) = (self.entries("a").unwrap(), self.entries("b").unwrap());
        assert_eq!(differing(&left, &a), [""; 0], "on the device that wrote");
        assert_eq!(differing(&left, &b), [""; 0], "on the other device");
        let copies = left.keys().filter(|path| path.to_string_lossy().contains(" (conflict "));
        assert_eq!(copies.count(), 0, "only one side wrote");
        left
    }

    /// Ends both, which are in step.
    #[track_caller]
    pub(super) fn end(self) -> Devices {
        let codes = self.ups.map(Up::interrupt);
        assert_eq!(codes, [0, 0]);
        self.devices
    }
}

/// Returns whether a program is installed, and reports if it is not.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn is_installed(program: &str, args: &[&str]) -> bool {
    let ran = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let installed = ran.is_ok_and(|status| status.success());
    if !installed {
        eprintln!("SKIPPED: {program} is not installed");
    }
    installed
}

/// Runs a program to its end; returns its output.
#[track_caller]
pub(super) fn run(program: &mut Command) -> String {
    let output = program.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{program:?}: {stdout}{stderr}");
    stdout + &stderr
}

/// Runs git, without the machine's and the user's settings.
#[track_caller]
fn git(folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GIT_"))
    {
        command.env_remove(name);
    }
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command.env("GIT_EDITOR", "true");
    command.args(["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "gc.auto=0"]);
    run(command.current_dir(folder).args(args))
}

/// Fails unless both devices have the same repository, sound and without changes.
#[track_caller]
fn same_repository(pair: &Pair, path: &str) {
    let [a, b] = ["a", "b"].map(|device| pair.at(device, path));
    git(&b, &["fsck", "--full", "--strict"]);
    let heads = [&a, &b].map(|at| git(at, &["rev-parse", "HEAD"]));
    assert_eq!(heads[0], heads[1]);
    let branches = [&a, &b].map(|at| git(at, &["for-each-ref"]));
    assert_eq!(branches[0], branches[1]);
    // Without writing to the index: the other device's directory stays as it is.
    assert_eq!(git(&b, &["--no-optional-locks", "status", "--porcelain"]), "");
}

#[test]
fn a_git_repository_is_the_same_and_sound_on_both_devices() {
    if !is_installed("git", &["--version"]) {
        return;
    }
    let pair = Pair::new();
    // With other files around it, the many small ones that `gc` packs are not most of the entries.
    write_tree(&pair.at("a", "other"), 300, "other");
    let origin = pair.devices.scene.path("origin");
    std::fs::create_dir(&origin).unwrap();
    git(&origin, &["init", "-q", "-b", "main"]);
    for n in 0..40 {
        pair.devices
            .scene
            .write(&format!("origin/src/{}/f{n}", n % 5), format!("{n}\n").repeat(50));
    }
    git(&origin, &["add", "."]);
    git(&origin, &["commit", "-q", "-m", "first"]);
    let at = pair.at("a", "work");
    git(&pair.at("a", ""), &["clone", "-q", origin.to_str().unwrap(), "work"]);
    // Without waiting: the agent meets the repository in any state.
    for n in 0..8 {
        std::fs::write(at.join("src/0/f0"), format!("change {n}\n").repeat(30)).unwrap();
        std::fs::write(at.join(format!("new {n}")), "new\n").unwrap();
        git(&at, &["add", "."]);
        git(&at, &["commit", "-q", "-m", &format!("change {n}")]);
    }
    pair.rest_as_left();
    same_repository(&pair, "work");
    git(&at, &["switch", "-q", "-c", "topic", "HEAD~5"]);
    for n in 0..3 {
        std::fs::write(at.join(format!("topic {n}")), format!("{n}\n")).unwrap();
        git(&at, &["add", "."]);
        git(&at, &["commit", "-q", "-m", &format!("topic {n}")]);
    }
    git(&at, &["rebase", "-q", "main"]);
    git(&at, &["switch", "-q", "main"]);
    git(&at, &["merge", "-q", "topic"]);
    git(&at, &["reflog", "expire", "--expire=now", "--all"]);
    git(&at, &["gc", "-q", "--prune=now"]);
    pair.rest_as_left();
    same_repository(&pair, "work");
    // The other device goes on with it.
    let other = pair.at("b", "work");
    git(&other, &["switch", "-q", "topic"]);
    std::fs::write(other.join("of b"), "b\n").unwrap();
    git(&other, &["add", "."]);
    git(&other, &["commit", "-q", "-m", "of b"]);
    git(&other, &["clean", "-q", "-f", "-d", "-x"]);
    pair.rest();
    same_repository(&pair, "work");
    assert_eq!(std::fs::read_to_string(at.join("of b")).unwrap(), "b\n");
    pair.end();
}

#[test]
fn a_file_that_vim_saves_keeps_its_item_and_has_one_new_version() {
    if !is_installed("vim", &["--version"]) {
        return;
    }
    let pair = Pair::new();
    let scene = &pair.devices.scene;
    scene.write("da/in/text", "word 0\n");
    pair.rest_as_left();
    let id = pair.devices.id("a", "/in/text");
    let versions = || {
        let list = scene.on("a", &["--json", "versions", "/in/text"]).expect(0).json();
        list["versions"].as_array().unwrap().len()
    };
    let settings = [
        "set writebackup swapfile updatecount=1",
        "set backupcopy=no",
        "set backupcopy=yes",
        "set backup backupcopy=no backupext=~",
        "set backup backupcopy=yes backupext=~",
        "set nowritebackup noswapfile",
    ];
    for (n, setting) in settings.iter().enumerate() {
        let before = versions();
        let mut vim = Command::new("vim");
        vim.args(["-es", "-N", "-u", "NONE", "-i", "NONE", "-c", setting]);
        // By default it makes no backups under `/tmp`.
        vim.args(["-c", "set backupskip="]);
        vim.args(["-c", &format!("%s/word.*/word {}/", n + 1), "-c", "wq", "text"]);
        run(vim.current_dir(pair.at("a", "in")));
        let saved = format!("word {}\n", n + 1);
        assert!(has(&pair.at("a", "in/text"), &saved), "{setting}");
        let left = pair.rest_as_left();
        assert_eq!(pair.devices.id("a", "/in/text"), id, "{setting}");
        assert_eq!(versions(), before + 1, "{setting}");
        let backup = left.contains_key(Path::new("in/text~"));
        assert_eq!(
            (left.len(), backup),
            (if n < 3 { 2 } else { 3 }, n >= 3),
            "{setting}: {left:?}"
        );
    }
    pair.end();
}

/// Writes a tree of files in some folders.
fn write_tree(top: &Path, files: usize, text: &str) {
    for n in 0..files {
        let folder = top.join(format!("d{:02}/e{}", n % 50, n % 3));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("f{n}")), format!("{text} {n}")).unwrap();
    }
}

#[test]
fn a_tree_that_rsync_mirrors_into_the_folder_is_the_same_on_both() {
    if !is_installed("rsync", &["--version"]) {
        return;
    }
    let pair = Pair::new();
    let source = pair.devices.scene.path("source");
    let mirror = || {
        let mut rsync = Command::new("rsync");
        run(rsync
            .args(["-a", "--delete"])
            .arg(format!("{}/", source.display()))
            .arg(pair.at("a", "m")));
    };
    write_tree(&source, 300, "first");
    std::os::unix::fs::symlink("d00", source.join("link")).unwrap();
    mirror();
    pair.rest_as_left();
    // Some change, some go, some are renamed, some are new.
    write_tree(&source, 60, "second");
    std::fs::remove_dir_all(source.join("d10")).unwrap();
    std::fs::remove_dir_all(source.join("d49")).unwrap();
    std::fs::write(source.join("d49"), "a file now").unwrap();
    std::fs::rename(source.join("d12"), source.join("renamed")).unwrap();
    std::fs::remove_file(source.join("link")).unwrap();
    std::fs::create_dir_all(source.join("link/empty")).unwrap();
    mirror();
    let left = pair.rest_as_left();
    assert!(left.contains_key(Path::new("m/link/empty")));
    // While it works, another time.
    write_tree(&source, 40, "third");
    mirror();
    std::fs::remove_dir_all(source.join("d13")).unwrap();
    mirror();
    pair.rest_as_left();
    pair.end();
}

/// The number of files that `tar` unpacks: more with the variable.
pub(super) fn many_files() -> usize {
    let given = std::env::var("VFS_SYNC_TEST_LIVE_FILES").ok();
    given.map_or(2_000, |given| given.parse().expect("VFS_SYNC_TEST_LIVE_FILES is a number"))
}

#[test]
fn an_archive_that_tar_unpacks_is_the_same_on_both() {
    if !is_installed("tar", &["--version"]) {
        return;
    }
    let pair = Pair::new();
    let (source, archive) = (pair.devices.scene.path("source"), pair.devices.scene.path("x.tar"));
    let files = many_files();
    write_tree(&source, files, "text");
    run(Command::new("tar").arg("cf").arg(&archive).arg("-C").arg(&source).arg("."));
    std::fs::create_dir(pair.at("a", "unpacked")).unwrap();
    run(Command::new("tar").arg("xf").arg(&archive).arg("-C").arg(pair.at("a", "unpacked")));
    let left = pair.rest_as_left();
    let found = left.values().filter(|entry| entry.what.starts_with("file")).count();
    assert_eq!(found, files);
    pair.end();
}

#[test]
fn a_build_in_the_folder_is_the_same_on_both_and_stays_fresh() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    if !is_installed(&cargo, &["--version"]) {
        return;
    }
    let pair = Pair::new();
    let scene = &pair.devices.scene;
    scene.write(
        "da/tiny/Cargo.toml",
        "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[workspace]\n",
    );
    scene.write("da/tiny/src/main.rs", "fn main() {\n    println!(\"{}\", tiny::NUMBER);\n}\n");
    scene.write("da/tiny/src/lib.rs", "pub const NUMBER: u32 = 1;\n");
    let build = || {
        let mut command = Command::new(&cargo);
        for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "RUSTFLAGS"] {
            command.env_remove(name);
        }
        run(command.args(["build", "--offline", "-v"]).current_dir(pair.at("a", "tiny")))
    };
    assert!(build().contains("Running"));
    // A change, before the first build arrived.
    scene.write("da/tiny/src/lib.rs", "pub const NUMBER: u32 = 20;\n");
    assert!(build().contains("Running"));
    pair.rest_as_left();
    let again = build();
    assert!(again.contains("Fresh tiny") && !again.contains("Running"), "{again}");
    pair.rest_as_left();
    assert_eq!(run(&mut Command::new(pair.at("b", "tiny/target/debug/tiny"))), "20\n");
    // Away with it, while the next build is on its way.
    scene.write("da/tiny/src/lib.rs", "pub const NUMBER: u32 = 300;\n");
    build();
    std::fs::remove_dir_all(pair.at("a", "tiny/target")).unwrap();
    write_tree(&pair.at("a", "more"), 30, "other");
    let left = pair.rest_as_left();
    assert!(!left.contains_key(Path::new("tiny/target")));
    pair.end();
}

#[test]
fn a_tree_that_is_removed_while_it_is_sent_is_gone_on_both() {
    let pair = Pair::new();
    write_tree(&pair.at("a", "kept"), 500, "kept");
    pair.rest_as_left();
    for round in 0..2 {
        write_tree(&pair.at("a", "build"), 300, &format!("{round}"));
        // Once some of it arrived.
        let arrived = pair.at("b", "build");
        wait_until("some of it arrives", || arrived.exists());
        run(Command::new("rm").arg("-rf").arg(pair.at("a", "build")));
        let left = pair.rest_as_left();
        assert!(!left.contains_key(Path::new("build")));
    }
    pair.end();
}

/// A running `sqlite3` with a database open.
struct Sqlite {
    child: std::process::Child,
    answers: std::process::ChildStdout,
}

impl Sqlite {
    fn open(database: &Path) -> Self {
        let mut command = Command::new("sqlite3");
        command.arg("-batch").arg(database).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let answers = child.stdout.take().unwrap();
        Self { child, answers }
    }

    /// Runs statements, and waits until they are done.
    fn run(&mut self, statements: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{statements}\nselect 'DONE' || '!';").unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"DONE!\n") {
            let mut byte = [0];
            self.answers.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
    }

    fn close(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_database_of_sqlite_is_whole_at_rest_with_all_its_rows() {
    if !is_installed("sqlite3", &["--version"]) {
        return;
    }
    let pair = Pair::new();
    let scene = &pair.devices.scene;
    let mut expected = Vec::new();
    for (mode, killed) in [("delete", false), ("wal", false), ("wal", true), ("delete", true)] {
        let path = format!("{mode} {killed}/data.db");
        scene.write(&format!("da/{mode} {killed}/note"), mode);
        let mut sqlite = Sqlite::open(&pair.at("a", &path));
        sqlite.run(&format!("pragma journal_mode={mode}; create table t(n integer, text);"));
        let mut rows = 0;
        let add = |sqlite: &mut Sqlite, rows: &mut usize| {
            for _ in 0..50 {
                sqlite.run(&format!("insert into t values ({rows}, hex(randomblob(400)));"));
                *rows += 1;
            }
        };
        // Under the eyes of both agents: the file is open all the while.
        for _ in 0..3 {
            add(&mut sqlite, &mut rows);
            let before = std::fs::read(pair.at("b", &path)).ok();
            wait_until("the other device gets something", || {
                add(&mut sqlite, &mut rows);
                std::fs::read(pair.at("b", &path)).ok() != before || rows > 400
            });
        }
        sqlite.run("delete from t where n % 3 = 0;");
        rows -= rows.div_ceil(3);
        if killed {
            // It ends in the middle of a transaction: its journal stays beside it.
            sqlite.run("pragma cache_size=1; begin; update t set text = 'half';");
            sqlite.run("insert into t select * from t;");
            sqlite.kill();
        } else {
            sqlite.close();
        }
        expected.push((path, rows));
    }
    let left = pair.rest_as_left();
    for journal in ["delete true/data.db-journal", "wal true/data.db-wal"] {
        assert!(left.contains_key(Path::new(journal)), "{:?}", left.keys());
    }
    let devices = pair.end();
    for device in ["a", "b"] {
        for (path, rows) in &expected {
            // `sqlite3` may write to what it opens.
            let copy = devices.scene.path(&format!("copy {device}"));
            let _ = std::fs::remove_dir_all(&copy);
            std::fs::create_dir(&copy).unwrap();
            let from = devices.scene.path(&dir(device)).join(path);
            for entry in std::fs::read_dir(from.parent().unwrap()).unwrap() {
                let entry = entry.unwrap();
                std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
            }
            let mut check = Command::new("sqlite3");
            check.arg(copy.join("data.db"));
            check.arg("pragma integrity_check; select count(*) from t where text <> 'half';");
            assert_eq!(run(&mut check), format!("ok\n{rows}\n"), "{path} on {device}");
        }
    }
}
