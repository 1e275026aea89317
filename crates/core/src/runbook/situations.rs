//! Entries of the checks of `vfs-sync doctor`, by their ids.

use super::Entry;
use super::Kind::Check;
use super::Section::{
    Divergence, Doctor, FolderService, OtherAnswers, PausesAndWaits, RestoredServer, Visibility,
};

const fn check(key: &'static str) -> Entry {
    Entry::new(key, Check, Doctor)
}

const DOCTOR: &str = "vfs-sync doctor";
const SYNC: &str = "vfs-sync sync";

pub(super) const CHECKS: &[Entry] = &[
    check("replica.settings")
        .means("The replica's directory has settings: the server's address, the token's file.")
        .then("Create a replica, or name another directory by --replica.", "vfs-sync init --help"),
    check("replica.file")
        .means("The replica's file is there, is one of this program, and of a format it knows.")
        .then("Bring the file back, or make a new replica.", DOCTOR),
    check("replica.integrity")
        .means("SQLite finds the replica's file whole, and every row can be read.")
        .then("Move the replica aside, and hydrate a new one from its last good export.", DOCTOR),
    check("replica.contents")
        .means("The bytes of contents that are still to be uploaded are on this device.")
        .then("Put the content again.", "vfs-sync queue"),
    check("replica.disk")
        .means("The disk of the replica has room, and can be written.")
        .then("Make room on the disk.", "vfs-sync status"),
    check("replica.exports")
        .means("The replica keeps its last good exports, made after a settled pull.")
        .then("Synchronise: the next settled pull makes one.", SYNC),
    Entry::new("sync.stopped", Check, Divergence)
        .means("Whether synchronising stopped at a guardrail, and the kept reason.")
        .then("Retry once, with the state exported before and after.", "vfs-sync doctor --retry"),
    Entry::new("sync.failing", Check, PausesAndWaits)
        .means("Whether the last attempt to synchronise failed, and since when attempts do.")
        .then("Resolve the reason; what waits is sent then.", SYNC),
    Entry::new("sync.queue", Check, Divergence)
        .means("The oldest operation that waits for the server, what for, and since when.")
        .then("Synchronise.", SYNC),
    Entry::new("sync.uploads", Check, PausesAndWaits)
        .means("The oldest content that waits to be uploaded, what for, and since when.")
        .then("Synchronise.", SYNC),
    Entry::new("sync.rejected", Check, PausesAndWaits)
        .means("Operations and contents that the server refused for good; they are kept here.")
        .then("Read the list, then retry or discard.", "vfs-sync rejected"),
    Entry::new("sync.recover", Check, RestoredServer)
        .means("Changes that a restored server lost and that could not be offered again.")
        .then("Read the list.", "vfs-sync recover"),
    Entry::new("sync.attach", Check, Visibility)
        .means("The five steps for the contents that wait: stage, checkpoint, reconcile state, shape, retry.")
        .then("Synchronise: it advances the reconcile state, then attaches.", SYNC),
    Entry::new("token.present", Check, PausesAndWaits)
        .means("There is a token, in VFS_SYNC_TOKEN or in the file of `init --token-file`.")
        .then("Put a token into the file.", "vfs-sync token --help"),
    check("token.file")
        .means("The token's file is readable by its owner alone.")
        .then("Take the rights of others away.", DOCTOR),
    Entry::new("token.user", Check, OtherAnswers)
        .means("The token's subject is the user that the replica belongs to.")
        .then("Give the replica a token of its own user.", DOCTOR),
    Entry::new("token.expiry", Check, PausesAndWaits)
        .means("The token is valid now, by this device's clock.")
        .then("Renew the token: its file is read again.", DOCTOR),
    Entry::new("token.scopes", Check, PausesAndWaits)
        .means("The scopes of the token.")
        .then("Have a token made with the scope that is missing.", "vfs-sync token --help"),
    check("network.address")
        .means("The server's address is a URL, and encrypted unless the server is on this machine.")
        .then("Correct `server` in the replica's settings.json.", DOCTOR),
    check("network.proxy")
        .means("The proxy that the environment names for the server's address.")
        .then("Correct HTTPS_PROXY and NO_PROXY.", DOCTOR),
    check("network.name")
        .means("The name of the server, or of the proxy, has an address.")
        .then("Check the name, and the network of this device.", DOCTOR),
    check("network.tcp")
        .means("A connection to the address can be opened.")
        .then("Check whether the server runs, and firewalls on the way.", DOCTOR),
    check("network.tls")
        .means("The connection can be encrypted, and the certificate is valid for the server's name.")
        .then("Check this device's clock, then the server's certificate.", DOCTOR),
    check("network.http")
        .means("Something answers to HTTP at the address.")
        .then("Check the server, and proxies on the way.", DOCTOR),
    Entry::new("server.kind", Check, OtherAnswers)
        .means("The answer is one of a vfs-sync server.")
        .then("Sign in to the network, or correct the server's address.", DOCTOR),
    Entry::new("server.ready", Check, OtherAnswers)
        .means("The server's database answers.")
        .then("The server's operator looks at /readyz and the log.", DOCTOR),
    Entry::new("server.user", Check, PausesAndWaits)
        .means("The server takes the token, for the replica's user.")
        .then("Renew the token.", DOCTOR),
    check("server.clock")
        .means("This device's clock agrees with the server's, by its Date.")
        .then("Set the clock right.", DOCTOR),
    Entry::new("server.feed", Check, Divergence)
        .means("The server's feed goes on from the replica's cursor: who is ahead, and by how much.")
        .then("Synchronise; or rebuild the replica from the server's state.", SYNC),
    Entry::new("server.writeIds", Check, Divergence)
        .means("lastReconciledWriteIds compared with the server's, replica by replica.")
        .then("Synchronise.", SYNC),
    Entry::new("server.reconcile", Check, Visibility)
        .means("The reconcile state that the server has stored for this replica.")
        .then("Synchronise: it reports the state again.", SYNC),
    check("server.live")
        .means("The stream of live updates gets through; else changes arrive by polling.")
        .then("Let proxies pass the stream on without holding it back.", DOCTOR),
    check("versions")
        .means("The versions of the program, the protocol, the replica's format and the server.")
        .then("Use the newer program.", "vfs-sync --version"),
    Entry::new("folders.agent", Check, FolderService)
        .means("`up` runs, and keeps the directories in step.")
        .then("Start it.", "vfs-sync up"),
    Entry::new("folders.state", Check, FolderService)
        .means("Each live directory can be read, and what is left out of it.")
        .then("Read the list.", "vfs-sync folder problems"),
    Entry::new("retry", Check, Divergence)
        .means("One attempt, with the state exported before and after: a failed one changes nothing.")
        .then("If it changed the state, report the defect.", "vfs-sync doctor --bundle bug-report.tar.gz"),
    Entry::new("recovery", Check, Divergence)
        .means("Whether to rematerialise or to hydrate, what would be offered again and what lost.")
        .then("Follow the steps.", "vfs-sync rematerialise"),
];
