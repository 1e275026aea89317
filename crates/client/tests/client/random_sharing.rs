//! Random work of several users who share with each other, over HTTP with the real client: whatever
//! was granted, revoked, moved and left, and however far behind a replica was, it ends as one that
//! begins anew does, with the top of the tree where it belongs, and no guardrail fires.

use std::collections::{BTreeSet, HashMap};

use vfs_sync_client::core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_client::core::client::state::{self, ReplicaState};
use vfs_sync_client::core::id::{ItemId, PrincipalId, UserId};
use vfs_sync_client::core::item::{Name, ObjectType};
use vfs_sync_client::{
    ClientConfig, ClientError, Delete, HttpConfig, HttpTransport, Node, StateExport, StaticToken,
    SyncClient,
};
use vfs_sync_testkit::{Random, TestDevice, TestServer, everything, seeds};

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const STEPS: usize = 250;

fn device(server: &TestServer, user: &str, durable: bool, page_limit: u32) -> TestDevice {
    let config = ClientConfig { rematerialise: true, page_limit, ..ClientConfig::default() };
    TestDevice::new(durable, user, server.transport(user), config)
}

fn principal(random: &mut Random) -> Principal {
    let (kind, id) = *random.one(&[
        (PrincipalType::User, "alice"),
        (PrincipalType::User, "bob"),
        (PrincipalType::User, "carol"),
        (PrincipalType::Group, "g"),
        (PrincipalType::Group, "h"),
        (PrincipalType::Organization, "g"),
    ]);
    Principal { kind, id: PrincipalId::new(id).unwrap() }
}

fn edit(client: &SyncClient, random: &mut Random) {
    let nodes: Vec<Node> =
        everything(client).unwrap().into_iter().map(|entry| entry.node).collect();
    let name = Name::new(format!("n{}", random.below(6))).unwrap();
    let outcome = if nodes.len() < 3 || random.below(5) == 0 {
        let under = (!nodes.is_empty() && random.below(4) > 0).then(|| &random.one(&nodes).id);
        client.create(ObjectType::Folder, under, name).map(drop)
    } else {
        let (one, other) = (random.one(&nodes).id.clone(), random.one(&nodes).id.clone());
        let own: Vec<&Node> = nodes.iter().filter(|node| node.owner == client.user()).collect();
        let foreign: Vec<&Node> = nodes.iter().filter(|node| node.owner != client.user()).collect();
        let levels = [AccessLevel::Read, AccessLevel::Write, AccessLevel::Admin];
        match random.below(18) {
            0 => client.rename(&one, name),
            1 | 2 => client.move_to(&one, Some(&other)),
            3 => client.move_to(&one, None),
            4 => client.link(&one, &other),
            5..=7 if !own.is_empty() && !foreign.is_empty() => {
                let (here, there) = (&random.one(&own).id, &random.one(&foreign).id);
                if random.below(4) == 0 {
                    client.link(here, there)
                } else {
                    client.link(there, here)
                }
            }
            8 => match client.parents_of(&one).unwrap().as_slice() {
                [] => Ok(()),
                parents => client.unlink(&one, random.one(parents)),
            },
            9 => client.delete(&one, Delete::Item).map(drop),
            10 if random.below(2) == 0 => client.delete(&one, Delete::Recursive).map(drop),
            10 => client.move_by_copy(&one, Some(&other), name).map(drop),
            11..=13 if !own.is_empty() => {
                let item = random.one(&own).id.clone();
                client.sharing().share(&item, principal(random), *random.one(&levels))
            }
            14 => client.sharing().share(&one, principal(random), *random.one(&levels)),
            _ => match client.sharing().list().unwrap().as_slice() {
                shares if !shares.is_empty() && random.below(3) == 0 => {
                    let (item, grants) = random.one(shares);
                    client.sharing().unshare(item, random.one(grants).principal.clone()).map(drop)
                }
                _ => Ok(()),
            },
        }
    };
    match outcome {
        Ok(())
        | Err(
            ClientError::Cycle { .. }
            | ClientError::Invalid(_)
            | ClientError::NotPermitted { .. }
            | ClientError::OtherTree { .. },
        ) => {}
        Err(error) => panic!("{error}"),
    }
}

fn state_of(client: &SyncClient) -> ReplicaState {
    let mut bytes = Vec::new();
    client.export_state(StateExport::default(), &mut bytes).unwrap();
    state::parse(&bytes, &client.client_id()).unwrap()
}

/// What hangs, by links of its own realm, under nothing that is there.
fn tops(state: &ReplicaState) -> BTreeSet<ItemId> {
    let owners: HashMap<&ItemId, &UserId> =
        state.items.iter().map(|row| (&row.item.item_id, &row.item.owner_id)).collect();
    let hanging: BTreeSet<&ItemId> = state
        .links
        .iter()
        .filter(|link| owners[&link.parent_id] == owners[&link.child_id])
        .map(|link| &link.child_id)
        .collect();
    owners.into_keys().filter(|id| !hanging.contains(id)).cloned().collect()
}

async fn history(seed: u64) {
    let mut random = Random::new(seed);
    let server = TestServer::start().await;
    let token = StaticToken::new(server.token_with_scope("root", "vfs:admin"));
    let admin = HttpTransport::new(HttpConfig::new(server.url()), token).unwrap();
    let mut devices = Vec::new();
    for user in USERS {
        devices.push((user, device(&server, user, true, 500)));
        let limit = u32::try_from(1 + random.below(4)).unwrap();
        devices.push((user, device(&server, user, random.below(2) == 0, limit)));
    }
    for _ in 0..STEPS {
        let client = random.one(&devices).1.client();
        match random.below(24) {
            0..=12 => edit(client, &mut random),
            13..=18 => drop(client.sync().await.unwrap()),
            19 => drop(client.flush().await.unwrap()),
            20 => drop(client.pull().await.unwrap()),
            21 | 22 => {
                let mut group = principal(&mut random);
                if group.kind == PrincipalType::User {
                    group.kind = PrincipalType::Group;
                    group.id = PrincipalId::new("g").unwrap();
                }
                let user = UserId::new(*random.one(&USERS)).unwrap();
                admin.set_member(&group, &user, random.below(3) > 0).await.unwrap();
            }
            _ if random.below(4) == 0 => {
                server.store().new_epoch(server.clock().now(), 0).await.unwrap();
            }
            _ => server.forget(50).await,
        }
    }
    for _ in 0..3 {
        for (_, device) in &devices {
            device.sync().await.unwrap();
        }
    }
    for user in USERS {
        let fresh = device(&server, user, false, 2);
        fresh.sync().await.unwrap();
        let expected = state_of(&fresh);
        let top = tops(&expected);
        for (_, device) in devices.iter().filter(|(whose, _)| *whose == user) {
            let found = state_of(device);
            assert_eq!(found.items, expected.items, "seed {seed}, {user}: items");
            assert_eq!(found.links, expected.links, "seed {seed}, {user}: links");
            assert_eq!(found.grants, expected.grants, "seed {seed}, {user}: grants");
            let status = device.status().unwrap();
            assert_eq!((status.pending, status.acknowledged), (0, 0), "seed {seed}, {user}");
            for violation in device.violations().violations() {
                let signature = violation.signature();
                assert_eq!(signature, "pull:pullRematerializationRequired", "seed {seed}, {user}");
            }
        }
        let of_user = devices.iter().filter(|(whose, _)| *whose == user).map(|(_, one)| one);
        for device in of_user.chain([&fresh]) {
            let own = device.children(None).unwrap();
            let whose = own.iter().find(|child| child.node.owner.as_str() != user);
            assert_eq!(whose, None, "seed {seed}, {user}: an own path leads to another's item");
            let shared = device.sharing().with_me().unwrap();
            let shown: BTreeSet<ItemId> =
                own.into_iter().chain(shared).map(|child| child.node.id).collect();
            assert_eq!(shown, top, "seed {seed}, {user}: the top");
        }
    }
}

/// As many seeds as `VFS_SYNC_TEST_SEEDS` says, or 10; one of them if `VFS_SYNC_TEST_SEED` is set.
#[tokio::test(flavor = "multi_thread")]
async fn users_who_share_at_random_see_what_a_new_replica_of_theirs_would() {
    for seed in seeds(10) {
        println!("VFS_SYNC_TEST_SEED={seed}");
        history(seed).await;
    }
}
