//! The promises to a device: edits that returned, in a folder that only it writes to.

use std::collections::{BTreeMap, BTreeSet};

use vfs_sync_client::core::id::ItemId;
use vfs_sync_client::core::item::Name;
use vfs_sync_client::{Delete, SyncClient};
use vfs_sync_testkit::Random;

/// The name of the folders, followed by the device's number.
pub(crate) const LEDGER: &str = "ledger";

/// An entry as it must be in the end.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    name: String,
    /// The value of its one key.
    count: u64,
    content: Option<Content>,
}

#[derive(Clone, PartialEq)]
struct Content(Vec<u8>);

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = &self.0[..self.0.len().min(4)];
        write!(f, "{} bytes that begin with {first:?}", self.0.len())
    }
}

pub(crate) struct Ledger {
    folder: ItemId,
    entries: BTreeMap<ItemId, Entry>,
    deleted: Vec<ItemId>,
    next: u64,
}

impl Ledger {
    /// A new one, queued on `client`.
    pub(crate) fn open(client: &SyncClient, device: usize) -> Self {
        let name = Name::new(format!("{LEDGER} {device}")).unwrap();
        let folder = client.create_folder(None, name).unwrap();
        Self { folder, entries: BTreeMap::new(), deleted: Vec::new(), next: 0 }
    }

    /// Makes an edit and writes down what it promises, once the call has returned.
    pub(crate) fn write(&mut self, client: &SyncClient, random: &mut Random) {
        self.next += 1;
        let known: Vec<ItemId> = self.entries.keys().cloned().collect();
        if known.is_empty() || random.below(3) == 0 {
            let name = format!("entry {}", self.next);
            let item = client.create_file(Some(&self.folder), Name::new(&name).unwrap()).unwrap();
            self.entries.insert(item, Entry { name, count: 0, content: None });
            return;
        }
        let item = random.one(&known).clone();
        let entry = self.entries.get_mut(&item).unwrap();
        match random.below(6) {
            0 => {
                entry.name = format!("renamed {}", self.next);
                client.rename(&item, Name::new(&entry.name).unwrap()).unwrap();
            }
            1..=3 => {
                entry.count = self.next;
                client.set_metadata(&item, vec![("n".into(), Some(entry.count.into()))]).unwrap();
            }
            4 => {
                let len = 1 + random.below(2_000);
                let content = random.bytes(len);
                client.contents().put(&item, content.as_slice()).unwrap();
                entry.content = Some(Content(content));
            }
            _ => {
                client.delete(&item, Delete::Item).unwrap();
                self.entries.remove(&item);
                self.deleted.push(item);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Fails unless all that was promised is there, and nothing else.
    pub(crate) async fn check(&self, client: &SyncClient) {
        let found = self.found(client).await;
        let differs = |item: &&ItemId| found.get(*item) != self.entries.get(*item);
        let all: BTreeSet<&ItemId> = found.keys().chain(self.entries.keys()).collect();
        let differing: Vec<String> = all
            .into_iter()
            .filter(differs)
            .map(|item| {
                let (promised, is) = (self.entries.get(item), found.get(item));
                format!("{item}: {promised:?} was promised, not {is:?}")
            })
            .collect();
        assert!(differing.is_empty(), "{differing:#?}");
        for gone in &self.deleted {
            assert_eq!(client.node(gone).unwrap(), None, "what was deleted stays so");
        }
    }

    /// Takes note of deleted entries that are back: if a deletion was lost, and another device that
    /// had not heard of it offers a lost change of the item, the item lives. Returns how many.
    pub(crate) async fn take_revived(&mut self, client: &SyncClient) -> u64 {
        let found = self.found(client).await;
        let (back, gone) = std::mem::take(&mut self.deleted)
            .into_iter()
            .partition::<Vec<_>, _>(|item| found.contains_key(item));
        self.deleted = gone;
        let count = back.len() as u64;
        self.entries.extend(back.into_iter().map(|item| (item.clone(), found[&item].clone())));
        count
    }

    /// Returns the entries that a device shows.
    async fn found(&self, client: &SyncClient) -> BTreeMap<ItemId, Entry> {
        let children = client.children(Some(&self.folder)).unwrap();
        let mut found: BTreeMap<ItemId, Entry> = BTreeMap::new();
        for child in children {
            let count = child.node.metadata.get("n").and_then(serde_json::Value::as_u64);
            let content = match &child.node.content {
                Some(_) => {
                    let local = client.contents().read(&child.node.id).await.unwrap();
                    let mut bytes = Vec::new();
                    std::io::Read::read_to_end(&mut local.reader().unwrap(), &mut bytes).unwrap();
                    Some(Content(bytes))
                }
                None => None,
            };
            let name = child.node.name.clone().unwrap().to_string();
            let entry = Entry { name, count: count.unwrap_or(0), content };
            found.insert(child.node.id, entry);
        }
        found
    }
}
