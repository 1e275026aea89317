//! How many operations a second a store takes and gives back, with no HTTP around it.
//!
//! `push_rate DATABASE [OPERATIONS [CONNECTIONS]]`: DATABASE is a path for SQLite or a
//! `postgres://` URL, OPERATIONS is for each connection.
#![allow(clippy::print_stdout, reason = "a program that measures")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use vfs_sync_core::id::{ReplicaId, UserId};
use vfs_sync_core::server::push::PushBatch;
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::PushStatus;
use vfs_sync_store::{MetadataQuota, PullAnswer, PullRequest};

const BATCH: u64 = 500;
const FILES_IN_A_FOLDER: u64 = 50;

fn now() -> Timestamp {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    Timestamp::from_millis(millis).unwrap_or(Timestamp::MAX)
}

/// Ids as UUIDv7 spells them: ascending, with random-looking tails.
fn id(n: u64) -> String {
    let tail = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let (time, tail) = (1_700_000_000_000 + n / 4, tail);
    format!(
        "{:08x}-{:04x}-7{:03x}-8{:03x}-{:012x}",
        time >> 16,
        time & 0xFFFF,
        tail >> 52,
        (tail >> 40) & 0xFFF,
        tail & 0xFFFF_FFFF_FFFF
    )
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let database = arguments.next().ok_or("which database?")?;
    let total: u64 = arguments.next().map_or(Ok(200_000), |text| text.parse())?;
    let connections: usize = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let store = vfs_sync_store::open(&database, now()).await?;
    let user = UserId::new("01980000-0000-7000-8000-00000000aaaa")?;

    let mut round = Instant::now();
    let begun = round;
    let mut done = 0;
    let run = u64::from(std::process::id() % 100);
    while done < total {
        let mut pushes = Vec::new();
        for connection in 0..connections as u64 {
            let base = run * 1_000_000_000_000 + connection * 10_000_000_000 + done;
            let replica = ReplicaId::new(id(run << 8 | connection))?;
            let operations: Vec<String> = (0..BATCH)
                .map(|n| {
                    let (item, write_id) = (base + n, done + n + 1);
                    let folder = item - item % FILES_IN_A_FOLDER;
                    let rest = if item == folder {
                        r#""objectType":"folder""#.to_owned()
                    } else {
                        format!(r#""objectType":"file","parentId":"{}""#, id(folder))
                    };
                    format!(
                        r#"{{"opId":"{}","opType":"item_upsert","itemId":"{}","replicaId":"{replica}","writeId":{write_id},"occurredAt":"{}","name":"a file {item}.txt","metadata":{{"mtime":1700000000000,"mode":420}},{rest}}}"#,
                        id(item + 7_000_000), id(item), now(),
                    )
                })
                .collect();
            let body =
                format!(r#"{{"clientId":"{replica}","operations":[{}]}}"#, operations.join(","));
            let batch = PushBatch::parse(user.clone(), body.as_bytes())?
                .with_quota(MetadataQuota::default());
            let store = store.clone();
            pushes.push(tokio::spawn(async move { store.push(batch, now()).await }));
        }
        for push in pushes {
            let response = push.await??;
            for result in response.results {
                assert_eq!(result.status, PushStatus::Applied);
            }
        }
        done += BATCH;
        if done % 50_000 == 0 {
            let rate = 50_000.0 * connections as f64 / round.elapsed().as_secs_f64();
            println!("push {:>9} op: {rate:>8.0} op/s", done * connections as u64);
            round = Instant::now();
        }
    }
    println!(
        "push in all: {:.0} op/s",
        total as f64 * connections as f64 / begun.elapsed().as_secs_f64()
    );

    let begun = Instant::now();
    let (cursor, baseline, head) = (None, None, None);
    let mut request = PullRequest { cursor, baseline, head, client_id: None, limit: 500 };
    let mut entries = 0;
    while let PullAnswer::Page(page) = store.pull(&user, &request).await? {
        entries += page.items.len();
        request.baseline = page.baseline.or(request.baseline);
        request.cursor = page.next_cursor;
        if !page.has_more {
            break;
        }
    }
    println!("pull: {:.0} entries/s", entries as f64 / begun.elapsed().as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(peak) = status.lines().find(|line| line.starts_with("VmHWM")) {
        println!("{peak}");
    }
    Ok(())
}
