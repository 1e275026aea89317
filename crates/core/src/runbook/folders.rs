//! Entries of the reasons why an entry of a live folder is left out.

use super::Entry;
use super::Kind::FolderProblem;
use super::Section::{FolderChanges, FolderIgnoring, FolderLimits};

const PROBLEMS_COMMAND: &str = "vfs-sync folder problems";

const fn problem(key: &'static str) -> Entry {
    Entry::new(key, FolderProblem, FolderLimits)
}

pub(super) const PROBLEMS: &[Entry] = &[
    problem("name")
        .means("The name is too long for the protocol, even escaped.")
        .then("Rename the entry.", PROBLEMS_COMMAND),
    problem("nameChanged")
        .means("The disk does not distinguish two names: the later one got a mark.")
        .then("Rename one of the two.", PROBLEMS_COMMAND),
    problem("nameRefused")
        .means("The disk does not support the name.")
        .then("Rename the item in the tree.", PROBLEMS_COMMAND),
    problem("symbolicLink")
        .means("The link's target is too long, or the link is in the place of an item.")
        .then("Nothing is lost: it stays on this disk only.", PROBLEMS_COMMAND),
    problem("linkNotAllowed")
        .means("The link leads out of its directory, and another user may have written it.")
        .then("If its target is right, let it be made by `vfs-sync folder allow`.", PROBLEMS_COMMAND),
    problem("specialFile")
        .means("A pipe, a socket or a device is not synchronised.")
        .then("Nothing is lost: it stays on this disk only.", PROBLEMS_COMMAND),
    problem("unreadable")
        .means("The disk refused to read the entry.")
        .then("Let your user read it.", PROBLEMS_COMMAND),
    problem("unwritable")
        .means("The disk refused to write the entry.")
        .then("Let your user write it, or make room.", PROBLEMS_COMMAND),
    problem("changing")
        .means("The file changed during each attempt to read it.")
        .then("Close the program that writes it.", PROBLEMS_COMMAND),
    problem("ownReplica")
        .means("The entry belongs to the replica itself.")
        .then("Nothing.", PROBLEMS_COMMAND),
    problem("temporary")
        .means("The file was left behind by an interrupted export.")
        .then("Nothing: it is removed by itself.", PROBLEMS_COMMAND),
    problem("typeChanged")
        .means("The entry is a file on one side and a folder on the other.")
        .then("Rename one of the two: both are synchronised then.", PROBLEMS_COMMAND),
    problem("differs")
        .means("Another content has the place of the entry; the disk's is kept.")
        .then("Rename one of the two: both are synchronised then.", PROBLEMS_COMMAND),
    problem("noContent")
        .means("The content has not arrived at the server yet.")
        .then("Start the device that has it: it sends it.", PROBLEMS_COMMAND),
    problem("notAFile")
        .means("The item is neither a file nor a folder.")
        .then("Nothing.", PROBLEMS_COMMAND),
    problem("linkedAgain")
        .means("The folder is in several places, and was written to the first.")
        .then("Keep its own folder in step with another directory.", PROBLEMS_COMMAND),
    problem("shortcut")
        .means("The item is a shortcut into another owner's tree.")
        .then("Keep the owner's folder in step with another directory.", PROBLEMS_COMMAND),
    problem("notPermitted")
        .means("The user's level in another owner's tree does not allow the change.")
        .then("Ask the owner for write access, or move the entry out.", PROBLEMS_COMMAND),
    problem("time")
        .means("The file's time is not in the years 0 to 9999; the nearest one is used.")
        .then("Set another time.", PROBLEMS_COMMAND),
    problem("refused")
        .means("The server rejected it, so it exists only on this disk.")
        .then("Read the reason, then retry or discard it.", "vfs-sync rejected"),
    problem("otherDisk")
        .means("Another disk is mounted there than was recorded: nothing in it counts as deleted.")
        .then("Mount the disk.", PROBLEMS_COMMAND),
    problem("ownLiveFolder")
        .means("The folder is a live folder of its own, or was copied from one: it is left alone.")
        .then(
            "If nothing keeps it in step, remove the folder `.vfs-sync` in it.",
            PROBLEMS_COMMAND,
        ),
    problem("conflictedCopy")
        .means("The entry was kept beside the item that took its name.")
        .then("Compare the two, and delete one.", PROBLEMS_COMMAND),
    problem("open")
        .means("A program has the file open for writing; it is replaced once it is closed.")
        .then("Close the program.", PROBLEMS_COMMAND),
    problem("kept")
        .means("The entry is not in the tree, and was kept because it was made or changed here.")
        .then("Move it out of the folder that was deleted elsewhere, or delete it.", PROBLEMS_COMMAND),
    problem("directory")
        .means("The directory itself cannot be kept in step: it is gone, or cannot be read.")
        .then("Bring it back, or mount its disk; `up` tries again every ten seconds.", PROBLEMS_COMMAND),
    Entry::new("heldDeletions", FolderProblem, FolderChanges)
        .means("Most of a directory is gone: nothing is deleted elsewhere until you confirm it.")
        .then(
            "Put the entries back, or delete them everywhere by `vfs-sync folder confirm-deletions`.",
            PROBLEMS_COMMAND,
        ),
    Entry::new("heldRemovals", FolderProblem, FolderChanges)
        .means("Most of the folder is gone from the tree: nothing is removed here until you confirm it.")
        .then("See what a restored server lost.", "vfs-sync recover"),
    Entry::new("ignoreRules", FolderProblem, FolderIgnoring)
        .means("A `.vfsignore` or one of its rules cannot be used.")
        .then("Correct the line, or let your user read the file.", PROBLEMS_COMMAND),
    Entry::new("untrustedRules", FolderProblem, FolderIgnoring)
        .means("The rules of a `.vfsignore` do not count: another user may have written them.")
        .then(
            "Read the rules; let them count by `vfs-sync folder trust-ignore`.",
            PROBLEMS_COMMAND,
        ),
    Entry::new("excluded", FolderProblem, FolderIgnoring)
        .means("The entry has the place of a folder that is excluded from this device.")
        .then("Move it elsewhere, or include the folder.", PROBLEMS_COMMAND),
    Entry::new("ignoredLeft", FolderProblem, FolderIgnoring)
        .means("The tree deleted the folder, which stays on the disk with ignored entries in it.")
        .then("Delete it if nobody needs what is in it.", PROBLEMS_COMMAND),
];
