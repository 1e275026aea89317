//! The register store against a plain map: pushes by three replicas whose clocks say what they
//! like, decided on rows that are kept as bytes, must leave in every register what a map from
//! registers to the last write that won has.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vfs_sync_core::access::{AccessLevel, Principal, PrincipalType};
use vfs_sync_core::id::{ItemId, OpId, PrincipalId, ReplicaId, UserId, WriteId};
use vfs_sync_core::item::{Name, ObjectType};
use vfs_sync_core::operation::{Action, Operation, Upsert};
use vfs_sync_core::register::{GrantRegister, Item, ItemFields};
use vfs_sync_core::server::push::{Changes, Needs, PresentInFeed, PushBatch, Rows, Step, decide};
use vfs_sync_core::time::Timestamp;
use vfs_sync_core::wire::PushStatus;

const ITEMS: u8 = 3;
/// How far a clock may run ahead.
const MINUTE: i64 = 60_000;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis).expect("a time")
}

/// What a write sets, and to what.
type Sets = BTreeMap<String, String>;
/// A stamp: time, replica, write id. All are one user's.
type Stamp = (i64, u8, u64);

/// The rows, as a database has them.
#[derive(Default)]
struct Store {
    items: BTreeMap<ItemId, (UserId, Timestamp, Vec<u8>)>,
    grants: BTreeMap<(ItemId, Principal), GrantRegister>,
    last: BTreeMap<u8, WriteId>,
}

impl Store {
    fn load(&self, needs: &Needs) -> Rows {
        let mut rows = Rows::default();
        for id in &needs.items {
            let item = self.items.get(id).map(|(owner, created_at, fields)| Item {
                owner: owner.clone(),
                created_at: *created_at,
                fields: ItemFields::from_bytes(fields).expect("a row that was written"),
            });
            rows.items.insert(id.clone(), item);
        }
        for (key, grant) in &self.grants {
            let around = needs.around.contains(&key.0) || needs.granted.contains(&key.0);
            if needs.grants.contains(key) || (around && grant.value.is_some()) {
                rows.grants.insert(key.clone(), Some(grant.clone()));
            }
        }
        rows
    }

    fn push(&mut self, replica: u8, op: Operation, now: i64) -> PushStatus {
        let user = UserId::new("u").expect("an id");
        let batch = PushBatch::new(user, op.replica_id.clone(), vec![op]);
        let mut rows = Rows::default();
        rows.last_write_id = self.last.get(&replica).copied();
        while let Some(needs) = batch.needs(&rows) {
            let found = self.load(&needs);
            rows.absorb(needs, found);
        }
        let decided = decide(&batch, rows, at(now));
        let mut step = decided.propagation.step();
        let changes = loop {
            step = match step {
                Step::Load(load) => {
                    let found = self.load(load.needs());
                    load.resume(found)
                }
                Step::LockHeads(lock) => lock.resume(),
                Step::LookUp(look_up) => look_up.resume(&PresentInFeed::new()),
                Step::Write(changes) => break *changes,
                Step::TooMuch | Step::NoMemory => unreachable!("one operation on few items"),
            };
        };
        self.write(replica, changes);
        decided.response.results[0].status
    }

    fn write(&mut self, replica: u8, changes: Changes) {
        for (id, item) in changes.items {
            let bytes = item.fields.to_bytes();
            self.items.insert(id, (item.owner, item.created_at, bytes));
        }
        self.grants.extend(changes.grants);
        self.last.extend(changes.last_write_id.map(|last| (replica, last)));
    }

    /// Every register with its value and its stamp's time.
    fn registers(&self) -> BTreeMap<(ItemId, String), (String, i64)> {
        let mut all = BTreeMap::new();
        for (id, (.., bytes)) in &self.items {
            let fields = ItemFields::from_bytes(bytes).expect("a row that was written");
            let mut put = |name: &str, value: String, time: Timestamp| {
                all.insert((id.clone(), name.to_owned()), (value, time.as_millis()));
            };
            if let Some(one) = &fields.object_type {
                put("type", format!("{:?}", one.value), one.stamp.authored_at);
            }
            if let Some(one) = &fields.name {
                put("name", one.value.to_string(), one.stamp.authored_at);
            }
            if let Some(one) = &fields.deleted {
                put("deleted", one.value.to_string(), one.stamp.authored_at);
            }
            for (key, one) in &fields.metadata {
                put(&format!("key {key}"), format!("{:?}", one.value), one.stamp.authored_at);
            }
        }
        for ((id, principal), grant) in &self.grants {
            let name = format!("grant {}", principal.id);
            let held = (format!("{:?}", grant.value), grant.stamp.authored_at.as_millis());
            all.insert((id.clone(), name), held);
        }
        all
    }
}

/// The rule, over a plain map: the greatest stamp wins, as it was sent; it is kept no later than
/// the server believes, but above what it beat. An operation counts if it won a register.
#[derive(Default)]
struct Model(BTreeMap<(ItemId, String), (String, Stamp)>);

impl Model {
    fn write(&mut self, item: &ItemId, sets: Sets, sent: Stamp, now: i64) -> bool {
        let mut won = false;
        for (name, value) in sets {
            let key = (item.clone(), name);
            let held = self.0.get(&key).map(|(_, stamp)| *stamp);
            if held.is_some_and(|held| sent <= held) {
                continue;
            }
            let mut kept = (sent.0.min(now + MINUTE), sent.1, sent.2);
            if let Some(held) = held.filter(|held| kept <= *held) {
                kept.0 = held.0 + 1;
            }
            self.0.insert(key, (value, kept));
            won = true;
        }
        won
    }
}

/// The action that a byte stands for, and what it sets.
fn action(kind: u8, value: u8, is_new: bool) -> (Action, Sets) {
    let mut sets = Sets::new();
    let mut upsert = Upsert::default();
    let types = [ObjectType::Folder, ObjectType::File, ObjectType::Note];
    if is_new || kind & 1 != 0 {
        let object_type = types[usize::from(value) % types.len()];
        upsert.object_type = Some(object_type);
        sets.insert("type".into(), format!("{object_type:?}"));
    }
    if kind & 2 != 0 {
        let name = Name::new(format!("n{}", value % 8)).expect("a name");
        sets.insert("name".into(), name.to_string());
        upsert.name = Some(name);
    }
    for (bit, key) in [(4, "a"), (8, "b")] {
        if kind & bit != 0 {
            let json = (value % 4 != 0).then(|| serde_json::Value::from(value));
            sets.insert(format!("key {key}"), format!("{json:?}"));
            upsert.metadata.insert(Arc::from(key), json);
        }
    }
    match kind >> 4 {
        0 if !is_new => (Action::Delete, Sets::from([("deleted".to_owned(), true.to_string())])),
        1 if !is_new => {
            let id = PrincipalId::new(format!("p{}", value % 2)).expect("an id");
            let principal = Principal { kind: PrincipalType::Group, id };
            let level = [AccessLevel::Read, AccessLevel::Write][usize::from(value >> 1) % 2];
            let name = format!("grant {}", principal.id);
            if value & 4 == 0 {
                let sets = Sets::from([(name, format!("{:?}", Some(level)))]);
                (Action::GrantAdd { principal, level }, sets)
            } else {
                let sets = Sets::from([(name, format!("{:?}", None::<AccessLevel>))]);
                (Action::GrantRemove { principal }, sets)
            }
        }
        _ => {
            sets.insert("deleted".into(), false.to_string());
            (Action::Upsert(Box::new(upsert)), sets)
        }
    }
}

fuzz_target!(|steps: &[u8]| {
    let (mut store, mut model) = (Store::default(), Model::default());
    let mut now = 1_000_000i64;
    let mut used = [0u64; 3];
    for step in steps.chunks_exact(6) {
        let &[who, what, kind, value, time, clock] = step else { continue };
        now = (now + i64::from(clock) * 500 - 20_000).max(0);
        let replica = who % 3;
        used[usize::from(replica)] += 1;
        let write_id = used[usize::from(replica)];
        // From a minute before the server's time to two after it, seldom to the millisecond.
        let occurred_at = (now + i64::from(time) * 705 - MINUTE).max(0);
        let item = ItemId::new(format!("i{}", what % ITEMS)).expect("an id");
        let (action, sets) = action(kind, value, !store.items.contains_key(&item));
        let op = Operation {
            op_id: OpId::new(format!("op-{replica}-{write_id}")).expect("an id"),
            item_id: item.clone(),
            replica_id: ReplicaId::new(format!("r{replica}")).expect("an id"),
            write_id: WriteId::new(write_id).expect("a write id"),
            occurred_at: at(occurred_at),
            basis: None,
            action,
        };
        let status = store.push(replica, op.clone(), now);
        let won = model.write(&item, sets, (occurred_at, replica, write_id), now);
        let expected = if won { PushStatus::Applied } else { PushStatus::OutdatedOp };
        assert_eq!(status, expected, "{op:?}");
        let found = store.registers();
        let kept: BTreeMap<_, _> = model
            .0
            .iter()
            .map(|(key, (value, stamp))| (key.clone(), (value.clone(), stamp.0)))
            .collect();
        assert_eq!(found, kept, "after {op:?}");
        assert_eq!(
            store.push(replica, op, now),
            PushStatus::StaleWriteId,
            "nobody knows it any more"
        );
        assert_eq!(store.registers(), kept, "and it changes nothing");
    }
});
