//! A cache of bounded size, and downloads that go on after a cut.

use std::sync::{Arc, Mutex};

use vfs_sync_client::core::id::ItemId;
use vfs_sync_client::core::item::Name;
use vfs_sync_client::transport::CallKind;
use vfs_sync_client::{ClientConfig, ClientError, Observer, Progress};
use vfs_sync_testkit::{Fault, FaultyTransport, TestServer};

use super::scene::{MIB, Replica, bytes, config, limited, noise, read};
use crate::support::put;

#[tokio::test]
async fn the_cache_keeps_what_was_used_last_and_stays_within_its_size() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, limited(10 * MIB as u64));
    let items: Vec<ItemId> =
        (0..20).map(|n| put(one.client(), &format!("f{n}"), &noise(MIB, n))).collect();
    assert_eq!(
        one.client().contents().usage().unwrap().bytes,
        20 * MIB as u64,
        "what is queued stays"
    );
    one.client().sync().await.unwrap();
    let usage = one.client().contents().usage().unwrap();
    assert!(usage.bytes <= 10 * MIB as u64, "{usage:?}");
    assert!(usage.contents > 5, "{usage:?}");
    assert_eq!(one.contents().len() as u64, usage.contents);

    let other = Replica::new(&server, limited(4 * MIB as u64));
    other.client().sync().await.unwrap();
    for (n, item) in (0..).zip(&items) {
        assert_eq!(read(other.client(), item).await, noise(MIB, n), "whatever was evicted");
        read(other.client(), &items[0]).await;
        assert!(other.client().contents().usage().unwrap().bytes <= 4 * MIB as u64);
    }
    let first = other.line.record().downloaded().into_iter().filter(|(id, _)| {
        let node = other.client().node(&items[0]).unwrap().unwrap();
        node.content.unwrap().blob_id == *id
    });
    assert_eq!(first.count(), 1, "what is read again and again is never evicted");
    assert!(other.files("partial").is_empty() && other.files("drafts").is_empty());
}

#[tokio::test]
async fn what_is_in_the_applications_hands_is_not_evicted() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let items: Vec<ItemId> =
        (0..4).map(|n| put(one.client(), &format!("f{n}"), &noise(MIB, n))).collect();
    one.client().sync().await.unwrap();
    let other = Replica::new(&server, limited(0));
    other.client().sync().await.unwrap();
    let held = other.client().contents().read(&items[0]).await.unwrap();
    let fetched = other.client().contents().fetch(&items).await.unwrap();
    assert_eq!((fetched.downloaded, fetched.count()), (3, 4));
    assert_eq!(other.contents().len(), 4);
    drop(fetched);
    assert_eq!(read(other.client(), &items[3]).await, noise(MIB, 3));
    assert_eq!(bytes(&held), noise(MIB, 0));
    drop(held);
    assert!(other.contents().is_empty(), "with no room nothing stays");
}

#[tokio::test]
async fn a_content_that_is_damaged_on_the_disk_is_downloaded_again() {
    let server = TestServer::start().await;
    let mut one = Replica::new(&server, config());
    let item = put(one.client(), "f", &noise(3 * MIB, 7));
    one.client().sync().await.unwrap();
    for damage in [0, MIB] {
        let path = one.contents().pop().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[damage] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        one.reopen(config());
        assert_eq!(read(one.client(), &item).await, noise(3 * MIB, 7));
    }
    let path = one.contents().pop().unwrap();
    std::fs::write(&path, "cut").unwrap();
    assert_eq!(read(one.client(), &item).await, noise(3 * MIB, 7), "cut while we run");
    assert_eq!(one.line.record().downloaded().len(), 3);
}

#[tokio::test]
async fn a_damaged_content_is_never_uploaded() {
    let server = TestServer::start().await;
    let mut one = Replica::new(&server, config());
    let item = put(one.client(), "f", b"as it was put");
    std::fs::write(one.contents().pop().unwrap(), &b"as it was put?"[1..]).unwrap();
    one.reopen(config());
    one.client().sync().await.unwrap();
    let rejected = one.client().queue().rejected_uploads().unwrap();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].item_id, item);
    assert!(rejected[0].reason.contains("no longer on this machine"), "{}", rejected[0].reason);
}

#[tokio::test]
async fn left_overs_of_a_crash_are_swept_and_queued_bytes_found_again() {
    let server = TestServer::start().await;
    let mut one = Replica::new(&server, config());
    let item = put(one.client(), "f", &noise(MIB, 1));
    // As if it was killed after queueing, before the file was in its place; and before queueing.
    let contents = one.dir.path().join("contents");
    let placed = one.contents().pop().unwrap();
    let shard = placed.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let name = format!("{shard}{}", placed.file_name().unwrap().to_str().unwrap());
    std::fs::rename(&placed, contents.join("drafts").join(&name)).unwrap();
    std::fs::write(contents.join("drafts").join("0".repeat(64)), "never queued").unwrap();
    std::fs::write(contents.join("drafts").join("17"), "of another version").unwrap();
    std::fs::write(contents.join("partial").join("1".repeat(64)), "short").unwrap();
    one.reopen(config());
    assert_eq!(one.files("drafts").len() + one.files("partial").len(), 0);
    assert_eq!(one.contents(), [placed]);
    one.client().sync().await.unwrap();
    let other = Replica::new(&server, config());
    other.client().sync().await.unwrap();
    assert_eq!(read(other.client(), &item).await, noise(MIB, 1));
}

#[tokio::test]
async fn a_download_that_is_cut_goes_on_where_it_was() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let item = put(one.client(), "f", &noise(8 * MIB, 3));
    one.client().sync().await.unwrap();
    let other = Replica::new(&server, config());
    other.client().sync().await.unwrap();
    for fault in [
        Fault::CutAnswer(3 * MIB as u64),
        Fault::DropRequest,
        Fault::CutAnswer(0),
        Fault::CutAnswer(2 * MIB as u64),
    ] {
        other.line.next(CallKind::Download, fault);
    }
    assert_eq!(read(other.client(), &item).await, noise(8 * MIB, 3));
    let offsets: Vec<u64> =
        other.line.record().downloaded().into_iter().map(|(_, at)| at).collect();
    assert_eq!(offsets, [0, 3, 3, 3, 5].map(|at| at * MIB as u64));
}

#[tokio::test]
async fn a_download_goes_on_in_the_next_process_and_what_is_wrong_by_then_is_fetched_anew() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let item = put(one.client(), "f", &noise(8 * MIB, 4));
    one.client().sync().await.unwrap();
    let mut other = Replica::new(&server, config());
    other.client().sync().await.unwrap();
    let give_up = |line: &FaultyTransport| {
        line.next(CallKind::Download, Fault::CutAnswer(2 * MIB as u64));
        (0..3).for_each(|_| line.next(CallKind::Download, Fault::DropRequest));
    };
    give_up(&other.line);
    let error = other.client().contents().read(&item).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    other.reopen(config());
    give_up(&other.line);
    other.client().contents().read(&item).await.unwrap_err();
    let partial = other.files("partial").pop().unwrap();
    assert_eq!(std::fs::metadata(&partial).unwrap().len(), 4 * MIB as u64);
    let mut bytes = std::fs::read(&partial).unwrap();
    bytes[MIB] ^= 1;
    std::fs::write(&partial, bytes).unwrap();
    other.reopen(config());
    assert_eq!(read(other.client(), &item).await, noise(8 * MIB, 4));
    let offsets: Vec<u64> =
        other.line.record().downloaded().into_iter().map(|(_, at)| at).collect();
    assert_eq!(offsets, [0, 2, 2, 2, 2, 4, 4, 4, 4, 0].map(|at| at * MIB as u64));
    assert!(other.files("partial").is_empty());
}

#[tokio::test]
async fn an_answer_that_is_short_or_altered_is_asked_for_anew_and_one_that_stays_so_is_told() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let item = put(one.client(), "f", &noise(2 * MIB, 5));
    one.client().sync().await.unwrap();
    for (fault, says) in [
        (Fault::DamageAnswer(0), "another digest"),
        (Fault::TruncateAnswer(MIB as u64), "1048576 of its 2097152 bytes"),
        (Fault::TruncateAnswer(0), "0 of its 2097152 bytes"),
    ] {
        let other = Replica::new(&server, config());
        other.client().sync().await.unwrap();
        (0..3).for_each(|_| other.line.next(CallKind::Download, fault.clone()));
        let error = other.client().contents().read(&item).await.unwrap_err();
        assert!(!error.is_transient(), "no network is to blame");
        let blob = other.client().node(&item).unwrap().unwrap().content.unwrap().blob_id;
        let ClientError::WrongContent { blob_id, item: of, reason } = &error else {
            panic!("{error}")
        };
        assert_eq!((blob_id, of), (&blob, &item));
        assert!(reason.contains(says), "{reason}");
        assert!(error.to_string().contains(item.as_str()), "{error}");
        assert!(other.contents().is_empty() && other.files("partial").is_empty());

        other.line.next(CallKind::Download, fault.clone());
        other.line.next(CallKind::Download, Fault::DropRequest);
        other.line.next(CallKind::Download, fault.clone());
        assert_eq!(read(other.client(), &item).await, noise(2 * MIB, 5));
        let asked = other.line.record().downloaded();
        assert_eq!(asked.len(), 3 + 4);
        assert!(asked.iter().all(|(_, at)| *at == 0), "nothing of a wrong answer is kept");
    }
}

/// A server with small contents and one that is not, and a replica that has none of them yet.
async fn with_small_contents(server: &TestServer) -> (Replica, Vec<ItemId>) {
    let one = Replica::new(server, config());
    let sizes = [0, 1, 1_000, 100_000, MIB, 7];
    let put = |(n, size)| put(one.client(), &format!("f{n}"), &noise(size, n));
    let items = (0..).zip(sizes).map(put).collect();
    one.client().sync().await.unwrap();
    let other = Replica::new(server, config());
    other.client().sync().await.unwrap();
    (other, items)
}

async fn assert_contents(replica: &Replica, items: &[ItemId]) {
    let sizes = [0, 1, 1_000, 100_000, MIB, 7];
    let read = replica.client().contents().read_many(items).await;
    for ((n, size), content) in (0..).zip(sizes).zip(read) {
        assert_eq!(bytes(&content.unwrap()), noise(size, n), "f{n}");
    }
}

#[tokio::test]
async fn small_contents_come_in_one_answer_and_a_large_one_by_itself() {
    let server = TestServer::start().await;
    let (other, items) = with_small_contents(&server).await;
    assert_contents(&other, &items).await;
    assert_eq!(
        (other.line.record().count(CallKind::ReadBlobs), other.line.record().downloaded().len()),
        (1, 1)
    );
    assert_eq!(other.contents().len(), 6);
    assert_contents(&other, &items).await;
    assert_eq!(
        (other.line.record().count(CallKind::ReadBlobs), other.line.record().downloaded().len()),
        (1, 1),
        "kept"
    );
}

#[tokio::test]
async fn small_contents_that_are_to_pass_by_the_cache_are_not_in_it_afterwards() {
    let server = TestServer::start().await;
    let (other, items) = with_small_contents(&server).await;
    let passed = other.client().contents().read_uncached(&items).await;
    let sizes: Vec<u64> = passed.iter().map(|content| content.as_ref().unwrap().size()).collect();
    assert_eq!(sizes, [0, 1, 1_000, 100_000, MIB as u64, 7]);
    assert_eq!(bytes(passed[3].as_ref().unwrap()), noise(100_000, 3));
    assert_eq!(other.contents().len(), 1, "the large one can be gone on with, so it is kept");
    drop(passed);
    assert_contents(&other, &items).await;
    let passed = other.client().contents().read_uncached(&items).await;
    assert!(passed.iter().all(Result::is_ok));
    assert_eq!(other.line.record().count(CallKind::ReadBlobs), 2, "what is kept is used");
}

#[tokio::test]
async fn of_several_contents_the_damaged_one_is_asked_for_again() {
    let server = TestServer::start().await;
    let (other, items) = with_small_contents(&server).await;
    other.line.next(CallKind::ReadBlobs, Fault::DamageAnswer(500));
    assert_contents(&other, &items).await;
    assert_eq!(
        (other.line.record().count(CallKind::ReadBlobs), other.line.record().downloaded().len()),
        (1, 2)
    );
}

#[tokio::test]
async fn contents_that_do_not_come_together_come_one_by_one() {
    let server = TestServer::start().await;
    let (other, items) = with_small_contents(&server).await;
    other.line.next(CallKind::ReadBlobs, Fault::DropAnswer);
    assert_contents(&other, &items).await;
    assert_eq!(
        (other.line.record().count(CallKind::ReadBlobs), other.line.record().downloaded().len()),
        (1, 6)
    );
}

#[tokio::test]
async fn of_several_contents_one_that_cannot_be_had_says_so_and_the_others_come() {
    let server = TestServer::start().await;
    let (other, mut items) = with_small_contents(&server).await;
    let folder = Name::new("folder").unwrap();
    items.push(other.client().create_folder(None, folder).unwrap());
    let read = other.client().contents().read_many(&items).await;
    assert!(read[..6].iter().all(Result::is_ok));
    assert!(matches!(read[6], Err(ClientError::NoContent(_))), "{:?}", read[6]);
}

#[derive(Default)]
struct Seen(Mutex<Vec<Progress>>);

impl Observer for Seen {
    fn progress(&self, progress: &Progress) {
        self.0.lock().unwrap().push(*progress);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_downloads_share_one_progress_and_a_bound() {
    let server = TestServer::start().await;
    let one = Replica::new(&server, config());
    let items: Vec<ItemId> =
        (0..24).map(|n| put(one.client(), &format!("f{n}"), &noise(MIB, n))).collect();
    one.client().sync().await.unwrap();
    let other = Replica::new(&server, ClientConfig { transfers: 3, ..config() });
    other.client().sync().await.unwrap();
    let seen = Arc::new(Seen::default());
    other.client().observe(seen.clone());
    // The same twice: who comes second waits and finds it there.
    let twice: Vec<ItemId> = items.iter().chain(&items).cloned().collect();
    let fetched = other.client().contents().fetch(&twice).await.unwrap();
    assert_eq!(fetched.count(), 48);
    assert_eq!(other.line.record().downloaded().len(), 24);
    assert!(other.line.most_downloads() <= 3, "{}", other.line.most_downloads());
    let seen = seen.0.lock().unwrap();
    assert!(seen.windows(2).any(|w| w[0].downloaded_bytes < w[1].downloaded_bytes));
    let most = seen.iter().map(|p| p.downloaded_bytes).max().unwrap();
    assert!(most <= 24 * MIB as u64, "{most}");
    assert!(seen.iter().all(|p| p.downloaded <= 24));
}
