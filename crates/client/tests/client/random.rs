//! Random edits on several replicas at random lag: whatever happens, they end up alike, like a
//! replica that starts from nothing, and no guardrail fires.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;
use vfs_sync_client::core::id::{ItemId, UserId};
use vfs_sync_client::core::item::Name;
use vfs_sync_client::{
    ClientConfig, ClientError, Delete, HttpConfig, HttpTransport, StateExport, StaticToken,
    SyncClient, Transport,
};
use vfs_sync_testkit::{TestServer, ViolationCollector};

const CLIENTS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Edit { client: usize, kind: u8, item: usize, other: usize },
    Sync(usize),
    Flush(usize),
    Pull(usize),
    Reopen,
    Rematerialise(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..CLIENTS;
    let edit = (client.clone(), 0u8..11, 0usize..50, 0usize..50)
        .prop_map(|(client, kind, item, other)| Step::Edit { client, kind, item, other });
    let step = prop_oneof![
        12 => edit,
        2 => client.clone().prop_map(Step::Sync),
        1 => client.clone().prop_map(Step::Flush),
        1 => client.clone().prop_map(Step::Pull),
        1 => Just(Step::Reopen),
        1 => client.prop_map(Step::Rematerialise),
    ];
    prop::collection::vec(step, 1..60)
}

struct World {
    server: TestServer,
    dir: tempfile::TempDir,
    clients: Vec<SyncClient>,
    violations: Arc<ViolationCollector>,
    made: usize,
}

fn config(page_limit: u32) -> ClientConfig {
    ClientConfig { page_limit, ..ClientConfig::default() }
}

fn transport(server: &TestServer) -> Arc<dyn Transport> {
    let token = StaticToken::new(server.token("alice"));
    Arc::new(HttpTransport::new(HttpConfig::new(server.url()), token).unwrap())
}

fn registers(client: &SyncClient) -> BTreeMap<String, Value> {
    let mut bytes = Vec::new();
    client.export_state(StateExport::default(), &mut bytes).unwrap();
    let mut state: BTreeMap<String, Value> = serde_json::from_slice(&bytes).unwrap();
    let of_all = ["items", "links", "grants", "attachments", "queue"];
    state.retain(|field, _| of_all.contains(&field.as_str()));
    state
}

fn live(client: &SyncClient) -> Vec<ItemId> {
    let entries = client.walk(None).unwrap().map(|entry| entry.unwrap().node.id);
    entries.collect::<BTreeSet<_>>().into_iter().collect()
}

/// What is shown can be reached, is acyclic, and hangs where it says.
fn check_tree(client: &SyncClient) {
    let shown = live(client);
    for id in &shown {
        let parents = client.parents_of(id).unwrap();
        let top = client.children(None).unwrap().iter().any(|child| child.node.id == *id);
        assert_eq!(top, parents.is_empty(), "{id} at the top, under {parents:?}");
        for parent in parents {
            let below = client.children(Some(&parent)).unwrap();
            assert!(below.iter().any(|child| child.node.id == *id));
        }
        let path = client.path_of(id).unwrap();
        assert_eq!(client.resolve(&path).unwrap().id, *id, "{path}");
    }
    let state = registers(client);
    let all = state["items"].as_array().unwrap();
    for item in all {
        let id = ItemId::new(item["itemId"].as_str().unwrap()).unwrap();
        let there = client.node(&id).unwrap().is_some();
        assert_eq!(there, shown.binary_search(&id).is_ok(), "{id} is shown or gone");
    }
}

impl World {
    async fn new() -> Self {
        let server = TestServer::start().await;
        let dir = tempfile::tempdir().unwrap();
        let user = || UserId::new("alice").unwrap();
        let violations = Arc::new(ViolationCollector::default());
        let durable = SyncClient::builder(transport(&server))
            .server("s")
            .config(config(2))
            .create(dir.path(), user());
        let mut clients = vec![durable.unwrap()];
        for page_limit in [1, 500] {
            let config = config(page_limit);
            clients.push(
                SyncClient::builder(transport(&server)).config(config).in_memory(user()).unwrap(),
            );
        }
        for client in &clients {
            client.observe(violations.clone());
        }
        Self { server, dir, clients, violations, made: 0 }
    }

    fn edit(&mut self, client: usize, kind: u8, item: usize, other: usize) {
        let client = &self.clients[client];
        let shown = live(client);
        self.made += 1;
        let name = Name::new(format!("n{}", self.made % 5)).unwrap();
        let pick = |index: usize| shown.get(index % shown.len().max(1));
        let (item, other) = (pick(item), pick(other));
        let Some(item) = item.filter(|_| kind > 0) else {
            client.create_folder(None, name).unwrap();
            return;
        };
        let done = match (kind, other) {
            (1 | 2, _) => client.create_folder(Some(item), name).map(drop),
            (3, _) => client.rename(item, name),
            (4, _) => {
                let key = format!("k{}", self.made % 3);
                client.set_metadata(item, vec![(key, Some(self.made.into()))])
            }
            (5, Some(other)) => client.move_to(item, Some(other)),
            (6, Some(other)) => client.link(item, other),
            (7, _) => client.move_to(item, None),
            (8, _) => client.delete(item, Delete::Item).map(drop),
            (9, _) => client.delete(item, Delete::Recursive).map(drop),
            _ => {
                let content = format!("content {}", self.made);
                client.contents().put(item, content.as_bytes()).map(drop)
            }
        };
        match done {
            Ok(()) | Err(ClientError::Cycle { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Edit { client, kind, item, other } => {
                self.edit(client, kind, item, other);
                check_tree(&self.clients[client]);
            }
            Step::Sync(client) => {
                self.clients[client].sync().await.unwrap();
                check_tree(&self.clients[client]);
            }
            Step::Flush(client) => {
                self.clients[client].flush().await.unwrap();
                check_tree(&self.clients[client]);
            }
            Step::Pull(client) => {
                self.clients[client].pull().await.unwrap();
                check_tree(&self.clients[client]);
            }
            Step::Rematerialise(client) => {
                self.clients[client].rematerialise().await.unwrap();
                check_tree(&self.clients[client]);
            }
            Step::Reopen => {
                let before = registers(&self.clients[0]);
                drop(self.clients.remove(0));
                let transport = transport(&self.server);
                let client =
                    SyncClient::builder(transport).config(config(2)).open(self.dir.path()).unwrap();
                client.observe(self.violations.clone());
                assert_eq!(registers(&client), before);
                self.clients.insert(0, client);
            }
        }
    }

    /// Everybody syncs until nobody has anything left; then all are alike.
    async fn settle(&self) {
        for _ in 0..3 {
            for client in &self.clients {
                client.sync().await.unwrap();
            }
        }
        let user = UserId::new("alice").unwrap();
        let fresh = SyncClient::builder(transport(&self.server))
            .config(config(500))
            .in_memory(user)
            .unwrap();
        fresh.sync().await.unwrap();
        check_tree(&fresh);
        let expected = registers(&fresh);
        let paths = |client: &SyncClient| {
            let entries = client.walk(None).unwrap().map(|entry| entry.unwrap());
            entries.map(|entry| (entry.path, entry.node)).collect::<Vec<_>>()
        };
        for client in &self.clients {
            check_tree(client);
            let rejected = client.queue().rejected(10).unwrap();
            assert!(rejected.is_empty(), "{rejected:?}");
            for upload in client.queue().rejected_uploads().unwrap() {
                let beaten = upload.reason.contains("unknown_item");
                assert!(beaten, "only a later delete beats a content: {upload:?}");
            }
            assert_eq!(registers(client), expected);
            assert_eq!(paths(client), paths(&fresh));
        }
        assert_eq!(self.violations.violations(), []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn replicas_converge_whatever_is_edited_and_however_they_lag(steps in steps()) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.take(step).await;
            }
            world.settle().await;
        });
    }
}
