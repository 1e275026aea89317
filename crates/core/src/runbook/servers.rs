//! Entries of the checks of `vfs-sync admin doctor`, by their ids.

use super::Entry;
use super::Kind::Check;
use super::Section::{BlobPersistence, Divergence, ServerDoctor};

const fn check(key: &'static str) -> Entry {
    Entry::new(key, Check, ServerDoctor)
}

const DOCTOR: &str = "vfs-sync admin doctor --data /var/lib/vfs-sync";
const FIX: &str = "vfs-sync admin doctor --all --fix --data /var/lib/vfs-sync";

pub(super) const CHECKS: &[Entry] = &[
    check("database.schema")
        .means("The database can be opened, has all its tables, and is of this program's schema.")
        .then("Use the program of the server, or migrate; restore a database that lost a table.", "vfs-sync migrate --help"),
    check("database.identity")
        .means("The database is the one that the server's directory belongs to.")
        .then("Name the directory and the database that belong together; after a restore, serve with its own directory.", DOCTOR),
    check("database.facts")
        .means("The product, version and size of the database.")
        .then("Look why the database does not answer.", DOCTOR),
    check("database.durability")
        .means("The database keeps what it acknowledges, even if the power fails.")
        .then("Turn fsync, full_page_writes and synchronous_commit on.", DOCTOR),
    check("database.bloat")
        .means("The part of the database's size that holds nothing.")
        .then("Have the database give the space back, at a quiet time.", DOCTOR),
    check("database.clock")
        .means("The clocks of this machine, of the database, and of the servers that wrote to it.")
        .then("Set the clocks by NTP: tokens, and the order of changes, depend on them.", DOCTOR),
    check("database.place")
        .means("The database takes writes, and is where its present epoch began: not restored or failed over since.")
        .then("Name the primary; a server that connects begins an epoch by itself.", DOCTOR),
    check("database.replication")
        .means("The standbys, how far they are behind, and whether commits wait for one.")
        .then("Bring the standby back, or take it out of synchronous_standby_names.", DOCTOR),
    check("database.connections")
        .means("The connections to the database server, of those that it takes.")
        .then("Raise max_connections, or run fewer servers: each opens up to 16.", DOCTOR),
    check("database.transactions")
        .means("The oldest open transaction, and the age of the oldest transaction id.")
        .then("End a transaction that hangs; let the vacuum run.", DOCTOR),
    check("disk.free")
        .means("The disk of the server's directory has room, and can be written.")
        .then("Make room on the disk.", DOCTOR),
    check("sweeps.stages")
        .means("Stages that expired are ended, within a minute as a rule.")
        .then("Look why the servers' background work fails; it goes on by itself.", DOCTOR),
    check("sweeps.contents")
        .means("The bytes of contents that nothing needs are removed from the store of contents.")
        .then("Look why the store refuses; the sweeper tries again by itself.", DOCTOR),
    check("sweeps.versions")
        .means("Versions beyond those that are always kept go after their time.")
        .then("Look why the servers' background work fails; it goes on by itself.", DOCTOR),
    check("sweeps.trash")
        .means("Deleted items go after their time in the trash.")
        .then("Look why the servers' background work fails; it goes on by itself.", DOCTOR),
    check("sweeps.purges")
        .means("What is left of items that were removed for good goes step by step.")
        .then("Look why the servers' background work fails; it goes on by itself.", DOCTOR),
    check("sweeps.removals")
        .means("Old removals leave the feeds after their time.")
        .then("Look why the servers' background work fails; it goes on by itself.", DOCTOR),
    check("sweeps.results")
        .means("Results of old operations are forgotten after their time.")
        .then("Look why the servers' background work fails; it goes on by itself.", DOCTOR),
    check("sweeps.deletions")
        .means("The removal of deleted users goes on.")
        .then("Look why its step fails; it goes on by itself.", DOCTOR),
    Entry::new("devices.stopped", Check, Divergence)
        .means("Devices that said that they stopped, with the signature or code.")
        .then("Run the device's own doctor; explain the signature.", "vfs-sync admin devices list --help"),
    Entry::new("devices.stuck", Check, Divergence)
        .means("Devices that call, and whose queue or position has not moved for an hour.")
        .then("Run the device's own doctor.", "vfs-sync admin devices list --help"),
    check("state.rows")
        .means("Every row that was examined can be read; a malformed one was written by another program, or damaged.")
        .then("Remove malformed reconcile states by `admin repair`; restore other rows from a backup.", "vfs-sync admin repair reconcile-state --dry-run --data /var/lib/vfs-sync"),
    Entry::new("state.levels", Check, Divergence)
        .means("The level of every user on every item is the one that the grants give.")
        .then("Derive the levels again: --fix writes them and what feeds show of them.", FIX),
    Entry::new("state.feeds", Check, Divergence)
        .means("Every feed shows what its user sees: each item, link, grant and content, in its present state.")
        .then("Write the entries again: devices receive them with their next pull.", FIX),
    check("state.counts")
        .means("The numbers that count against quotas are the sums of the rows.")
        .then("Store the sums of the rows.", FIX),
    Entry::new("contents.store", Check, BlobPersistence)
        .means("The store of contents takes, gives, lists and removes objects with the server's own key.")
        .then("Give the key the right that is missing; see docs/blobs.md.", DOCTOR),
    Entry::new("contents.registry", Check, BlobPersistence)
        .means("Every registered content has its object, and every object is registered.")
        .then("Restore the missing objects, or upload the files again; remove the others by `--repair`.", "vfs-sync blobs check --data /var/lib/vfs-sync"),
    check("keys.tokens")
        .means("The keys that verify tokens can be loaded, and nobody else may read the secret.")
        .then("Put the key's variable or file right.", "vfs-sync serve --help"),
    check("keys.signing")
        .means("The keys that sign the access tokens of devices, which are replaced every 30 days.")
        .then("Replace the key.", "vfs-sync admin new-signing-key --data /var/lib/vfs-sync"),
    check("config.settings")
        .means("A server could start with the settings of this environment.")
        .then("Put the setting right.", "vfs-sync serve --help"),
    check("config.descriptors")
        .means("The descriptors that a process may have suffice for the connections that the settings allow.")
        .then("Raise the limit of the service.", DOCTOR),
    check("config.certificate")
        .means("The certificate and its key belong together, and the certificate stays valid.")
        .then("Renew the certificate: a server reads the new files by itself.", "vfs-sync serve --help"),
    check("backup.age")
        .means("The age of the newest backup.")
        .then("Make a backup, and have it made every day.", "vfs-sync backup create --help"),
];
