use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use proptest::prelude::*;
use vfs_sync_client::{EntryRecord, HttpConfig, HttpTransport, StaticToken};
use vfs_sync_core::id::UserId;

use super::*;
use crate::disk::digest::digest;
use crate::import::{ImportOptions, import};
use crate::scan::Scanner;

/// Creates a replica that never meets a server.
fn client() -> SyncClient {
    let config = HttpConfig::new("http://127.0.0.1:9");
    let transport = HttpTransport::new(config, StaticToken::new("none")).unwrap();
    let user = UserId::new("alice").unwrap();
    SyncClient::builder(Arc::new(transport)).in_memory(user).unwrap()
}

fn take(client: &SyncClient, directory: &Path) -> Problems {
    let scanner = Scanner::open(directory, &[]).unwrap();
    let stop = CancellationToken::new();
    let options = ImportOptions::default();
    import(client, scanner, None, options, None, &stop, &mut |_| {}).unwrap().problems
}

fn write(client: &SyncClient, directory: &Path, rules: DiskRules) -> ExportReport {
    write_with(client, directory, rules, ExportOptions::default())
}

fn write_with(
    client: &SyncClient,
    directory: &Path,
    rules: DiskRules,
    options: ExportOptions,
) -> ExportReport {
    let (mut root, stop) = (Root::open(directory).unwrap(), CancellationToken::new());
    let found = Record::find(client, &mut root, None).unwrap().unwrap();
    let record = Record::begin(client, found, None, false, true).unwrap();
    let export = Export::new(client, root, record, rules, options, &stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(export.run(None, &mut |_| {})).unwrap()
}

#[test]
fn a_disk_that_ignores_case_gets_both_files_under_names_of_their_own() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(from.path().join("readme.md"), "small").unwrap();
    std::fs::write(from.path().join("README.md"), "large").unwrap();
    let client = client();
    assert_eq!(take(&client, from.path()).total(), 0);
    let rules = DiskRules { case_insensitive: true, normalising: true, ..DiskRules::default() };
    let report = write(&client, to.path(), rules);
    assert_eq!((report.files_written, report.problems.failures()), (2, 0));
    assert_eq!(report.problems.first[0].kind, ProblemKind::NameChanged);
    assert_eq!(std::fs::read(to.path().join("README.md")).unwrap(), b"large");
    assert_eq!(write(&client, to.path(), rules).files_written, 0, "the same names again");
}

#[test]
fn what_was_removed_here_stays_away_until_the_tree_changes_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let client = client();
    std::fs::create_dir(from.path().join("d")).unwrap();
    for name in ["f", "g", "d/x"] {
        std::fs::write(from.path().join(name), "one").unwrap();
    }
    assert_eq!(take(&client, from.path()).total(), 0);
    write(&client, to.path(), DiskRules::default());
    std::fs::remove_file(to.path().join("f")).unwrap();
    std::fs::remove_dir_all(to.path().join("d")).unwrap();
    let leave = || ExportOptions { leave_missing: true, delete: true, ..ExportOptions::default() };
    let report = write_with(&client, to.path(), DiskRules::default(), leave());
    assert_eq!((report.missing, report.files_written, report.folders_created), (2, 0, 0));
    std::fs::write(from.path().join("f"), "two, longer").unwrap();
    assert_eq!(take(&client, from.path()).total(), 0);
    let report = write_with(&client, to.path(), DiskRules::default(), leave());
    assert_eq!((report.missing, report.files_written), (1, 1));
    assert_eq!(std::fs::read(to.path().join("f")).unwrap(), b"two, longer");
    assert!(!to.path().join("d").exists());
    write(&client, to.path(), DiskRules::default());
    assert_eq!(std::fs::read(to.path().join("d/x")).unwrap(), b"one", "a plain export writes it");
}

#[test]
fn a_live_export_writes_only_to_a_directory_that_was_imported() {
    let (client, top) = (client(), tempfile::tempdir().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let live = |directory: &Path| {
        let options = ExportOptions { live: true, ..ExportOptions::default() };
        runtime.block_on(export(&client, None, directory, options, &stop, &mut |_| {}))
    };
    assert!(live(&top.path().join("away")).is_err());
    assert!(!top.path().join("away").exists(), "its disk may not be mounted");
    let failure = live(top.path()).unwrap_err();
    assert!(failure.to_string().contains("not the directory that was imported"), "{failure:?}");
    assert_eq!(take(&client, top.path()).total(), 0);
    live(top.path()).unwrap();
}

#[test]
fn a_folder_on_which_another_disk_is_mounted_is_left_alone_at_every_import() {
    let (client, top) = (client(), tempfile::tempdir().unwrap());
    std::fs::create_dir(top.path().join("usb")).unwrap();
    for name in ["usb/one", "usb/two", "a", "b", "c"] {
        std::fs::write(top.path().join(name), name).unwrap();
    }
    assert_eq!(take(&client, top.path()).total(), 0);
    // As if the files had been on a disk of their own, which is not mounted any more.
    let mut root = Root::open(top.path()).unwrap();
    let found = Record::find(&client, &mut root, None).unwrap().unwrap();
    let FoundDirectory::Known(directory) = found.found else { panic!("it was imported") };
    let mut rows = client.directories().entries(directory.id, ROOT_ENTRY).unwrap();
    let mut usb = rows.swap_remove(rows.iter().position(|row| row.name == b"usb").unwrap());
    usb.disk.elsewhere = true;
    usb.disk.inode += 1;
    let mut batch = client.batch();
    batch.record(directory.id, RecordChange::Put(Box::new(usb)));
    batch.commit().unwrap();
    std::fs::remove_dir_all(top.path().join("usb")).unwrap();
    std::fs::create_dir(top.path().join("usb")).unwrap();
    for _ in 0..3 {
        let scanner = Scanner::open(top.path(), &[]).unwrap();
        let stop = CancellationToken::new();
        let options = ImportOptions { delete: true, ..ImportOptions::default() };
        let report = import(&client, scanner, None, options, None, &stop, &mut |_| {}).unwrap();
        assert_eq!((report.deleted, report.problems.total()), (0, 1), "{report:?}");
        assert_eq!(report.problems.first[0].kind, ProblemKind::OtherDisk);
    }
}

#[test]
fn an_export_killed_after_another_that_was_killed_leaves_nothing_to_keep_beside() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let client = client();
    let now_in_the_tree = |bytes: &str| {
        std::fs::write(from.path().join("f"), bytes).unwrap();
        assert_eq!(take(&client, from.path()).total(), 0);
    };
    now_in_the_tree("one");
    write(&client, to.path(), DiskRules::default());

    // The first was killed after the file had the new bytes, before its row said so.
    now_in_the_tree("two");
    let digest_of = |bytes: &str| digest(bytes.as_bytes()).unwrap().0;
    let mut root = Root::open(to.path()).unwrap();
    let found = Record::find(&client, &mut root, None).unwrap().unwrap();
    let record = Record::begin(&client, found, None, false, true).unwrap();
    let row = record.rows(ROOT_ENTRY).unwrap().remove(OsStr::new("f")).unwrap();
    let row = EntryRecord { coming: Some(digest_of("two")), ..row };
    let directory = record.directory.id;
    client
        .directories()
        .write(directory, vec![RecordChange::Put(Box::new(row.clone()))], true)
        .unwrap();
    std::fs::write(to.path().join("f"), "two").unwrap();

    // The second announces the next bytes, and is killed before it writes them.
    now_in_the_tree("three");
    let stop = CancellationToken::new();
    let (rules, options) = (DiskRules::default(), ExportOptions::default());
    let mut export = Export::new(&client, root, record, rules, options, &stop);
    let disk = export.root.folder(Path::new("")).unwrap();
    let (name, stat) = (OsString::from("f"), disk.stat(OsStr::new("f")).unwrap());
    let node = client.children(None).unwrap().remove(0).node;
    let parent = Parent { item: None, row: ROOT_ENTRY };
    let file = export.file(&disk, Path::new("f"), name, &node, Some(stat), Some(row), parent);
    let coming = file.unwrap().unwrap().coming();
    assert_eq!(coming.disk.digest, Some(digest_of("two")));
    assert_eq!(coming.coming, Some(digest_of("three")));
    client.directories().write(directory, vec![RecordChange::Put(Box::new(coming))], true).unwrap();

    let report = write(&client, to.path(), DiskRules::default());
    assert_eq!((report.files_written, report.problems.total()), (1, 0));
    assert_eq!(std::fs::read(to.path().join("f")).unwrap(), b"three");
}

fn names_and_bytes(top: &Path) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut found: Vec<_> = std::fs::read_dir(top)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let bytes = std::fs::read(entry.path()).ok();
            (entry.file_name().as_bytes().to_vec(), bytes)
        })
        .collect();
    found.sort();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_names_and_bytes_come_back(
        files in proptest::collection::btree_map(
            proptest::collection::vec(
                prop_oneof![Just(b'%'), Just(b'r'), Just(b'\n'), Just(0xFF), 1..=255u8],
                1..20,
            ),
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50)),
            0..12,
        )
    ) {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, bytes) in &files {
            if name.contains(&b'/') || name == b"." || name == b".." {
                continue;
            }
            let path = from.path().join(OsStr::from_bytes(name));
            match bytes {
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
                None => std::fs::create_dir(path).unwrap(),
            }
        }
        let client = client();
        prop_assert_eq!(take(&client, from.path()).total(), 0);
        prop_assert_eq!(write(&client, to.path(), DiskRules::default()).problems.total(), 0);
        prop_assert_eq!(names_and_bytes(to.path()), names_and_bytes(from.path()));
    }
}

#[test]
fn a_folder_whose_name_another_takes_is_renamed_and_not_written_anew() {
    use std::os::unix::fs::MetadataExt as _;
    let name = |name: &str| vfs_sync_core::item::Name::new(name).unwrap();
    // The new folder has the old name, or the name that the folder gets, or a chain of names moves on.
    for others in [&["f"][..], &["g"], &["f", "g"], &["g", "f", "h"]] {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let client = client();
        for path in ["f/deep", "h"] {
            std::fs::create_dir_all(from.path().join(path)).unwrap();
            std::fs::write(from.path().join(path).join("file"), path).unwrap();
        }
        assert_eq!(take(&client, from.path()).total(), 0);
        let delete = || ExportOptions { delete: true, ..ExportOptions::default() };
        write_with(&client, to.path(), DiskRules::default(), delete());
        let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
        let before = ["f/deep/file", "h/file"].map(|path| inode(&to.path().join(path)));

        client.rename(&client.resolve("h").unwrap().id, name("i")).unwrap();
        client.rename(&client.resolve("f").unwrap().id, name("g")).unwrap();
        for other in others {
            let folder = client.create_folder(None, name(other)).unwrap();
            let file = client.create_file(Some(&folder), name("new")).unwrap();
            client.contents().put(&file, &b"new"[..]).unwrap();
        }
        let report = write_with(&client, to.path(), DiskRules::default(), delete());
        let new = others.len() as u64;
        let done = (report.moved, report.files_written, report.folders_created, report.removed);
        assert_eq!(done, (2, new, new, 0), "{others:?}");
        let folders = std::fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().path());
        let after: Vec<u64> = folders
            .flat_map(|folder| [folder.join("deep/file"), folder.join("file")])
            .filter(|path| path.exists())
            .map(|path| inode(&path))
            .collect();
        assert!(before.iter().all(|inode| after.contains(inode)), "{others:?}");
    }
}
