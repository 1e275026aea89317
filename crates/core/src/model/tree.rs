//! The tree as an application sees it: the confirmed state with the queued operations on top, and a
//! unique name for each sibling.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::access::AccessLevel;
use crate::content::{Attachment, Sha256Digest};
use crate::entry::ItemView;
use crate::id::{BlobId, ItemId, UserId};
use crate::item::{Encrypted, Metadata, Name, ObjectType};
use crate::limits::MAX_NAME_BYTES;
use crate::operation::{Action, Operation, Upsert};
use crate::shown::shown_time;
use crate::time::Timestamp;

/// An item as the application sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The id of the item.
    pub id: ItemId,
    /// The user who owns the item.
    pub owner: UserId,
    /// The type of the item.
    pub object_type: ObjectType,
    /// The name as it was set; siblings may share it.
    pub name: Option<Name>,
    /// The metadata of the item.
    pub metadata: Metadata,
    /// The encrypted form, if the item has one.
    pub encrypted: Option<Encrypted>,
    /// The time of the item's creation.
    pub created_at: Timestamp,
    /// The level of access that the reader has.
    pub access_level: AccessLevel,
    /// The content, if the item has one.
    pub content: Option<NodeContent>,
    /// True if this replica has operations or contents of the item that the server does not have
    /// yet.
    pub pending: bool,
}

/// The content of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeContent {
    /// The blob with the bytes.
    pub blob_id: BlobId,
    /// The size of the content in bytes.
    pub size: u64,
    /// The SHA-256 digest of the bytes.
    pub digest: Sha256Digest,
    /// The content type that the uploader stated.
    pub content_type: Option<Arc<str>>,
    /// The time of the bytes as the client stated it; clients of earlier versions stated none.
    pub modified_at: Option<Timestamp>,
}

impl From<Attachment> for NodeContent {
    fn from(attachment: Attachment) -> Self {
        Self {
            blob_id: attachment.blob_id,
            size: attachment.size,
            digest: attachment.digest,
            content_type: attachment.content_type,
            modified_at: attachment.modified_at,
        }
    }
}

impl Node {
    /// Builds the node of an item as the server shows it, with its content.
    #[must_use]
    pub fn confirmed(view: ItemView, content: Option<NodeContent>) -> Self {
        Self {
            id: view.item_id,
            owner: view.owner_id,
            object_type: view.object_type,
            name: view.name,
            metadata: view.metadata,
            encrypted: view.encrypted,
            created_at: view.created_at,
            access_level: view.access_level,
            content,
            pending: false,
        }
    }

    /// Returns the time to show: the content's time, or else the time of the item's creation, which
    /// is the same on every replica.
    #[must_use]
    pub fn modified_at(&self) -> Timestamp {
        let content = self.content.as_ref().map(|content| (&content.blob_id, content.modified_at));
        shown_time(&self.metadata, content).unwrap_or(self.created_at)
    }
}

/// A node with the queued operations on it applied.
#[derive(Debug, Clone)]
pub struct Overlay<'a> {
    user: &'a UserId,
    node: Option<Node>,
    deleted: bool,
}

impl<'a> Overlay<'a> {
    /// Begins with the confirmed node, if there is one. `user` owns items that the queue creates at
    /// the top.
    #[must_use]
    pub fn new(user: &'a UserId, confirmed: Option<Node>) -> Self {
        Self { user, node: confirmed, deleted: false }
    }

    /// Applies one operation to the overlay. `place` is the owner of the named parent's tree, and
    /// the reader's level in that tree: a created item gets both.
    pub fn apply(&mut self, op: &Operation, place: Option<(UserId, AccessLevel)>) {
        match &op.action {
            Action::Delete => self.deleted = true,
            Action::Upsert(upsert) => {
                if self.node.is_none() {
                    let Some(object_type) = upsert.object_type else { return };
                    let own = || (self.user.clone(), AccessLevel::Admin);
                    let (owner, access_level) = place.unwrap_or_else(own);
                    self.node = Some(Node {
                        id: op.item_id.clone(),
                        owner,
                        object_type,
                        name: None,
                        metadata: Metadata::new(),
                        encrypted: None,
                        created_at: op.occurred_at,
                        access_level,
                        content: None,
                        pending: true,
                    });
                }
                self.deleted = false;
                if let Some(node) = &mut self.node {
                    set_fields(node, upsert);
                }
            }
            _ => {}
        }
        if let Some(node) = &mut self.node {
            node.pending = true;
        }
    }

    /// Returns the resulting node; `None` if it is missing or deleted.
    #[must_use]
    pub fn finish(self) -> Option<Node> {
        if self.deleted { None } else { self.node }
    }
}

fn set_fields(node: &mut Node, upsert: &Upsert) {
    if let Some(object_type) = upsert.object_type {
        node.object_type = object_type;
    }
    if let Some(name) = &upsert.name {
        node.name = Some(name.clone());
    }
    if let Some(encrypted) = &upsert.encrypted {
        node.encrypted = Some(encrypted.clone());
    }
    for (key, value) in &upsert.metadata {
        match value {
            Some(value) => node.metadata.insert(key.clone(), value.clone()),
            None => node.metadata.remove(key),
        };
    }
}

/// The parents of an item after one more queued operation. `confirmed` says whether the server has
/// the item; `same_tree` whether two containers have one owner.
pub fn overlay_parents(
    parents: &mut BTreeSet<ItemId>,
    op: &Operation,
    confirmed: bool,
    mut same_tree: impl FnMut(&ItemId, &ItemId) -> bool,
) {
    match &op.action {
        // The container of a creation applies only until the server's links of the item arrive.
        Action::Upsert(upsert) => {
            if let (Some(parent), Some(_), false) = (&upsert.parent, upsert.object_type, confirmed)
            {
                parents.insert(parent.clone());
            }
        }
        Action::LinkAdd { parent } => {
            parents.insert(parent.clone());
        }
        Action::LinkRemove { parent } => {
            parents.remove(parent);
        }
        Action::LinkReassign { parent } => {
            parents.retain(|other| !same_tree(other, parent));
            parents.insert(parent.clone());
        }
        Action::Delete | Action::GrantAdd { .. } | Action::GrantRemove { .. } => {}
    }
}

/// Returns a name for each of `siblings`, in their order: unique among them, and the same on every
/// replica. If several share a name, the one created first keeps it and each later one shows as
/// `name (conflict <short id>).ext`. An item without a name shows as `untitled (<short id>)`.
///
/// `home` owns their container, or the tree at its top. Items of other owners, linked or shared
/// into it, count as later, so they never take a name from the owner's items.
#[must_use]
pub fn sibling_names<'a>(
    home: &UserId,
    siblings: impl IntoIterator<Item = &'a Node>,
) -> Vec<String> {
    let siblings: Vec<&Node> = siblings.into_iter().collect();
    let mut first: HashMap<&str, usize> = HashMap::with_capacity(siblings.len());
    for (index, node) in siblings.iter().enumerate() {
        let Some(name) = &node.name else { continue };
        first
            .entry(name.as_str())
            .and_modify(|best| {
                let key = |node: &Node| (node.owner != *home, node.created_at, node.id.clone());
                if key(node) < key(siblings[*best]) {
                    *best = index;
                }
            })
            .or_insert(index);
    }
    let mut later: Vec<usize> = (0..siblings.len())
        .filter(|index| {
            let name = siblings[*index].name.as_ref();
            name.is_none_or(|name| first.get(name.as_str()) != Some(index))
        })
        .collect();
    // In the order of ids, so that who yields to whom does not depend on the order asked in.
    later.sort_by(|a, b| siblings[*a].id.cmp(&siblings[*b].id));
    let mut made: HashMap<usize, String> = HashMap::with_capacity(later.len());
    let mut taken: HashSet<String> = HashSet::new();
    for index in later {
        let node = siblings[index];
        let digest = blake3::hash(node.id.as_str().as_bytes()).to_hex();
        let name = [8, 16, 32, 64]
            .into_iter()
            .map(|digits| conflict_name(node.name.as_ref(), &digest[..digits]))
            .find(|name| !first.contains_key(name.as_str()) && !taken.contains(name))
            .unwrap_or_else(|| digest.to_string());
        taken.insert(name.clone());
        made.insert(index, name);
    }
    let shown = |(index, node): (usize, &&Node)| {
        let plain = || node.name.as_ref().map_or_else(String::new, |name| name.as_str().to_owned());
        made.remove(&index).unwrap_or_else(plain)
    };
    siblings.iter().enumerate().map(shown).collect()
}

/// The name with a conflict mark before its extension, cut so that it stays a valid name.
fn conflict_name(name: Option<&Name>, short_id: &str) -> String {
    let Some(name) = name else { return format!("untitled ({short_id})") };
    with_mark(name.as_str(), &format!(" (conflict {short_id})"))
}

/// The greatest number of bytes of the device's name in a conflicted copy's name.
const MAX_DEVICE_BYTES: usize = 64;

/// Returns the name of a conflicted copy: `name (conflict <device> <date>).ext`. The date is the
/// day (UTC) of `at`, the time of the content. A mark that `name` already has is replaced. `number`
/// distinguishes copies of one day: 0 adds nothing. The stem is cut at a character boundary to fit
/// a name.
#[must_use]
pub fn conflict_copy_name(name: &Name, device: &str, at: Timestamp, number: u32) -> Name {
    let name = name.as_str();
    let (stem, extension) = split_extension(name);
    let plain = without_mark(stem);
    let device = device_name(device);
    let date = at.to_string();
    let date = &date[..10];
    let mark = match number {
        0 => format!(" (conflict {device} {date})"),
        n => format!(" (conflict {device} {date} {n})"),
    };
    let marked = with_mark(&format!("{plain}{extension}"), &mark);
    Name::new(marked).unwrap_or_else(|_| Name::new("conflict").expect("a word is a name"))
}

/// A device's name for a conflicted copy: shortened, and without characters that file names should
/// not have.
#[must_use]
pub fn device_name(device: &str) -> String {
    let kept = |c: char| !(c.is_control() || "/\\:*?\"<>|()".contains(c));
    let text: String = device.chars().filter(|c| kept(*c)).collect();
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut end = text.len().min(MAX_DEVICE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    let text = text.trim_end();
    if text.is_empty() { "device".to_owned() } else { text.to_owned() }
}

/// The stem without the mark of a conflicted copy at its end.
fn without_mark(stem: &str) -> &str {
    const MARK: &str = " (conflict ";
    let Some(body) = stem.strip_suffix(')') else { return stem };
    match body.rfind(MARK) {
        Some(at) if at > 0 && !body[at + MARK.len()..].contains(['(', ')']) => &stem[..at],
        _ => stem,
    }
}

fn split_extension(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        // An extension is short; a dot at the start begins a hidden name.
        Some(dot) if dot > 0 && name.len() - dot <= 32 => name.split_at(dot),
        _ => (name, ""),
    }
}

fn with_mark(name: &str, mark: &str) -> String {
    let (stem, extension) = split_extension(name);
    let room = MAX_NAME_BYTES.saturating_sub(mark.len() + extension.len());
    let mut end = stem.len().min(room);
    while !stem.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{mark}{extension}", &stem[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn node(id: &str, name: Option<&str>, created: i64) -> Node {
        Node {
            id: ItemId::new(id).unwrap(),
            owner: user("u"),
            object_type: ObjectType::File,
            name: name.map(|name| Name::new(name).unwrap()),
            metadata: Metadata::new(),
            encrypted: None,
            created_at: Timestamp::from_millis(created).unwrap(),
            access_level: AccessLevel::Admin,
            content: None,
            pending: false,
        }
    }

    #[test]
    fn the_later_of_two_siblings_with_one_name_is_marked() {
        let (a, b) = (node("a", Some("n.txt"), 2), node("b", Some("n.txt"), 1));
        let names = sibling_names(&user("u"), [&a, &b]);
        assert_eq!(names[1], "n.txt");
        assert!(names[0].starts_with("n (conflict ") && names[0].ends_with(").txt"), "{names:?}");
        assert_eq!(sibling_names(&user("u"), [&b, &a]), [names[1].clone(), names[0].clone()]);
    }

    #[test]
    fn what_somebody_shares_takes_no_name_away() {
        let (own, mut shared) = (node("a", Some("Docs"), 2), node("b", Some("Docs"), 1));
        shared.owner = user("bob");
        let names = sibling_names(&user("u"), [&own, &shared]);
        assert_eq!(names[0], "Docs");
        assert!(names[1].starts_with("Docs (conflict "), "{names:?}");
    }

    #[test]
    fn a_mark_goes_before_what_can_be_an_extension_and_the_name_stays_as_long_as_it_may() {
        let marked = |name: &str| {
            let (a, b) = (node("a", Some(name), 1), node("b", Some(name), 2));
            sibling_names(&user("u"), [&a, &b]).remove(1)
        };
        let long = format!("{}.txt", "n".repeat(100));
        assert!(marked(&long).ends_with(").txt"), "{}", marked(&long));
        let (extension, none) = (format!("abcdef.{}", "x".repeat(31)), "x".repeat(32));
        assert!(marked(&extension).starts_with("abcdef (conflict "));
        assert!(
            marked(&format!("abcdef.{none}")).starts_with(&format!("abcdef.{none} (conflict "))
        );
        let longest = format!("{}.txt", "n".repeat(MAX_NAME_BYTES - 4));
        assert_eq!(marked(&longest).len(), MAX_NAME_BYTES);
    }

    #[test]
    fn a_conflicted_copy_says_which_device_and_which_day() {
        let at: Timestamp = "2026-03-04T23:59:59.999Z".parse().unwrap();
        let copy = |name: &str, device: &str, number| {
            let copy = conflict_copy_name(&Name::new(name).unwrap(), device, at, number);
            copy.as_str().to_owned()
        };
        assert_eq!(copy("report.txt", "laptop", 0), "report (conflict laptop 2026-03-04).txt");
        assert_eq!(copy("Makefile", "laptop", 2), "Makefile (conflict laptop 2026-03-04 2)");
        assert_eq!(copy(".profile", "laptop", 0), ".profile (conflict laptop 2026-03-04)");
        let again = copy("report (conflict phone 2025-01-01 3).txt", "laptop", 0);
        assert_eq!(again, "report (conflict laptop 2026-03-04).txt", "a mark is replaced");
        assert_eq!(
            copy("a (b) (conflict (x)).c", "l", 0),
            "a (b) (conflict (x)) (conflict l 2026-03-04).c"
        );
        assert_eq!(
            copy("a", " my/ big\n(old) \u{7}host ", 0),
            "a (conflict my bigold host 2026-03-04)"
        );
        assert_eq!(copy("a", "///", 0), "a (conflict device 2026-03-04)");
        let long = copy(&format!("{}.txt", "é".repeat(125)), &"d".repeat(300), 0);
        assert!(long.len() <= MAX_NAME_BYTES && long.ends_with(" 2026-03-04).txt"), "{long}");
        assert_eq!(copy(&long, "x", 0), copy(&long, "x", 0));
    }

    fn operation(item: &str, action: Action) -> Operation {
        Operation {
            op_id: crate::id::OpId::new("op").unwrap(),
            item_id: ItemId::new(item).unwrap(),
            replica_id: crate::id::ReplicaId::new("r").unwrap(),
            write_id: crate::id::WriteId::FIRST,
            occurred_at: Timestamp::from_millis(7).unwrap(),
            basis: None,
            action,
        }
    }

    fn upsert(object_type: Option<ObjectType>, name: Option<&str>) -> Upsert {
        Upsert { object_type, name: name.map(|n| Name::new(n).unwrap()), ..Upsert::default() }
    }

    fn sets(upsert: Upsert) -> Operation {
        operation("a", Action::Upsert(Box::new(upsert)))
    }

    #[test]
    fn what_is_queued_lies_over_what_is_confirmed() {
        let me = user("u");
        let over = |confirmed: Option<Node>, ops: &[Operation]| {
            let mut overlay = Overlay::new(&me, confirmed);
            ops.iter().for_each(|op| overlay.apply(op, None));
            overlay.finish()
        };
        let mut confirmed = node("a", Some("old"), 1);
        confirmed.metadata.insert("gone".into(), 1.into());
        assert_eq!(over(Some(confirmed.clone()), &[]), Some(confirmed.clone()));

        let mut edit = upsert(Some(ObjectType::Note), Some("new"));
        edit.metadata.insert("gone".into(), None);
        edit.metadata.insert("k".into(), Some(2.into()));
        let shown = over(Some(confirmed.clone()), &[sets(edit)]).unwrap();
        let metadata = std::iter::once((Arc::from("k"), 2.into())).collect();
        let expected = Node {
            object_type: ObjectType::Note,
            name: Some(Name::new("new").unwrap()),
            metadata,
            pending: true,
            ..confirmed.clone()
        };
        assert_eq!(shown, expected);

        let delete = operation("a", Action::Delete);
        assert_eq!(over(Some(confirmed.clone()), std::slice::from_ref(&delete)), None);
        let revived = [delete, sets(upsert(None, Some("back")))];
        assert_eq!(over(Some(confirmed), &revived).unwrap().name.unwrap().as_str(), "back");
        assert_eq!(over(None, &[sets(upsert(None, Some("n")))]), None, "of nobody knows what");
    }

    #[test]
    fn what_is_created_is_the_users_own_unless_its_place_is_anothers() {
        let me = user("u");
        let made = |place: Option<(UserId, AccessLevel)>| {
            let mut overlay = Overlay::new(&me, None);
            overlay.apply(&sets(upsert(Some(ObjectType::File), Some("n"))), place);
            overlay.finish().unwrap()
        };
        let own = Node { pending: true, ..node("a", Some("n"), 7) };
        assert_eq!(made(None), own);
        let there = Node { owner: user("bob"), access_level: AccessLevel::Write, ..own };
        assert_eq!(made(Some((user("bob"), AccessLevel::Write))), there);
    }

    #[test]
    fn parents_follow_what_is_queued() {
        let id = |text: &str| ItemId::new(text).unwrap();
        let under = |of: &[&str], op: &Operation, confirmed: bool| {
            let mut parents: BTreeSet<ItemId> = of.iter().map(|text| id(text)).collect();
            // Those that begin alike are in one tree.
            let same = |a: &ItemId, b: &ItemId| a.as_str()[..1] == b.as_str()[..1];
            overlay_parents(&mut parents, op, confirmed, same);
            parents.iter().map(|parent| parent.as_str().to_owned()).collect::<Vec<_>>()
        };
        let created =
            |object_type| sets(Upsert { parent: Some(id("a1")), ..upsert(object_type, None) });
        let file = Some(ObjectType::File);
        assert_eq!(under(&[], &created(file), false), ["a1"]);
        assert!(under(&[], &created(file), true).is_empty(), "the server has told");
        assert!(under(&[], &created(None), false).is_empty(), "it creates nothing");
        let to = |action: fn(ItemId) -> Action| operation("a", action(id("a1")));
        let add = to(|parent| Action::LinkAdd { parent });
        assert_eq!(under(&["a2"], &add, true), ["a1", "a2"]);
        let remove = to(|parent| Action::LinkRemove { parent });
        assert_eq!(under(&["a1", "a2"], &remove, true), ["a2"]);
        let reassign = to(|parent| Action::LinkReassign { parent });
        assert_eq!(under(&["a2", "b1"], &reassign, true), ["a1", "b1"], "within one tree");
        assert_eq!(under(&["a2"], &operation("a", Action::Delete), true), ["a2"]);
    }

    #[test]
    fn names_are_unique_and_valid_whatever_the_siblings_are_called() {
        let long = "é".repeat(127);
        let marked =
            sibling_names(&user("u"), [&node("a", Some("n"), 1), &node("b", Some("n"), 2)]);
        let nodes = [
            node("a", Some("n"), 1),
            node("b", Some("n"), 2),
            node("c", Some(&marked[1]), 3),
            node("d", None, 1),
            node("e", None, 1),
            node("f", Some(&long), 1),
            node("g", Some(&long), 2),
            node("h", Some(".hidden"), 1),
            node("i", Some(".hidden"), 2),
        ];
        let names = sibling_names(&user("u"), &nodes);
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), nodes.len(), "{names:?}");
        assert!(names.iter().all(|name| Name::new(name).is_ok()), "{names:?}");
        assert!(names[8].starts_with(".hidden (conflict "), "{names:?}");
    }
}
