//! Decides what becomes of a file that one side or both have changed, without a look at a disk or a
//! replica.
//!
//! An import asks [`to_tree`] about a file that it has read, and [`is_deletion`] about one that is
//! missing; an export asks [`to_disk`] and [`is_left_out`] about a file of the tree, and [`is_removal`]
//! about one that the tree lacks. `D` is what identifies bytes: a digest.

/// The record of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row<D> {
    /// True if the file was on the disk: not if its row only announces an export.
    pub(crate) was_here: bool,
    /// The bytes that the disk had.
    pub(crate) disk: Option<D>,
    /// The bytes that the tree had.
    pub(crate) tree: Option<D>,
    /// The bytes that an export was about to write, which may have ended before or after it did.
    pub(crate) coming: Option<D>,
    /// True if the tree may replace and remove the file: the server did not reject it.
    pub(crate) agreed: bool,
}

/// The item of a file's row; without a row, the item that has the file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item<D> {
    /// The item's bytes; those of a link are its target.
    pub(crate) bytes: Option<D>,
    /// True if the item has a content: no link, no folder, and not one whose content is on its way.
    pub(crate) has_content: bool,
    /// True for an item that is a file on a disk.
    pub(crate) is_file: bool,
    /// True if another device has yet to send the item's content, and both are merged once it did.
    pub(crate) merges_later: bool,
    /// True if the user may change the item.
    pub(crate) may_write: bool,
}

/// A file on the disk that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found<D> {
    pub(crate) bytes: D,
    /// True if its time or permission bits are not those of its row.
    pub(crate) touched: bool,
    /// True if another item than that of its row has its name.
    pub(crate) name_taken: bool,
    /// True if the user may create items in its folder.
    pub(crate) may_create: bool,
}

/// The step of an import for a file that it has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToTree {
    /// Nothing: the user may not create an item there.
    MayNotCreate,
    /// Nothing: the user may not change the item.
    MayNotEdit,
    /// It creates an item; with `aside` under the name of a conflicted copy.
    Create { aside: bool },
    /// It ties the file to the item of its name, which has the same bytes.
    Join,
    /// It ends what an export began: that export wrote these bytes, and no user did.
    EndExport,
    /// It takes at most the time and the permission bits: the bytes are those of the row.
    TakeAttributes,
    /// It brings the row up to date: the item got the same bytes on its own.
    Agree,
    /// It gives the item these bytes.
    Edit,
}

/// Decides about a file that an import has read.
pub(crate) fn to_tree<D: Copy + Eq>(
    found: &Found<D>,
    row: Option<&Row<D>>,
    item: Option<&Item<D>>,
) -> ToTree {
    let bytes = Some(found.bytes);
    let row = row.filter(|row| row.was_here || row.coming == bytes);
    let is_edited_elsewhere =
        |row: &Row<D>, item: &Item<D>| item.has_content && row.tree != item.bytes;
    let is_edit = row.zip(item).is_some_and(|(row, item)| !is_edited_elsewhere(row, item));
    let is_known = row.is_some_and(|row| row.disk == bytes || row.coming == bytes)
        || item.is_some_and(|item| item.bytes == bytes);
    if !found.may_create && !is_edit && !is_known {
        return ToTree::MayNotCreate;
    }
    let Some(row) = row else {
        return match item {
            None => ToTree::Create { aside: found.name_taken },
            Some(item) if item.is_file && item.bytes == bytes => ToTree::Join,
            Some(item) => ToTree::Create { aside: !item.merges_later },
        };
    };
    if row.coming == bytes && row.disk != bytes {
        return ToTree::EndExport;
    }
    if row.disk == bytes {
        return match item {
            // Deleted in the tree, and changed here.
            None if row.agreed && found.touched => ToTree::Create { aside: found.name_taken },
            _ => ToTree::TakeAttributes,
        };
    }
    match item {
        None => ToTree::Create { aside: found.name_taken },
        Some(item) if item.bytes == bytes => ToTree::Agree,
        Some(item) if is_edited_elsewhere(row, item) => ToTree::Create { aside: true },
        Some(item) if !item.may_write => ToTree::MayNotEdit,
        Some(_) => ToTree::Edit,
    }
}

/// Decides about a file whose item got other bytes from another entry of it, which the import has read
/// before.
pub(crate) fn second_edit<D>(found: &Found<D>) -> ToTree {
    match found.may_create {
        true => ToTree::Create { aside: true },
        false => ToTree::MayNotCreate,
    }
}

/// The step of an export for a file of the tree, where the disk has a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToDisk {
    /// It sets at most time and bits: the file has the bytes.
    KeepBytes,
    /// It replaces the file, which is as it was recorded.
    Replace,
    /// Nothing: the file is none that the tree may replace.
    Differs,
}

/// Decides about a file of the tree with the bytes `wanted`, where the disk has a file with the bytes
/// `found`, if they are known.
pub(crate) fn to_disk<D: Copy + Eq>(wanted: D, found: Option<D>, row: Option<&Row<D>>) -> ToDisk {
    if found == Some(wanted) {
        return ToDisk::KeepBytes;
    }
    // An export that was killed may have written what it announced.
    let is_recorded = |row: &Row<D>| row.agreed && (row.disk == found || row.coming == found);
    match found.is_some() && row.is_some_and(is_recorded) {
        true => ToDisk::Replace,
        false => ToDisk::Differs,
    }
}

/// Returns whether an export leaves out an item, with the bytes `bytes`, where the disk has nothing:
/// the user has removed the file, and the next import deletes the item. `is_same_item` says that the
/// row is of this item at this place.
pub(crate) fn is_left_out<D: Eq>(row: &Row<D>, bytes: Option<D>, is_same_item: bool) -> bool {
    row.was_here && row.agreed && is_same_item && row.tree == bytes
}

/// Returns whether a file that is missing from the disk deletes its item: nobody has changed the item
/// since. `bytes` are those of the item; `is_as_recorded` says so of its place, name, time and bits.
pub(crate) fn is_deletion<D: Eq>(row: &Row<D>, bytes: Option<D>, is_as_recorded: bool) -> bool {
    row.agreed && is_as_recorded && row.tree == bytes
}

/// Returns whether an export removes a file that the tree lacks: it is as it was recorded, or as an
/// export has written it. `touched` says that its time or permission bits are not those of the row.
pub(crate) fn is_removal<D: Eq>(found: D, touched: bool, row: &Row<D>) -> bool {
    let bytes = Some(found);
    row.agreed && (row.disk == bytes && !touched || row.coming == bytes)
}

#[cfg(test)]
mod tests;
