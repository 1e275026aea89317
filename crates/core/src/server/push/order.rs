//! The order in which a propagation visits items: each after everything above it that may change.
//!
//! Items are numbered by their depth, the length of the longest way up, and visited by ascending
//! number. What a visit adds hangs under the visited item and so has a greater number: no item is
//! visited twice. Depths take all links upward; they are loaded only where more than one way may
//! lead down to an item.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::{Changes, Map, Rows, Set};
use crate::id::ItemId;

/// Items to visit, by depth.
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    waiting: BTreeMap<usize, BTreeSet<ItemId>>,
    depths: Map<ItemId, usize>,
    began: bool,
}

impl Order {
    /// Moves the items of `frontier`, whose surroundings are loaded, to their places. Returns the
    /// items whose links upward it takes to do so; then it has moved none.
    pub(super) fn place(
        &mut self,
        frontier: &mut BTreeSet<ItemId>,
        rows: &Rows,
        changes: &Changes,
    ) -> BTreeSet<ItemId> {
        let mut missing = BTreeSet::new();
        if !self.began {
            // With nothing else to visit, or nothing under any of them, none is above another.
            let apart = frontier.len() <= 1 || frontier.iter().all(|id| rows.is_leaf(id));
            if apart {
                self.depths.extend(frontier.iter().map(|id| (id.clone(), 0)));
            }
        }
        for id in &*frontier {
            if !self.depths.contains_key(id) {
                self.number(id, rows, changes, &mut missing);
            }
        }
        if missing.is_empty() {
            self.began |= !frontier.is_empty();
            for id in std::mem::take(frontier) {
                let depth = self.depths.get(&id).copied().unwrap_or(0);
                self.waiting.entry(depth).or_default().insert(id);
            }
        }
        missing
    }

    /// Returns whether the item has its place and was not visited yet.
    pub(super) fn has(&self, id: &ItemId) -> bool {
        let depth = self.depths.get(id);
        depth.and_then(|depth| self.waiting.get(depth)).is_some_and(|items| items.contains(id))
    }

    /// Takes the items to visit next, none of which is above another; none once all were visited.
    pub(super) fn next(&mut self) -> BTreeSet<ItemId> {
        self.waiting.pop_first().map(|(_, items)| items).unwrap_or_default()
    }

    /// Takes all items that were not visited yet.
    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = ItemId> + use<> {
        std::mem::take(&mut self.waiting).into_values().flatten()
    }

    /// Numbers an item and all above it that have no number yet. Adds the items whose links upward
    /// are not loaded to `missing`; then it may number none.
    fn number(
        &mut self,
        id: &ItemId,
        rows: &Rows,
        changes: &Changes,
        missing: &mut BTreeSet<ItemId>,
    ) {
        let mut found_missing = false;
        let mut entered: Set<ItemId> = Set::default();
        let mut open: Vec<ItemId> = vec![id.clone()];
        while let Some(at) = open.last().cloned() {
            if self.depths.contains_key(&at) {
                open.pop();
                continue;
            }
            let first = entered.insert(at.clone());
            let mut depth = 0;
            for parent in rows.parents(&at) {
                match self.depths.get(parent) {
                    Some(above) => depth = depth.max(above + 1),
                    None if first => {
                        // What a load of links upward found has all its links loaded; the item
                        // itself was found otherwise, and so was the end of a link that is new.
                        let key = (parent.clone(), at.clone());
                        let is_known = at != *id || rows.ancestors.contains(&at);
                        let loaded = (is_known && !changes.links.contains_key(&key))
                            || rows.ancestors.contains(parent)
                            || changes.new_items.contains(parent);
                        if loaded {
                            open.push(parent.clone());
                        } else {
                            missing.insert(parent.clone());
                            found_missing = true;
                        }
                    }
                    // A cycle, which no links of a realm make.
                    None => {}
                }
            }
            if !first {
                open.pop();
                if !found_missing {
                    self.depths.insert(at, depth);
                }
            }
        }
    }
}

impl Rows {
    /// Returns whether nothing hangs under an item whose surroundings are loaded.
    fn is_leaf(&self, id: &ItemId) -> bool {
        self.around.contains(id) && self.children(id).next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::rows::Link;
    use super::*;
    use crate::id::{ReplicaId, UserId, WriteId};
    use crate::register::Register;
    use crate::stamp::{Author, Stamp};
    use crate::time::Timestamp;

    fn id(n: usize) -> ItemId {
        ItemId::new(format!("i{n:04}")).unwrap()
    }

    /// Rows with these links, as a load of all surroundings leaves them.
    fn rows(links: impl IntoIterator<Item = (usize, usize)>) -> Rows {
        let author = Author {
            user: UserId::new("u").unwrap(),
            replica: ReplicaId::new("r").unwrap(),
            write_id: WriteId::FIRST,
        };
        let stamp = Stamp { authored_at: Timestamp::MIN, author: Arc::new(author) };
        let mut rows = Rows::default();
        for (parent, child) in links {
            let register = Register { value: true, stamp: stamp.clone() };
            rows.set_link((id(parent), id(child)), Link { register, in_realm: true });
            rows.around.extend([id(parent), id(child)]);
        }
        rows
    }

    /// Visits what is below `roots`; returns the visits and the number of loads of links upward.
    fn visits(rows: &mut Rows, roots: &[usize]) -> (Vec<ItemId>, usize) {
        let (mut order, changes) = (Order::default(), Changes::default());
        let mut frontier: BTreeSet<ItemId> = roots.iter().map(|n| id(*n)).collect();
        let (mut visits, mut loads) = (Vec::new(), 0);
        loop {
            let missing = order.place(&mut frontier, rows, &changes);
            if !missing.is_empty() {
                loads += 1;
                rows.ancestors.extend(missing);
                continue;
            }
            let next = order.next();
            if next.is_empty() {
                return (visits, loads);
            }
            for id in next {
                frontier.extend(rows.children(&id).filter(|child| !order.has(child)).cloned());
                visits.push(id);
            }
        }
    }

    /// Checks that `visits` has each item once, and after all that it hangs under.
    fn check(rows: &Rows, visits: &[ItemId]) {
        let place = |id: &ItemId| visits.iter().position(|one| one == id);
        for (at, id) in visits.iter().enumerate() {
            assert_eq!(place(id), Some(at), "{id} is visited twice");
            for parent in rows.parents(id) {
                assert!(place(parent) < Some(at), "{id} is visited before {parent}");
            }
        }
    }

    #[test]
    fn a_mesh_is_visited_once_whatever_the_order_of_its_ids() {
        const N: usize = 60;
        let pairs = || (0..N).flat_map(|a| (a + 1..N).map(move |b| (a, b)));
        let mut ascending = rows(pairs());
        let (seen, _) = visits(&mut ascending, &[0]);
        assert_eq!(seen.len(), N);
        check(&ascending, &seen);
        let mut descending = rows(pairs().map(|(a, b)| (N - a, N - b)));
        let (seen, _) = visits(&mut descending, &[N]);
        assert_eq!(seen.len(), N);
        check(&descending, &seen);
    }

    #[test]
    fn a_chain_with_a_way_from_each_of_its_items_to_the_last_visits_that_once() {
        const N: usize = 60;
        let chain = (0..N).map(|n| (n, n + 1));
        let mut rows = rows(chain.chain((0..N).map(|n| (n, 1_000))));
        let (seen, _) = visits(&mut rows, &[0]);
        check(&rows, &seen);
        assert_eq!(seen.last(), Some(&id(1_000)));
    }

    #[test]
    fn several_roots_are_visited_from_the_top_down() {
        let mut rows = rows((0..20).map(|n| (n + 1, n)));
        let (seen, loads) = visits(&mut rows, &[0, 10, 5, 15]);
        check(&rows, &seen);
        assert_eq!((seen.len(), loads), (16, 1));
    }

    #[test]
    fn a_tree_takes_no_links_upward() {
        let mut rows = rows((0..40).flat_map(|n| [(n, 2 * n + 1), (n, 2 * n + 2)]));
        let (seen, loads) = visits(&mut rows, &[0]);
        check(&rows, &seen);
        assert_eq!((seen.len(), loads), (81, 0));
    }

    #[test]
    fn a_cycle_which_no_database_should_have_ends() {
        let mut rows = rows([(0, 1), (1, 2), (2, 0), (2, 3)]);
        let (mut order, changes) = (Order::default(), Changes::default());
        let mut frontier = BTreeSet::from([id(0), id(1)]);
        let missing = order.place(&mut frontier, &rows, &changes);
        rows.ancestors.extend(missing);
        assert!(order.place(&mut frontier, &rows, &changes).is_empty());
        assert!(!order.next().is_empty());
    }
}
