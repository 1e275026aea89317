//! Plays all states of one name: what the disk has, what the tree has and what the record says, in every
//! combination, by imports and exports until nothing changes any more.

use std::collections::BTreeSet;

use super::*;

/// Bytes; `A` is what both sides had.
const BYTES: [char; 3] = ['A', 'B', 'C'];
/// An item of the tree: that of the row, or another one of its name.
const OWN: u32 = 0;
const OTHER: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
struct World {
    /// The file's bytes, and whether its time was changed since it was recorded.
    disk: Option<(char, bool)>,
    /// The item of the name.
    tree: Option<(u32, char)>,
    /// The item of the row, and the row.
    row: Option<(u32, Row<char>)>,
    /// The conflicted copies, by item.
    copies: BTreeSet<(u32, char)>,
    /// The copies that the disk has.
    copies_here: BTreeSet<char>,
    next: u32,
}

fn item(bytes: char) -> Item<char> {
    let bytes = Some(bytes);
    Item { bytes, has_content: true, is_file: true, merges_later: false, may_write: true }
}

fn agreed(bytes: char) -> Row<char> {
    let known = Some(bytes);
    Row { was_here: true, disk: known, tree: known, coming: None, agreed: true }
}

impl World {
    fn new(disk: Option<(char, bool)>, tree: Option<(u32, char)>, row: Option<Row<char>>) -> Self {
        let row = row.map(|row| (OWN, row));
        let (copies, copies_here) = (BTreeSet::new(), BTreeSet::new());
        Self { disk, tree, row, copies, copies_here, next: 2 }
    }

    fn bytes_of(&self, id: u32) -> Option<char> {
        let all = self.tree.iter().chain(&self.copies);
        all.copied().find(|(one, _)| *one == id).map(|(_, bytes)| bytes)
    }

    fn import(&mut self) {
        let Some((bytes, touched)) = self.disk else {
            if let Some((id, row)) = self.row.filter(|(_, row)| row.was_here) {
                let found = self.tree.filter(|(one, _)| *one == id);
                if found.is_some_and(|(_, bytes)| is_deletion(&row, Some(bytes), true)) {
                    self.tree = None;
                }
                self.row = None;
            }
            return;
        };
        let is_unchanged = |row: &Row<char>| row.was_here && row.disk == Some(bytes) && !touched;
        if self.row.is_some_and(|(_, row)| is_unchanged(&row)) {
            return;
        }
        let node = match self.row {
            Some((id, _)) => self.bytes_of(id).map(item),
            None => self.tree.map(|(_, bytes)| item(bytes)),
        };
        let named = self.tree.map(|(id, _)| id);
        let name_taken = named.is_some() && named != self.row.map(|(id, _)| id);
        let name_taken = name_taken && (self.row.is_some() || node.is_none());
        let found = Found { bytes, touched, name_taken, may_create: true };
        let row = self.row.map(|(_, row)| row);
        let now = agreed(bytes);
        match to_tree(&found, row.as_ref(), node.as_ref()) {
            ToTree::MayNotCreate | ToTree::MayNotEdit => panic!("all is permitted: {self:?}"),
            ToTree::Create { aside } => {
                let id = self.next;
                self.next += 1;
                if aside {
                    let same = self.copies.iter().copied().find(|(_, copy)| *copy == bytes);
                    let (id, _) = same.unwrap_or((id, bytes));
                    self.copies.insert((id, bytes));
                    self.row = Some((id, now));
                } else {
                    assert_eq!(self.tree, None, "a name is given twice");
                    self.tree = Some((id, bytes));
                    self.row = Some((id, now));
                }
            }
            ToTree::Join => self.row = self.tree.map(|(id, _)| (id, now)),
            ToTree::EndExport | ToTree::Agree => self.row = self.row.map(|(id, _)| (id, now)),
            ToTree::TakeAttributes => {
                self.row = self.row.map(|(id, row)| (id, Row { coming: None, ..row }));
            }
            ToTree::Edit => {
                let (id, _) = self.row.unwrap();
                let named = self.tree.filter(|(one, _)| *one == id);
                if named.is_some() {
                    self.tree = Some((id, bytes));
                } else {
                    self.copies.retain(|(one, _)| *one != id);
                    self.copies.insert((id, bytes));
                }
                self.row = Some((id, now));
            }
        }
        self.disk = Some((bytes, false));
    }

    fn export(&mut self) {
        let row = self.row.map(|(_, row)| row);
        if let Some((id, wanted)) = self.tree {
            let same = self.row.is_some_and(|(of, _)| of == id);
            let decided = match self.disk {
                Some((found, _)) => to_disk(wanted, Some(found), row.as_ref()),
                None if row.is_some_and(|row| is_left_out(&row, Some(wanted), same)) => {
                    ToDisk::Differs
                }
                None => ToDisk::Replace,
            };
            match decided {
                ToDisk::Replace => {
                    self.disk = Some((wanted, false));
                    self.row = Some((id, agreed(wanted)));
                }
                ToDisk::KeepBytes => self.row = Some((id, agreed(wanted))),
                ToDisk::Differs => {}
            }
        } else if let Some((bytes, touched)) = self.disk {
            if row.is_some_and(|row| is_removal(bytes, touched, &row)) {
                (self.disk, self.row) = (None, None);
            }
        } else if self.row.is_some_and(|(id, _)| self.bytes_of(id).is_none()) {
            self.row = None;
        }
        self.copies_here = self.copies.iter().map(|(_, bytes)| *bytes).collect();
    }

    /// Imports and exports until nothing changes. With `late` the present state came about between an
    /// import and its export.
    fn settle(mut self, late: bool) -> Self {
        if late {
            self.export();
        }
        for _ in 0..6 {
            let before = self.clone();
            self.import();
            self.export();
            if self == before {
                return self;
            }
        }
        panic!("it never ends: {self:?}");
    }

    fn tree_has(&self, bytes: char) -> bool {
        self.tree.into_iter().chain(self.copies.iter().copied()).any(|(_, one)| one == bytes)
    }

    fn disk_has(&self, bytes: char) -> bool {
        self.disk.is_some_and(|(one, _)| one == bytes) || self.copies_here.contains(&bytes)
    }
}

/// Every row that an agent, killed or not, may leave behind.
fn rows() -> Vec<Option<Row<char>>> {
    let mut rows = vec![None];
    let coming = [None, Some('A'), Some('B'), Some('C')];
    for coming in coming {
        // A file that an export announced, and had not written.
        let was_here = false;
        for tree in ['A', 'B'] {
            let tree = Some(tree);
            rows.push(Some(Row { was_here, disk: None, tree, coming, agreed: true }));
        }
        for tree in ['A', 'B'] {
            for agreed in [true, false] {
                let (disk, tree) = (Some('A'), Some(tree));
                rows.push(Some(Row { was_here: true, disk, tree, coming, agreed }));
            }
        }
    }
    rows
}

/// Lists all states of a name.
fn worlds() -> Vec<World> {
    let (mut disks, mut trees) = (vec![None], vec![None]);
    for bytes in BYTES {
        disks.extend([false, true].map(|touched| Some((bytes, touched))));
        trees.extend([OWN, OTHER].map(|id| Some((id, bytes))));
    }
    let mut worlds = Vec::new();
    for row in rows() {
        for disk in &disks {
            for tree in &trees {
                // Without a row there is but one item of the name.
                let own = tree.is_some_and(|(id, _)| id == OWN);
                if row.is_some() || !own {
                    worlds.push(World::new(*disk, *tree, row));
                }
            }
        }
    }
    worlds
}

/// Returns the bytes that a person saved on the disk and that nobody else has.
fn saved_here(world: &World) -> Option<char> {
    let (bytes, _) = world.disk?;
    let is_known =
        |row: &Row<char>| row.was_here && row.disk == Some(bytes) || row.coming == Some(bytes);
    (!world.row.is_some_and(|(_, row)| is_known(&row))).then_some(bytes)
}

/// Returns the bytes that somebody saved elsewhere and this device never had.
fn saved_elsewhere(world: &World) -> Option<char> {
    let (id, bytes) = world.tree?;
    let is_known = |(of, row): (u32, Row<char>)| of == id && row.tree == Some(bytes);
    (!world.row.is_some_and(is_known)).then_some(bytes)
}

#[test]
fn nothing_saved_is_lost_in_any_state_and_both_sides_end_the_same() {
    let worlds = worlds();
    assert_eq!(worlds.len(), 1_204, "the cases that docs/testing.md names");
    let orders = [false, true].into_iter();
    for (start, late) in
        worlds.iter().flat_map(|start| orders.clone().map(move |late| (start, late)))
    {
        let end = start.clone().settle(late);
        for saved in [saved_here(start), saved_elsewhere(start)].into_iter().flatten() {
            assert!(end.tree_has(saved), "{saved} is lost: {start:?} became {end:?}");
        }
        if let Some((_, row)) = start.row.filter(|(_, row)| !row.agreed) {
            // Nobody else has the bytes that the server rejected.
            let rejected =
                start.disk.map(|(bytes, _)| bytes).filter(|bytes| row.disk == Some(*bytes));
            let stays = rejected.is_none_or(|bytes| end.disk_has(bytes));
            assert!(stays, "{start:?} became {end:?}");
            continue;
        }
        let on_disk = end.disk.map(|(bytes, _)| bytes);
        assert_eq!(on_disk, end.tree.map(|(_, bytes)| bytes), "{start:?} became {end:?}");
        let copies: BTreeSet<char> = end.copies.iter().map(|(_, bytes)| *bytes).collect();
        assert_eq!(end.copies_here, copies, "{start:?} became {end:?}");
    }
}

/// The change of a side to bytes that both had, or would have had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Nothing,
    Touched,
    Saved(char),
    Deleted,
}

/// The table of `docs/folders.md`, as it is said to people: the name's bytes and those of the copy.
fn table(here: Change, elsewhere: Change) -> (Option<char>, Option<char>) {
    use Change::{Deleted, Nothing, Saved, Touched};
    match (here, elsewhere) {
        (Nothing | Touched, Nothing | Touched) => (Some('A'), None),
        (Saved(one), Nothing | Touched | Deleted) | (Nothing | Touched | Deleted, Saved(one)) => {
            (Some(one), None)
        }
        (Saved(one), Saved(same)) if one == same => (Some(one), None),
        (Saved(here), Saved(elsewhere)) => (Some(elsewhere), Some(here)),
        (Touched, Deleted) | (Deleted, Touched) => (Some('A'), None),
        (Deleted | Nothing, Deleted) | (Deleted, Nothing) => (None, None),
    }
}

#[test]
fn every_pair_of_changes_ends_as_the_table_says() {
    use Change::{Deleted, Nothing, Saved, Touched};
    let mut pairs = 0;
    for here in [Nothing, Touched, Saved('B'), Saved('C'), Deleted] {
        for elsewhere in [Nothing, Saved('B'), Saved('C'), Deleted] {
            let disk = match here {
                Nothing => Some(('A', false)),
                Touched => Some(('A', true)),
                Saved(bytes) => Some((bytes, true)),
                Deleted => None,
            };
            let tree = match elsewhere {
                Saved(bytes) => Some((OWN, bytes)),
                Deleted => None,
                _ => Some((OWN, 'A')),
            };
            for late in [false, true] {
                let end = World::new(disk, tree, Some(agreed('A'))).settle(late);
                let copy = end.copies.first().map(|(_, bytes)| *bytes);
                let name = end.tree.map(|(_, bytes)| bytes);
                assert_eq!((name, copy), table(here, elsewhere), "{here:?} and {elsewhere:?}");
            }
            pairs += 1;
        }
    }
    assert_eq!(pairs, 20);
    // Both made a file of one name.
    for here in BYTES {
        for elsewhere in BYTES {
            let end = World::new(Some((here, true)), Some((OTHER, elsewhere)), None).settle(false);
            let copy = end.copies.first().map(|(_, bytes)| *bytes);
            let other = (here != elsewhere).then_some(here);
            assert_eq!((end.tree, copy), (Some((OTHER, elsewhere)), other));
        }
    }
}

#[test]
fn what_is_not_permitted_changes_nothing() {
    for start in worlds() {
        let Some((bytes, touched)) = start.disk else { continue };
        let found = Found { bytes, touched, name_taken: false, may_create: false };
        let row = start.row.map(|(_, row)| row);
        let node = start.tree.map(|(_, bytes)| Item { may_write: false, ..item(bytes) });
        let decided = to_tree(&found, row.as_ref(), node.as_ref());
        assert_ne!(decided, ToTree::Edit, "{start:?}");
        if saved_here(&start).is_some() && start.tree.is_none_or(|(_, there)| there != bytes) {
            let refused = [ToTree::MayNotCreate, ToTree::MayNotEdit];
            assert!(refused.contains(&decided), "{start:?}: {decided:?}");
        }
    }
}
