//! Folders with a stable id, made by several devices while they are apart.

use vfs_sync_client::Delete;
use vfs_sync_testkit::TestServer;

use crate::support::{name, paths};

#[tokio::test]
async fn two_devices_that_start_offline_make_one_folder() {
    let server = TestServer::start().await;
    let (laptop, phone) = (server.device("alice"), server.device("alice"));
    let mut inner = Vec::new();
    for (device, file) in [(&laptop, "a"), (&phone, "b")] {
        let photos = device.get_or_create_folder(None, name("Photos")).unwrap();
        assert_eq!(device.get_or_create_folder(None, name("Photos")).unwrap(), photos);
        let year = device.get_or_create_folder(Some(&photos), name("2026")).unwrap();
        device.create_file(Some(&year), name(file)).unwrap();
        inner.push((photos, year));
    }
    assert_eq!(inner[0], inner[1]);
    for device in [&laptop, &phone, &laptop] {
        device.sync().await.unwrap();
        assert_eq!(device.queue().rejected(9).unwrap(), []);
    }
    let all = ["Photos", "Photos/2026", "Photos/2026/a", "Photos/2026/b"];
    assert_eq!((paths(&laptop), paths(&phone)), (all.map(str::to_owned).to_vec(), paths(&laptop)));

    let other = server.device("bob");
    let photos = other.get_or_create_folder(None, name("Photos")).unwrap();
    assert_ne!(photos, inner[0].0, "each user has folders of their own");
}

#[tokio::test]
async fn a_folder_that_is_there_is_found_and_a_deleted_one_comes_back() {
    let server = TestServer::start().await;
    let device = server.device("alice");
    let plain = device.create_folder(None, name("Music")).unwrap();
    assert_eq!(device.get_or_create_folder(None, name("Music")).unwrap(), plain);

    let notes = device.get_or_create_folder(None, name("Notes")).unwrap();
    device.rename(&notes, name("Thoughts")).unwrap();
    device.move_to(&notes, Some(&plain)).unwrap();
    assert_eq!(device.get_or_create_folder(None, name("Notes")).unwrap(), notes);

    device.create_file(Some(&notes), name("old")).unwrap();
    device.sync().await.unwrap();
    device.delete(&notes, Delete::Recursive).unwrap();
    device.sync().await.unwrap();
    assert_eq!(device.get_or_create_folder(None, name("Notes")).unwrap(), notes);
    device.sync().await.unwrap();
    let node = device.node(&notes).unwrap().unwrap();
    assert_eq!(node.name, Some(name("Notes")));
    assert_eq!(device.children(Some(&notes)).unwrap(), []);
    assert_eq!(device.queue().rejected(9).unwrap(), []);
}

#[tokio::test]
async fn a_purged_folder_is_made_again_under_another_id() {
    let server = TestServer::start().await;
    let device = server.device("alice");
    let notes = device.get_or_create_folder(None, name("Notes")).unwrap();
    device.sync().await.unwrap();
    device.delete(&notes, Delete::Item).unwrap();
    device.sync().await.unwrap();
    device.trash().purge(&notes, false).await.unwrap();

    let again = device.get_or_create_folder(None, name("Notes")).unwrap();
    assert_eq!(again, notes, "only the server knows");
    device.sync().await.unwrap();
    assert_eq!(device.queue().rejected(9).unwrap().len(), 1);
    let other = device.get_or_create_folder(None, name("Notes")).unwrap();
    assert_ne!(other, notes);
    device.sync().await.unwrap();
    assert_eq!(device.queue().rejected(9).unwrap().len(), 1);
    assert_eq!(paths(&device), ["Notes"]);
}
