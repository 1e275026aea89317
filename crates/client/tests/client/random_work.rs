//! Random work of several devices against our own server, with restarts, lag and compaction: all
//! converge, and no guardrail fires but the one that asks for a rebuild.

use vfs_sync_client::core::id::ItemId;
use vfs_sync_client::core::item::{Name, ObjectType};
use vfs_sync_client::{ClientConfig, ClientError, Delete, SyncClient, TransportError};
use vfs_sync_testkit::{Random, TestDevice, TestServer, seeds};

fn device(server: &TestServer, durable: bool, page_limit: u32) -> TestDevice {
    let config = ClientConfig { rematerialise: true, page_limit, ..ClientConfig::default() };
    TestDevice::new(durable, "alice", server.transport("alice"), config)
}

/// Everything that a device shows, whatever its replica is made of.
fn view(client: &SyncClient) -> Vec<String> {
    let entries = client.walk(None).unwrap();
    let line = |entry: Result<vfs_sync_client::TreeEntry, ClientError>| {
        let entry = entry.unwrap();
        format!("{} {} {:?}", entry.path, entry.node.id, entry.node.metadata)
    };
    let mut lines: Vec<_> = entries.map(line).collect();
    lines.sort();
    lines
}

fn edit(client: &SyncClient, random: &mut Random) {
    let items: Vec<ItemId> = client.walk(None).unwrap().map(|e| e.unwrap().node.id).collect();
    let name = Name::new(format!("n{}", random.below(6))).unwrap();
    if items.len() < 3 || random.below(3) == 0 {
        let parent = (!items.is_empty() && random.below(4) > 0).then(|| random.one(&items));
        client.create(ObjectType::Folder, parent, name).unwrap();
        return;
    }
    let (one, other) = (random.one(&items), random.one(&items));
    let outcome = match random.below(7) {
        0 => client.rename(one, name),
        1 => client.set_metadata(
            one,
            vec![(format!("k{}", random.below(3)), Some(random.below(9).into()))],
        ),
        2 => client.move_to(one, Some(other)),
        3 => client.move_to(one, None),
        4 => client.link(one, other),
        5 => client.delete(one, Delete::Item).map(drop),
        _ => client.delete(one, Delete::Recursive).map(drop),
    };
    match outcome {
        Ok(()) | Err(ClientError::Cycle { .. } | ClientError::Invalid(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Fails only as a network may.
fn tolerate<T>(outcome: Result<T, ClientError>) {
    match outcome {
        Ok(_) | Err(ClientError::Transport(TransportError::Network { .. })) => {}
        Err(error) => panic!("{error}"),
    }
}

async fn history(seed: u64) {
    let mut random = Random::new(seed);
    let mut server = TestServer::start().await;
    let devices =
        [device(&server, false, 500), device(&server, true, 3), device(&server, true, 50)];
    for _ in 0..120 {
        let client = random.one(&devices).client();
        match random.below(20) {
            0..=10 => edit(client, &mut random),
            11..=13 => tolerate(client.sync().await),
            14 => tolerate(client.flush().await),
            15 | 16 => tolerate(client.pull().await),
            17 => {
                server.abort().await;
                edit(client, &mut random);
                tolerate(client.sync().await);
                server.start_again().await;
            }
            18 => {
                let (syncing, aborting) = (client.sync(), server.abort());
                let (outcome, ()) = tokio::join!(syncing, aborting);
                tolerate(outcome);
                server.start_again().await;
            }
            _ => server.forget(50).await,
        }
    }
    for _ in 0..3 {
        for device in &devices {
            device.sync().await.unwrap();
        }
    }
    let fresh = device(&server, false, 7);
    fresh.sync().await.unwrap();
    for device in devices.iter().chain([&fresh]) {
        assert_eq!(view(device), view(&fresh), "seed {seed}");
        let status = device.status().unwrap();
        let waiting = (status.pending, status.acknowledged, status.rejected);
        assert_eq!(waiting, (0, 0, 0), "seed {seed}: {:?}", device.queue().rejected(10));
        for violation in device.violations().violations() {
            let signature = violation.signature();
            assert_eq!(signature, "pull:pullRematerializationRequired", "seed {seed}");
        }
    }
}

/// As many seeds as `VFS_SYNC_TEST_SEEDS` says, or 20; one of them if `VFS_SYNC_TEST_SEED` is set.
#[tokio::test(flavor = "multi_thread")]
async fn devices_that_work_at_random_converge_and_no_guardrail_fires() {
    for seed in seeds(20) {
        println!("VFS_SYNC_TEST_SEED={seed}");
        history(seed).await;
    }
}
