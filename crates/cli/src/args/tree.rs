//! The arguments of commands on the items of a tree.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// The folder to list, or one item
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// List type, size, time, permissions, owner and your access level too
    #[arg(long, short)]
    pub(crate) long: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Tree {
    /// The path of the folder
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// The greatest depth to show
    #[arg(long, value_name = "N")]
    pub(crate) depth: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct OnePath {
    /// The path of the item
    pub(crate) path: String,
}

#[derive(Debug, Args)]
pub(crate) struct Cat {
    /// The path of the file
    pub(crate) path: String,
    /// Print the bytes unescaped, to a terminal too
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Put {
    /// The local file, or - for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The folder or the name in the tree; an existing file gets a new content
    pub(crate) path: String,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The path of the file in the tree
    pub(crate) path: String,
    /// The local file, or - for standard output [default: its own name, here]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Replace FILE if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// An earlier content, by its number or id as in `vfs-sync versions`
    #[arg(long, value_name = "ID|N")]
    pub(crate) version: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Mkdir {
    /// The paths of the folders
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
    /// Create missing parent folders, and accept existing folders
    #[arg(long, short)]
    pub(crate) parents: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FromTo {
    /// The path of the item
    pub(crate) from: String,
    /// The folder or the new path
    pub(crate) to: String,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// The path of the item
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
    /// Delete folders with everything in them
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// Delete also items that another device changed since this one last synchronised
    #[arg(long, short)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ln {
    /// The path of the item
    pub(crate) path: String,
    /// The path of the folder
    pub(crate) folder: String,
    /// Remove the item from the folder
    #[arg(long)]
    pub(crate) remove: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Trash {
    #[command(subcommand)]
    pub(crate) action: Option<TrashAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrashAction {
    /// List deleted items, the newest deletion first
    #[command(after_help = "Examples:\n  vfs-sync trash list\n  vfs-sync --json trash list")]
    List,
    /// Restore deleted items, folders with the items deleted with them
    #[command(after_help = "Examples:\n  vfs-sync trash restore /thesis.txt")]
    Restore(TrashRestore),
    /// Remove deleted items permanently: their contents are freed, and they cannot be restored
    #[command(
        after_help = "Examples:\n  vfs-sync trash empty /old.iso\n  vfs-sync trash empty --yes"
    )]
    Empty(TrashEmpty),
}

#[derive(Debug, Args)]
pub(crate) struct TrashRestore {
    /// The former paths of the items (each selects the newest deletion there), or their ids
    #[arg(value_name = "PATH|ID", required = true)]
    pub(crate) items: Vec<String>,
    /// Restore only the named items, without those deleted with them
    #[arg(long)]
    pub(crate) only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TrashEmpty {
    /// The former path of the item (the newest deletion there), or its id; without it, all your
    /// items
    #[arg(value_name = "PATH|ID")]
    pub(crate) item: Option<String>,
    /// Confirm the removal; without this option nothing is removed
    #[arg(long)]
    pub(crate) yes: bool,
}
