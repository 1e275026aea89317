//! Rows in the order of their keys, with the data to undo an open transaction.

use std::collections::BTreeMap;

/// A table whose changes since the last commit can be undone.
#[derive(Debug, Clone)]
pub(super) struct Table<K, V> {
    rows: BTreeMap<K, V>,
    /// The rows before each change, the oldest first.
    undo: Vec<(K, Option<V>)>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), undo: Vec::new() }
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    pub(super) fn rows(&self) -> &BTreeMap<K, V> {
        &self.rows
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    pub(super) fn put(&mut self, key: K, row: V) {
        let before = self.rows.insert(key.clone(), row);
        self.undo.push((key, before));
    }

    /// Removes a row; returns whether it existed.
    pub(super) fn remove(&mut self, key: &K) -> bool {
        let Some(before) = self.rows.remove(key) else { return false };
        self.undo.push((key.clone(), Some(before)));
        true
    }

    pub(super) fn commit(&mut self) {
        self.undo.clear();
    }

    pub(super) fn rollback(&mut self) {
        for (key, before) in self.undo.drain(..).rev() {
            match before {
                Some(row) => drop(self.rows.insert(key, row)),
                None => drop(self.rows.remove(&key)),
            }
        }
    }
}

/// A table whose keys belong to groups, each of which can be looked up as a whole.
#[derive(Debug, Clone)]
pub(super) struct Grouped<G, K, V> {
    groups: BTreeMap<G, BTreeMap<K, V>>,
    undo: Vec<(G, K, Option<V>)>,
}

impl<G, K, V> Default for Grouped<G, K, V> {
    fn default() -> Self {
        Self { groups: BTreeMap::new(), undo: Vec::new() }
    }
}

impl<G: Ord + Clone, K: Ord + Clone + 'static, V: 'static> Grouped<G, K, V> {
    const NONE: &'static BTreeMap<K, V> = &BTreeMap::new();

    pub(super) fn groups(&self) -> &BTreeMap<G, BTreeMap<K, V>> {
        &self.groups
    }

    /// Returns the rows of a group; none if there is no such group.
    pub(super) fn group(&self, group: &G) -> &BTreeMap<K, V> {
        self.groups.get(group).unwrap_or(Self::NONE)
    }

    pub(super) fn get(&self, group: &G, key: &K) -> Option<&V> {
        self.groups.get(group)?.get(key)
    }

    pub(super) fn put(&mut self, group: &G, key: K, row: V) {
        let before = set(&mut self.groups, group, &key, Some(row));
        self.undo.push((group.clone(), key, before));
    }

    /// Removes a row; returns whether it existed.
    pub(super) fn remove(&mut self, group: &G, key: &K) -> bool {
        let Some(before) = set(&mut self.groups, group, key, None) else { return false };
        self.undo.push((group.clone(), key.clone(), Some(before)));
        true
    }

    pub(super) fn remove_group(&mut self, group: &G) {
        for (key, row) in self.groups.remove(group).into_iter().flatten() {
            self.undo.push((group.clone(), key, Some(row)));
        }
    }

    pub(super) fn commit(&mut self) {
        self.undo.clear();
    }

    pub(super) fn rollback(&mut self) {
        for (group, key, before) in self.undo.drain(..).rev() {
            set(&mut self.groups, &group, &key, before);
        }
    }
}

/// Sets or removes a row, and removes a group with its last row; returns the previous row.
fn set<G: Ord + Clone, K: Ord + Clone, V>(
    groups: &mut BTreeMap<G, BTreeMap<K, V>>,
    group: &G,
    key: &K,
    row: Option<V>,
) -> Option<V> {
    match (groups.get_mut(group), row) {
        (Some(rows), Some(row)) => rows.insert(key.clone(), row),
        (None, Some(row)) => {
            groups.insert(group.clone(), BTreeMap::from([(key.clone(), row)]));
            None
        }
        (Some(rows), None) => {
            let before = rows.remove(key);
            if rows.is_empty() {
                groups.remove(group);
            }
            before
        }
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, u8, u8),
        Remove(u8, u8),
        RemoveGroup(u8),
        Commit,
        Rollback,
    }

    fn step() -> impl Strategy<Value = Step> {
        let (group, key) = (0u8..3, 0u8..3);
        prop_oneof![
            8 => (group.clone(), key.clone(), any::<u8>()).prop_map(|(g, k, v)| Step::Put(g, k, v)),
            4 => (group.clone(), key).prop_map(|(g, k)| Step::Remove(g, k)),
            1 => group.prop_map(Step::RemoveGroup),
            1 => Just(Step::Commit),
            1 => Just(Step::Rollback),
        ]
    }

    proptest! {
        #[test]
        fn a_rollback_leaves_what_was_committed(steps in prop::collection::vec(step(), 1..80)) {
            let mut grouped = Grouped::<u8, u8, u8>::default();
            let mut table = Table::<(u8, u8), u8>::default();
            let (mut model, mut committed) = (BTreeMap::new(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Put(group, key, value) => {
                        grouped.put(&group, key, value);
                        table.put((group, key), value);
                        model.insert((group, key), value);
                    }
                    Step::Remove(group, key) => {
                        let there = model.remove(&(group, key)).is_some();
                        prop_assert_eq!(grouped.remove(&group, &key), there);
                        prop_assert_eq!(table.remove(&(group, key)), there);
                    }
                    Step::RemoveGroup(group) => {
                        grouped.remove_group(&group);
                        let keys = model.keys().copied().filter(|(of, _)| *of == group);
                        for key in keys.collect::<Vec<_>>() {
                            model.remove(&key);
                            table.remove(&key);
                        }
                    }
                    Step::Commit => {
                        grouped.commit();
                        table.commit();
                        committed.clone_from(&model);
                    }
                    Step::Rollback => {
                        grouped.rollback();
                        table.rollback();
                        model.clone_from(&committed);
                    }
                }
                prop_assert_eq!(table.rows(), &model);
                let rows = grouped.groups().iter();
                let rows = rows.flat_map(|(g, rows)| rows.iter().map(|(k, v)| ((*g, *k), *v)));
                prop_assert_eq!(rows.collect::<BTreeMap<_, _>>(), model.clone());
                prop_assert!(grouped.groups().values().all(|rows| !rows.is_empty()));
            }
        }
    }
}
