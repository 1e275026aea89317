//! Registers: each keeps the value with the greatest stamp.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access::AccessLevel;
use crate::id::{ItemId, UserId};
use crate::item::{Encrypted, Metadata, Name, ObjectType, metadata_bytes};
use crate::limits::MAX_CLOCK_AHEAD_MILLIS;
use crate::stamp::{Author, Stamp};
use crate::time::Timestamp;

/// A value and the stamp of the write that set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register<T> {
    /// The value that was set last.
    pub value: T,
    /// The stamp of the write that set it.
    pub stamp: Stamp,
}

/// A write that arrives at a register, as the server sees it.
#[derive(Debug, Clone)]
pub struct Write {
    /// The stamp as sent, by which the write is compared.
    pub stamp: Stamp,
    /// The latest time that the server accepts: its present time plus the accepted lead.
    latest: Timestamp,
}

impl Write {
    /// Creates a write of `author` that claims the time `occurred_at` and arrives at `now`.
    #[must_use]
    pub fn new(occurred_at: Timestamp, author: Arc<Author>, now: Timestamp) -> Self {
        Self {
            stamp: Stamp { authored_at: occurred_at, author },
            latest: now.plus_millis(MAX_CLOCK_AHEAD_MILLIS),
        }
    }

    /// Returns whether the write is later than `held`.
    #[must_use]
    pub fn beats(&self, held: Option<&Stamp>) -> bool {
        held.is_none_or(|held| self.stamp > *held)
    }

    /// Returns the stamp to store for a write that supersedes `held`: greater than `held`, at most
    /// the server's time plus the accepted lead, and never later than as sent. A later stamp would
    /// supersede the replica's next write at the same time.
    #[must_use]
    pub fn stored(&self, held: Option<&Stamp>) -> Stamp {
        let believed = self.stamp.authored_at.min(self.latest);
        let stamp = Stamp { authored_at: believed, author: self.stamp.author.clone() };
        match held {
            Some(held) if stamp <= *held => {
                let above = held.authored_at.plus_millis(1);
                Stamp { authored_at: above.min(self.stamp.authored_at), ..stamp }
            }
            _ => stamp,
        }
    }

    /// Sets `register` to `value` regardless of its stamp and returns a stamp above the old one,
    /// later than as sent where necessary. It serves registers that are decided by what the author
    /// saw.
    pub fn set_above<T>(&self, register: &mut Option<Register<T>>, value: T) -> Stamp {
        let mut stamp = self.stored(None);
        if let Some(held) = register.as_ref().map(|r| &r.stamp).filter(|held| stamp <= **held) {
            stamp.authored_at = held.authored_at.plus_millis(1);
        }
        *register = Some(Register { value, stamp: stamp.clone() });
        stamp
    }

    /// Sets `register` to `value` if the write supersedes it; returns the register's new stamp.
    pub fn set<T>(&self, register: &mut Option<Register<T>>, value: T) -> Option<Stamp> {
        let held = register.as_ref().map(|r| &r.stamp);
        if !self.beats(held) {
            return None;
        }
        let stamp = self.stored(held);
        *register = Some(Register { value, stamp: stamp.clone() });
        Some(stamp)
    }
}

/// An item: its permanent owner, its time of creation, and a register for each field.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The user who owns the item.
    pub owner: UserId,
    /// The time of the item's creation.
    pub created_at: Timestamp,
    /// The registers of the item's fields.
    pub fields: ItemFields,
}

impl Item {
    /// Returns whether the item was purged: its row is a tombstone that keeps the id and the owner.
    /// Every other item has a type.
    #[must_use]
    pub fn is_purged(&self) -> bool {
        self.fields.object_type.is_none()
    }
}

/// The registers of an item.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ItemFields {
    /// The type of the item.
    pub object_type: Option<Register<ObjectType>>,
    /// The name of the item.
    pub name: Option<Register<Name>>,
    /// The metadata; `None` marks a removed key.
    pub metadata: BTreeMap<Arc<str>, Register<Option<serde_json::Value>>>,
    /// The encrypted form of the item.
    pub encrypted: Option<Register<Encrypted>>,
    /// The register "deleted" of the item.
    pub deleted: Option<Register<bool>>,
}

impl ItemFields {
    /// Returns whether the item is deleted.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.deleted.as_ref().is_some_and(|register| register.value)
    }

    /// Returns about how many bytes an entry takes that shows the item.
    #[must_use]
    pub fn weight(&self) -> usize {
        let name = self.name.as_ref().map_or(0, |name| name.value.as_str().len());
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        let encrypted = self.encrypted.as_ref().map_or(0, |register| {
            let Encrypted { payload, nonce, aad, signature, .. } = &register.value;
            payload.len() + text(nonce) + text(aad) + text(signature)
        });
        let metadata = self.metadata.iter();
        let metadata = metadata.filter_map(|(key, one)| Some((key, one.value.as_ref()?)));
        name + encrypted + metadata_bytes(metadata)
    }

    /// Returns the metadata keys that are not removed.
    #[must_use]
    pub fn live_metadata(&self) -> Metadata {
        self.metadata
            .iter()
            .filter_map(|(key, register)| Some((key.clone(), register.value.clone()?)))
            .collect()
    }

    /// Returns whether all registers except "deleted" have the same values as in `other`.
    #[must_use]
    pub fn has_values_of(&self, other: &Self) -> bool {
        fn value<T>(register: &Option<Register<T>>) -> Option<&T> {
            register.as_ref().map(|register| &register.value)
        }
        value(&self.object_type) == value(&other.object_type)
            && value(&self.name) == value(&other.name)
            && value(&self.encrypted) == value(&other.encrypted)
            && self.live_metadata() == other.live_metadata()
    }

    /// Replaces a user as the author of registers; returns whether the user was the author of any.
    pub fn rename_author(&mut self, from: &UserId, to: &UserId) -> bool {
        let mut renamed = false;
        let mut rename = |stamp: &mut Stamp| {
            if stamp.author.user == *from {
                stamp.author = Arc::new(stamp.author.renamed(to));
                renamed = true;
            }
        };
        self.object_type.iter_mut().for_each(|register| rename(&mut register.stamp));
        self.name.iter_mut().for_each(|register| rename(&mut register.stamp));
        self.encrypted.iter_mut().for_each(|register| rename(&mut register.stamp));
        self.deleted.iter_mut().for_each(|register| rename(&mut register.stamp));
        self.metadata.values_mut().for_each(|register| rename(&mut register.stamp));
        renamed
    }

    /// The greatest time among the registers.
    #[must_use]
    pub fn latest(&self) -> Option<Timestamp> {
        [
            self.object_type.as_ref().map(|r| r.stamp.authored_at),
            self.name.as_ref().map(|r| r.stamp.authored_at),
            self.encrypted.as_ref().map(|r| r.stamp.authored_at),
            self.deleted.as_ref().map(|r| r.stamp.authored_at),
            self.metadata.values().map(|r| r.stamp.authored_at).max(),
        ]
        .into_iter()
        .flatten()
        .max()
    }
}

/// The register of a link: true if the child hangs under the parent.
pub type LinkRegister = Register<bool>;

/// The level of a grant; `None` is a grant that was removed.
pub type GrantRegister = Register<Option<AccessLevel>>;

/// The register of a child's last move within a realm: the container.
pub type MoveRegister = Register<ItemId>;

/// The item's fields in the form of a database row: compact, with each stamp stored once.
#[derive(Serialize, Deserialize)]
struct StoredFields {
    version: u8,
    stamps: Vec<Stamp>,
    object_type: Option<(u32, ObjectType)>,
    name: Option<(u32, String)>,
    /// Metadata values as JSON text: the compact encoding does not describe itself.
    metadata: Vec<(String, u32, Option<String>)>,
    encrypted: Option<(u32, Encrypted)>,
    deleted: Option<(u32, bool)>,
}

const STORED_VERSION: u8 = 1;

/// An error for a row with malformed fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored item fields are malformed: {0}")]
pub struct MalformedFields(String);

impl ItemFields {
    /// Encodes the registers for the database row.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut stamps: Vec<Stamp> = Vec::with_capacity(1);
        let mut index = |stamp: &Stamp| {
            let at = stamps.iter().position(|known| known == stamp).unwrap_or_else(|| {
                stamps.push(stamp.clone());
                stamps.len() - 1
            });
            u32::try_from(at).expect("an item has fewer registers than that")
        };
        let stored = StoredFields {
            version: STORED_VERSION,
            object_type: self.object_type.as_ref().map(|r| (index(&r.stamp), r.value)),
            name: self.name.as_ref().map(|r| (index(&r.stamp), r.value.as_str().to_owned())),
            metadata: self
                .metadata
                .iter()
                .map(|(key, r)| {
                    let text = r.value.as_ref().map(serde_json::Value::to_string);
                    (key.to_string(), index(&r.stamp), text)
                })
                .collect(),
            encrypted: self.encrypted.as_ref().map(|r| (index(&r.stamp), r.value.clone())),
            deleted: self.deleted.as_ref().map(|r| (index(&r.stamp), r.value)),
            stamps,
        };
        postcard::to_stdvec(&stored).expect("writing to memory does not fail")
    }

    /// Decodes the bytes of the row.
    ///
    /// # Errors
    /// [`MalformedFields`] describes the problem.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedFields> {
        let stored: StoredFields =
            postcard::from_bytes(bytes).map_err(|error| MalformedFields(error.to_string()))?;
        if stored.version != STORED_VERSION {
            return Err(MalformedFields(format!("version {}", stored.version)));
        }
        let stamp = |index: u32| {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            let missing = || MalformedFields(format!("there is no stamp {index}"));
            stored.stamps.get(index).cloned().ok_or_else(missing)
        };
        let register = |index| move |value| Register { value, stamp: index };
        let mut fields = Self::default();
        if let Some((index, value)) = stored.object_type {
            fields.object_type = Some(Register { value, stamp: stamp(index)? });
        }
        if let Some((index, value)) = stored.name {
            let name = Name::new(value).map_err(|e| MalformedFields(format!("the name {e}")))?;
            fields.name = Some(Register { value: name, stamp: stamp(index)? });
        }
        for (key, index, text) in stored.metadata {
            let value = text
                .map(|text| serde_json::from_str(&text))
                .transpose()
                .map_err(|error| MalformedFields(error.to_string()))?;
            fields.metadata.insert(key.into(), register(stamp(index)?)(value));
        }
        if let Some((index, value)) = stored.encrypted {
            fields.encrypted = Some(Register { value, stamp: stamp(index)? });
        }
        if let Some((index, value)) = stored.deleted {
            fields.deleted = Some(Register { value, stamp: stamp(index)? });
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ReplicaId, WriteId};
    use proptest::prelude::*;

    fn author(user: &str, replica: &str, write_id: u64) -> Arc<Author> {
        Arc::new(Author {
            user: UserId::new(user).unwrap(),
            replica: ReplicaId::new(replica).unwrap(),
            write_id: WriteId::new(write_id).unwrap(),
        })
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).unwrap()
    }

    proptest! {
        /// Stamps within the server's accepted lead merge to one value in any order of arrival.
        #[test]
        fn any_order_of_arrival_gives_the_same_state(
            writes in prop::collection::vec((0i64..50, 0usize..3, 1u64..20), 1..12),
            swaps in prop::collection::vec((0usize..12, 0usize..12), 0..20),
        ) {
            let write = |&(time, who, write_id): &(i64, usize, u64)| {
                Write::new(at(time), author("u", ["a", "b", "c"][who], write_id), at(60))
            };
            let outcome = |order: &[(i64, usize, u64)]| {
                let mut register = None;
                for one in order {
                    write(one).set(&mut register, *one);
                }
                register
            };
            let mut shuffled = writes.clone();
            for (a, b) in swaps {
                let len = shuffled.len();
                shuffled.swap(a % len, b % len);
            }
            prop_assert_eq!(outcome(&writes), outcome(&shuffled));
        }

        #[test]
        fn reading_a_row_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ItemFields::from_bytes(&bytes);
        }
    }

    #[test]
    fn a_clock_that_runs_ahead_holds_a_register_for_no_more_than_a_minute() {
        let mut name = None;
        Write::new(at(10_000_000), author("u", "fast", 1), at(0)).set(&mut name, 1);
        assert_eq!(name.as_ref().unwrap().stamp.authored_at, at(60_000));
        assert!(
            Write::new(at(60_001), author("u", "slow", 1), at(60_001)).set(&mut name, 2).is_some()
        );
    }

    #[test]
    fn what_a_replica_writes_at_one_time_all_applies_whatever_the_server_believes() {
        let mut name = None;
        Write::new(at(70_000), author("u", "a", 1), at(10_000)).set(&mut name, 1);
        for write_id in 1..4 {
            let write = Write::new(at(70_000), author("u", "b", write_id), at(9_000));
            assert_eq!(write.set(&mut name, 2).unwrap().authored_at, at(70_000));
        }
    }

    #[test]
    fn a_write_does_not_beat_itself() {
        let (mut name, write) = (None, Write::new(at(5), author("u", "a", 1), at(5)));
        assert!(write.set(&mut name, 1).is_some());
        assert_eq!(write.set(&mut name, 2), None);
        assert_eq!(name.unwrap().value, 1);
    }

    #[test]
    fn what_beats_a_register_is_stored_above_it() {
        let mut name = None;
        Write::new(at(10_000_000), author("u", "b", 1), at(0)).set(&mut name, 1);
        Write::new(at(10_000_001), author("u", "a", 1), at(0)).set(&mut name, 2);
        let held = name.unwrap();
        assert_eq!((held.value, held.stamp.authored_at), (2, at(60_001)));
    }

    #[test]
    fn a_number_is_read_back_as_it_was_written() {
        let mut fields = ItemFields::default();
        let mut slot = None;
        let number = serde_json::from_str("220000000000021812456").unwrap();
        Write::new(at(6), author("v", "r", 2), at(6)).set(&mut slot, Some(number));
        fields.metadata.insert("n".into(), slot.unwrap());
        let first = ItemFields::from_bytes(&fields.to_bytes()).unwrap();
        assert_eq!(ItemFields::from_bytes(&first.to_bytes()), Ok(fields));
    }

    #[test]
    fn a_row_holds_every_register() {
        let mut fields = ItemFields::default();
        let write = Write::new(at(5), author("u", "r", 1), at(5));
        write.set(&mut fields.object_type, ObjectType::File);
        write.set(&mut fields.name, Name::new("n").unwrap());
        write.set(&mut fields.deleted, false);
        for (key, value) in [("a", Some(serde_json::json!({"b": [1, "\0"]}))), ("c", None)] {
            let mut slot = None;
            Write::new(at(6), author("v", "r", 2), at(6)).set(&mut slot, value);
            fields.metadata.insert(key.into(), slot.unwrap());
        }
        assert_eq!(ItemFields::from_bytes(&fields.to_bytes()), Ok(fields));
    }
}
