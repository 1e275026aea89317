//! `folder forget`: deletes ignored items in the tree, and touches no disk.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vfs_sync_client::{Node, SyncClient};
use vfs_sync_core::id::ItemId;
use vfs_sync_folder::disk::dir::Root;
use vfs_sync_folder::disk::metadata::{OnDisk, on_disk};
use vfs_sync_folder::disk::names;
use vfs_sync_folder::ignore::{self, Rules, RulesFile, Trust};

use super::crossing::{item_under, live_place};
use crate::args::Global;
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, counted};
use crate::replica::{self, crossing};

/// Deletes in the tree the ignored items at and under the path `path` of a live folder's directory.
pub(super) fn forget(
    global: &Global,
    replica: &Path,
    (path, dry_run): (&Path, bool),
    output: Output,
    stop: &CancellationToken,
) -> Result<()> {
    let client = replica::open(global, replica::config())?;
    let mut settings = replica::read_settings(replica)?;
    let (folder, at) = live_place(&mut settings, path)?;
    let (directory, top) = (folder.directory.clone(), folder.item.clone());
    let under = |at: &Path| match at.as_os_str().is_empty() {
        true => Ok(None),
        false => item_under(&client, folder, at, path).map(Some),
    };
    let parent = under(at.parent().unwrap_or(Path::new("")))?.map(|node| node.id);
    let parent = parent.or_else(|| top.clone());
    let node = under(&at)?;
    let what = format!("cannot read {}", directory.display());
    let root = Root::open(&directory).map_err(Failure::io(what))?;
    let trust = crossing::trust(replica, &directory)?.without_saving();
    let others = match &top {
        Some(item) => client.node(item)?.is_some_and(|node| node.owner != client.user()),
        None => false,
    };
    let mut forget = Forget { client: &client, root, trust, others, stop, found: Vec::new() };
    match &node {
        Some(node) => forget.find(node, parent, &at)?,
        None => forget.find_under(top, PathBuf::new(), Rules::default())?,
    }
    let Forget { found, .. } = forget;
    if found.is_empty() {
        let text = format!("no rule ignores {} or anything in it", path.display());
        return Err(Failure::new(Kind::NotFound, text)
            .hint("`.vfsignore` has the rules; `vfs-sync rm` deletes what is not ignored"));
    }
    // All of it or nothing.
    let (mut batch, mut deleted) = (client.batch(), 0);
    for Ignored { id, parent, at } in &found {
        if client.parents_of(id)?.len() > 1
            && let Some(parent) = parent
        {
            // It is in other folders too.
            batch.unlink(id, parent);
            deleted += 1;
            continue;
        }
        if !client.sharing().may_delete(id)? {
            let text = format!("you may not delete {}", directory.join(at).display());
            return Err(Failure::failed(text).hint("nothing was deleted; ask its owner"));
        }
        deleted += batch.delete_tree(id)?;
    }
    if dry_run {
        deleted = 0;
    } else {
        batch.commit()?;
    }
    let word = if dry_run { "would delete" } else { "deleted in the tree:" };
    let paths: Vec<_> = found.iter().map(|one| names::path_text(&one.at)).collect();
    for path in &paths {
        output.say(format_args!("{word} {}", escaped(path)))?;
    }
    output.json(
        &json!({ "directory": directory, "paths": paths, "deleted": deleted, "dryRun": dry_run }),
    )?;
    match dry_run {
        true => Ok(()),
        false => output.say(format_args!(
            "{} deleted in the tree; no disk changes: `vfs-sync trash` has them for 30 days",
            counted(deleted, "item is", "items are")
        )),
    }
}

struct Forget<'a> {
    client: &'a SyncClient,
    root: Root,
    trust: Trust,
    /// True if the directory is in step with another owner's tree.
    others: bool,
    stop: &'a CancellationToken,
    found: Vec<Ignored>,
}

/// An ignored item, without those under it.
struct Ignored {
    id: ItemId,
    /// The folder that the directory shows it in.
    parent: Option<ItemId>,
    /// The path in the directory.
    at: PathBuf,
}

impl Forget<'_> {
    /// Finds the ignored items at and under an item with the path `at`.
    fn find(&mut self, node: &Node, parent: Option<ItemId>, at: &Path) -> Result<()> {
        let mut rules = Rules::default();
        let mut above = PathBuf::new();
        for name in at {
            rules = self.rules_in(&above, &rules)?;
            let is_folder = above.join(name) != at || is_a_folder(node);
            if rules.ignore(&above, name, is_folder, size(node)) {
                self.found.push(Ignored { id: node.id.clone(), parent, at: at.to_owned() });
                return Ok(());
            }
            above.push(name);
        }
        self.find_under(Some(node.id.clone()), at.to_owned(), rules)
    }

    /// Finds the ignored items under a folder of the tree (`None`: the top), to whose path `rules`
    /// apply.
    fn find_under(&mut self, folder: Option<ItemId>, at: PathBuf, rules: Rules) -> Result<()> {
        let mut left = vec![(folder, at, rules)];
        while let Some((folder, path, rules)) = left.pop() {
            if self.stop.is_cancelled() {
                return Err(crate::shutdown::interrupted());
            }
            let children = self.client.children(folder.as_ref())?;
            let rules = match children.is_empty() {
                true => continue,
                false => self.rules_in(&path, &rules)?,
            };
            for child in children.into_iter().filter(|child| !child.shortcut) {
                let name = names::to_disk(&child.name);
                let at = path.join(&name);
                if rules.ignore(&path, &name, is_a_folder(&child.node), size(&child.node)) {
                    self.found.push(Ignored { id: child.node.id, parent: folder.clone(), at });
                } else if is_a_folder(&child.node) {
                    left.push((Some(child.node.id), at, rules.clone()));
                }
            }
        }
        self.found.sort_by(|a, b| a.at.cmp(&b.at));
        Ok(())
    }

    /// Returns the rules for the entries of a folder: those above, and its own on the disk.
    fn rules_in(&mut self, path: &Path, above: &Rules) -> Result<Rules> {
        let found = match self.root.folder(path) {
            Ok(folder) => ignore::read(&folder, self.stop),
            // A folder that is not on this disk.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => RulesFile::Missing,
            Err(error) => RulesFile::Refused(error.to_string()),
        };
        let refused = |why: String| {
            let file = path.join(OsStr::new(ignore::RULES_FILE));
            Failure::failed(format!("{}: its rules cannot be used: {why}", file.display()))
                .hint("nothing was deleted; repair the file first")
        };
        let text = match found {
            RulesFile::Missing => return Ok(above.clone()),
            RulesFile::Refused(why) => return Err(refused(why)),
            RulesFile::Text(text) => text,
        };
        if self.others && !self.trust.counts(&text, false)? {
            return Ok(above.clone());
        }
        Ok(above.with(path, ignore::parse(&text).map_err(refused)?.matcher))
    }
}

fn is_a_folder(node: &Node) -> bool {
    on_disk(node.object_type) == OnDisk::Folder
}

fn size(node: &Node) -> u64 {
    node.content.as_ref().map_or(0, |content| content.size)
}
