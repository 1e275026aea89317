//! The command line and its help texts.

mod backup;
mod devices;
mod diagnosis;
mod directory;
mod limits;
mod live;
mod operator;
mod replica;
mod sharing;
mod sign_in;
mod tree;
mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use backup::{Backup, BackupCreate, BackupRestore, BackupVerify};
pub(crate) use devices::{
    AdminDevices, AdminDevicesAction, AdminUsers, AdminUsersAction, DevicesAction, ExportUser,
    LimitUser, OwnLimit,
};
pub(crate) use diagnosis::{AdminDoctor, Doctor, Explain};
pub(crate) use directory::{Export, Import};
pub(crate) use live::{FolderAction, FolderTrash, ServiceAction, Up};
pub(crate) use operator::{
    Admin, Blobs, BlobsCheck, NewEpoch, Repair, RepairReconcileState, Serve, Token,
};
pub(crate) use replica::{
    Discard, Init, Limit, Recover, RecoverAction, Rejected, RejectedAction, State, Status, Sync,
    Which,
};
pub(crate) use sharing::{
    Block, Group, GroupAction, Share, Shares, SharesAction, Unblock, Unshare,
};
pub(crate) use sign_in::Login;
pub(crate) use tree::{
    Cat, FromTo, Get, Ln, Ls, Mkdir, OnePath, Put, Rm, Trash, TrashAction, TrashEmpty,
    TrashRestore, Tree,
};
pub(crate) use values::{Database, TOKEN_VARIABLE};

const TOP: &str = "\
A first try in one command (a server, two replicas, edits on both sides, identical in the end):
  vfs-sync demo ~/some/folder

On a device, where the server has an identity provider:
  vfs-sync login --server https://files.example.org && vfs-sync up ~/Documents

By hand:
  export VFS_SYNC_JWT_SECRET=$(openssl rand -hex 32)
  vfs-sync serve --listen 127.0.0.1:7070 --data ./server &
  vfs-sync token --user alice --ttl 30d > token && chmod 600 token
  vfs-sync init --server http://127.0.0.1:7070 --token-file token
  vfs-sync import ~/some/folder && vfs-sync sync

Exit codes: 0 done · 1 failed · 2 wrong usage · 3 stopped by a guardrail · 4 the server cannot be
reached or rejects the token · 5 done except for reported problems · 130 interrupted";

/// A local-first virtual file system: replicas that are read and edited offline, and converge
/// through a server.
#[derive(Debug, Parser)]
#[command(name = "vfs-sync", version, after_help = TOP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The replica's directory [default: vfs-sync/replica in the XDG data directory]
    #[arg(
        long,
        global = true,
        env = "VFS_SYNC_REPLICA",
        value_name = "DIR",
        hide_env_values = true
    )]
    pub(crate) replica: Option<PathBuf>,
    /// Print results as JSON: one document, or a document on each line where the help says so
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print only the requested result, and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Call a server at http:// that is not on this machine; `init` saves it for the replica
    #[arg(long, global = true, env = "VFS_SYNC_INSECURE_HTTP", hide_env_values = true)]
    pub(crate) insecure_http: bool,
    /// The number of contents that are uploaded, or downloaded, at a time: 1 to 64 [default: 4]
    #[arg(
        long,
        global = true,
        env = "VFS_SYNC_TRANSFERS",
        value_name = "N",
        hide_env_values = true,
        value_parser = clap::value_parser!(u8).range(1..=64)
    )]
    pub(crate) transfers: Option<u8>,
    /// Do not report guardrail violations and stops to the server: reports have no names or contents
    #[arg(long, global = true, env = "VFS_SYNC_NO_REPORT", hide_env_values = true)]
    pub(crate) no_report: bool,
    /// The limit of the content cache on this machine, such as 500MiB or unlimited; `init` saves it
    /// for the replica [default: 10GiB]
    #[arg(
        long,
        global = true,
        env = "VFS_SYNC_CACHE_SIZE",
        value_name = "SIZE",
        hide_env_values = true,
        value_parser = parse_size
    )]
    pub(crate) cache_size: Option<u64>,
}

/// Parses a size in bytes; the greatest number means no limit.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "must be a number with B, KiB, MiB, GiB or TiB, or unlimited".to_owned();
    if text == "unlimited" {
        return Ok(u64::MAX);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match text[digits..].trim() {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(|| "is too large: use unlimited".to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a vfs-sync server
    #[command(after_help = operator::SERVE)]
    Serve(Box<Serve>),
    /// Create a token with the server's secret, for a first try or a script
    #[command(after_help = operator::TOKEN)]
    Token(Token),
    /// Create a replica of a user's tree on this machine
    #[command(after_help = replica::INIT)]
    Init(Init),
    /// Sign this device in at the server's identity provider, by a code that you confirm in a browser
    #[command(after_help = sign_in::LOGIN)]
    Login(Login),
    /// End the sign-in of this device; everything on it stays
    #[command(after_help = sign_in::LOGOUT)]
    Logout,
    /// Keep directories of this machine in step with the tree, all the time
    #[command(after_help = live::UP)]
    Up(Up),
    /// Manage the directories that `up` keeps in step
    #[command(after_help = live::FOLDER, subcommand)]
    Folder(FolderAction),
    /// Run `up` as a service of your systemd, from log-in on
    #[command(after_help = live::SERVICE, subcommand)]
    Service(ServiceAction),
    /// Import a directory into the replica; again, only its changes
    #[command(after_help = directory::IMPORT)]
    Import(Import),
    /// Write the replica's tree to a directory
    #[command(after_help = directory::EXPORT)]
    Export(Export),
    /// List the entries of a folder
    #[command(
        after_help = "A path of your own tree begins with `/`. Items of others have paths of their own: `shared:` lists the users who\nshare something, `shared:alice` what alice shares.\n\nExamples:\n  vfs-sync ls\n  vfs-sync ls shared:\n  vfs-sync ls -l /photos/2024\n  vfs-sync --json ls / | jq -r '.entries[].name'"
    )]
    Ls(Ls),
    /// Show the items under a folder
    #[command(
        after_help = "Examples:\n  vfs-sync tree --depth 2\n  vfs-sync tree /photos\n  vfs-sync tree shared:alice"
    )]
    Tree(Tree),
    /// Show all properties of one item
    #[command(
        after_help = "Examples:\n  vfs-sync stat /photos/beach.jpg\n  vfs-sync --json stat /photos | jq .id"
    )]
    Stat(OnePath),
    /// Print a file's content
    #[command(
        after_help = "On a terminal, control characters are shown as escapes; --raw prints the bytes unescaped.\n\nExamples:\n  vfs-sync cat /notes/todo.txt\n  vfs-sync cat /photos/beach.jpg > beach.jpg"
    )]
    Cat(Cat),
    /// Put a local file into the tree
    #[command(
        after_help = "Examples:\n  vfs-sync put report.pdf /documents/report.pdf\n  vfs-sync put report.pdf /documents        # into the folder\n  date | vfs-sync put - /notes/now.txt"
    )]
    Put(Put),
    /// Write a file of the tree to a local one
    #[command(
        after_help = "Examples:\n  vfs-sync get /documents/report.pdf\n  vfs-sync get /documents/report.pdf ./copy.pdf --force\n  vfs-sync get /notes/now.txt -\n  vfs-sync get /documents/report.pdf ./before.pdf --version 2"
    )]
    Get(Get),
    /// List the current and earlier contents of a file
    #[command(
        after_help = "Number 1 is the current content, 2 the one before it; the numbers shift with each new content,\nthe ids stay. Needs the server.\n\nExamples:\n  vfs-sync versions /documents/report.pdf\n  vfs-sync --json versions /documents/report.pdf | jq -r '.versions[].attachedAt'\n  vfs-sync get /documents/report.pdf ./before.pdf --version 2"
    )]
    Versions(OnePath),
    /// Create one or more folders
    #[command(
        after_help = "Examples:\n  vfs-sync mkdir /photos\n  vfs-sync mkdir -p /photos/2024/summer"
    )]
    Mkdir(Mkdir),
    /// Move or rename an item
    #[command(
        after_help = "Moves into TO if that is a folder, else to the path TO; nothing is replaced. Between the trees of two\nowners, as from your own to one that is shared with you, it copies and deletes, and says so; the copy\nhas the access of its new place.\n\nExamples:\n  vfs-sync mv /draft.txt /final.txt\n  vfs-sync mv /final.txt /documents"
    )]
    Mv(FromTo),
    /// Copy an item, a folder with everything in it
    #[command(
        after_help = "Copies into TO if that is a folder, else to the path TO; nothing is replaced.\nContents that are not on this machine are downloaded first.\n\nExamples:\n  vfs-sync cp /photos/2024 /backup"
    )]
    Cp(FromTo),
    /// Delete items from the tree
    #[command(
        after_help = "A shortcut into another owner's tree is removed from its folder; its target stays.\nItems that another device changed, and this one has not seen, are kept: `sync` reports them. --force deletes\nthem too.\n\nExamples:\n  vfs-sync rm /notes/old.txt\n  vfs-sync rm -r /photos/2019"
    )]
    Rm(Rm),
    /// Add an item to one more folder
    #[command(
        after_help = "The item is then in both places; `rm` deletes it from both, `ln --remove` removes it from one. In a\nfolder of another owner's tree it is a shortcut, which gives nobody access.\n\nExamples:\n  vfs-sync ln /photos/beach.jpg /albums/best\n  vfs-sync ln --remove /photos/beach.jpg /albums/best"
    )]
    Ln(Ln),
    /// List deleted items, restore them, or remove them permanently
    #[command(
        after_help = "A deleted item stays in the trash for 30 days, or as long as the server is configured to, with its\ncontents; both count against the owner's quota. Needs the server.\n\nExamples:\n  vfs-sync trash\n  vfs-sync trash restore /documents/report.pdf\n  vfs-sync trash empty /documents/old --yes\n  vfs-sync trash empty --yes"
    )]
    Trash(Trash),
    /// Grant a user or group access to an item
    #[command(after_help = sharing::SHARE)]
    Share(Share),
    /// Revoke a grant on an item
    #[command(after_help = sharing::UNSHARE)]
    Unshare(Unshare),
    /// Show who has access to which items
    #[command(after_help = sharing::SHARES)]
    Shares(Shares),
    /// List the items that others share with you, with their paths
    #[command(
        after_help = "What alice shares is at `shared:alice/NAME`, not in your own tree. `vfs-sync shares decline PATH` leaves a\nshare; `vfs-sync ln PATH FOLDER` adds a shortcut to it in a folder of yours.\n\nExamples:\n  vfs-sync shared-with-me\n  vfs-sync --json shared-with-me | jq -r '.entries[].owner'"
    )]
    SharedWithMe,
    /// Hide everything that a user shares, or list blocked users
    #[command(after_help = sharing::BLOCK)]
    Block(Block),
    /// Show the shares of a blocked user again
    #[command(after_help = sharing::BLOCK)]
    Unblock(Unblock),
    /// Manage groups and organizations, as an administrator
    #[command(after_help = sharing::GROUP)]
    Group(Group),
    /// List your devices, rename or revoke one
    #[command(subcommand, after_help = devices::DEVICES)]
    Devices(DevicesAction),
    /// Exchange changes with the server
    #[command(after_help = replica::SYNC)]
    Sync(Sync),
    /// Show the state of the replica
    #[command(
        after_help = "Examples:\n  vfs-sync status\n  vfs-sync status --server        # and what the server knows of this replica\n  vfs-sync --json status | jq .pending"
    )]
    Status(Status),
    /// List the operations that wait for the server
    #[command(after_help = "Examples:\n  vfs-sync queue --limit 20")]
    Queue(Limit),
    /// List, retry or discard operations that the server rejected
    #[command(
        after_help = "Examples:\n  vfs-sync rejected\n  vfs-sync rejected retry 0193a1c2-…\n  vfs-sync rejected discard --all"
    )]
    Rejected(Rejected),
    /// List changes that a restored server lost and this replica could not offer again, or act on
    /// them
    #[command(
        after_help = "`sync` offers a restored server the changes that it lost. This lists the changes that `sync` cannot\noffer: grants, which only you can restore, and changes that this device may not write or has no\nbytes of. An entry disappears once another device has restored the change.\n\nExamples:\n  vfs-sync recover\n  vfs-sync recover --grants\n  vfs-sync recover discard --all"
    )]
    Recover(Recover),
    /// Examine this device: the replica, its token, the network and the server
    #[command(after_help = diagnosis::DOCTOR)]
    Doctor(Doctor),
    /// Explain a signature, code, status or error text, without a server
    #[command(after_help = diagnosis::EXPLAIN)]
    Explain(Explain),
    /// Export the replica's state to a file, or create a replica from one
    #[command(subcommand, after_help = replica::STATE)]
    State(State),
    /// Rebuild the replica from the server's state; queued operations are kept
    #[command(
        after_help = "Needed where the server requires it (`sync` does it once by itself), and as a remedy.\n\nExamples:\n  vfs-sync rematerialise"
    )]
    Rematerialise,
    /// Maintain a server, as its operator
    #[command(subcommand)]
    Admin(Admin),
    /// Maintain the contents in a server's object store, as its operator
    #[command(subcommand)]
    Blobs(Blobs),
    /// Back up a server, check a backup, or restore one, as its operator
    #[command(subcommand)]
    Backup(Backup),
    /// Migrate a server's database to this version's schema (`serve` does it at start)
    #[command(
        after_help = "Examples:\n  vfs-sync migrate --data /var/lib/vfs-sync\n  VFS_SYNC_DATABASE_URL=postgres://vfs@localhost/vfs vfs-sync migrate"
    )]
    Migrate(Database),
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  vfs-sync completions bash > ~/.local/share/bash-completion/completions/vfs-sync\n  vfs-sync completions zsh > \"${fpath[1]}/_vfs-sync\""
    )]
    Completions(Completions),
    /// Write the manual pages of all commands to a directory
    #[command(
        after_help = "Examples:\n  vfs-sync man ~/.local/share/man/man1 && man vfs-sync-import"
    )]
    Man(Man),
    /// Demonstrate a server and two replicas: edits on both sides, identical in the end
    #[command(after_help = DEMO)]
    Demo(Demo),
}

const DEMO: &str = "\
Without DIR a tree is generated: thousands of files, deep, with unusual names. DIR is only read. With
--json it prints a document on a line for each step, the last one with `identical`. The exit code is
0 only if both exports are identical.

Examples:
  vfs-sync demo
  vfs-sync demo ~/.cargo/registry/src
  vfs-sync demo --keep           # the server keeps running; the next steps are printed";

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell to complete for
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The directory of the pages
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// The directory to synchronise; generated without it
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the server running and the replicas in place, and print the next steps
    #[arg(long)]
    pub(crate) keep: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_with_examples() {
        fn check(command: &clap::Command, way: &str) {
            let way = format!("{way} {}", command.get_name());
            assert!(command.get_about().is_some(), "{way} says nothing of itself");
            if command.get_subcommands().next().is_none() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Examples:"), "{way} has no examples");
            }
            command.get_subcommands().for_each(|inner| check(inner, &way));
        }
        // The help of these two has the examples of their subcommands.
        let mut command = Cli::command();
        for own in ["rejected", "group"] {
            command = command.mut_subcommand(own, |c| {
                let help = c.get_after_help().cloned().unwrap();
                clap::Command::new(own).about("x").after_help(help)
            });
        }
        command.get_subcommands().for_each(|inner| check(inner, ""));
    }

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert_eq!(parse_size("512 M"), Ok(512 << 20));
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("unlimited"), Ok(u64::MAX));
        for bad in ["", "GiB", "-1", "1.5GiB", "10gb", "99999999999T", "1é"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
