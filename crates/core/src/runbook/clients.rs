//! Entries of what a client finds by itself: guardrail violations, and other errors.

use super::Entry;
use super::Kind::{Client, Signature};
use super::Section::{Contents, Divergence, ExitCodes, OtherAnswers, PausesAndWaits};

const RETRY: &str = "vfs-sync sync --no-rematerialise";
const REMATERIALISE: &str = "vfs-sync rematerialise";

const fn signature(key: &'static str) -> Entry {
    Entry::new(key, Signature, Divergence)
}

pub(super) const SIGNATURES: &[Entry] = &[
    signature("pull:pullPageInvariantViolation")
        .means(
            "The server, or something between, sent a page that contradicts itself: hasMore=true \
             with empty items, a nextCursor that does not match the page tail, or entries out of \
             order. Nothing of the page was applied.",
        )
        .says(&[
            "transport returned hasMore=true with an empty pull page",
            "transport returned nextCursor that does not match pull page tail",
            "transport returned items out of feed order",
        ])
        .then("Look for a proxy that rewrites or caches bodies; then retry once.", RETRY),
    signature("pull:pullDuplicateOpReplay")
        .means("The same opId came twice within one pull-until-settled cycle.")
        .says(&["transport replayed opId … during pull pagination"])
        .then("Look for a proxy that replays answers; then retry once.", RETRY),
    signature("pull:pullCursorRegression")
        .means("The cursor of a page is before the one of this replica.")
        .says(&["transport returned regressing sync cursor"])
        .then(
            "Look for a cached answer, or two servers on different databases behind one name; then \
             retry once.",
            RETRY,
        ),
    signature("pull:lastWriteIdRegression")
        .means("The server knows fewer of a replica's writes than before.")
        .says(&["transport regressed lastReconciledWriteIds for replica …"])
        .then(
            "Ask the server's operator whether a database was put back by hand while the server \
             ran; then retry once.",
            RETRY,
        ),
    signature("pull:pullRematerializationRequired")
        .means(
            "The server cannot serve the replica's cursor: it is older than what retention keeps, \
             or not of this server's history. Expected after a restore, and for devices that were \
             away for longer than the retention.",
        )
        .says(&["pull requires re-materialization from canonical state"])
        .then("Rebuild the replica from the server's state; the queue is kept.", REMATERIALISE),
    signature("reconcile:reconcileCursorRegression")
        .means("The server acknowledged a cursor before the one that was sent.")
        .says(&["transport reconcile regressed sync cursor"])
        .then(
            "Look for a cached answer, or two servers on different databases behind one name; then \
             retry once.",
            RETRY,
        ),
    signature("reconcile:lastWriteIdRegression")
        .means("The server acknowledged fewer writes than were sent.")
        .says(&["transport regressed lastReconciledWriteIds for replica …"])
        .then(
            "Ask the server's operator whether a database was put back by hand while the server \
             ran; then retry once.",
            RETRY,
        ),
    signature("flush:staleWriteRecoveryExhausted")
        .means(
            "The server called every write id stale after 2 recoveries. Two installations may have \
             one client id, because a replica's directory was copied.",
        )
        .says(&[
            "stale write-id recovery exceeded max retry attempts without forward progress",
        ])
        .then(
            "Make a new replica for one of the two by `vfs-sync init`; compare first.",
            "vfs-sync status --server",
        ),
    signature("hydrate:hydrateGuardrailViolation")
        .means(
            "An exported state is malformed or contradicts itself: a truncated or edited file, or a \
             state of another client id. Nothing was imported.",
        )
        .then("Hydrate from another export of the same replica.", "vfs-sync doctor"),
];

const fn client(key: &'static str) -> Entry {
    Entry::new(key, Client, OtherAnswers)
}

pub(super) const CLIENT: &[Entry] = &[
    client("malformedResponse")
        .means(
            "An answer is not of the protocol's form; the error names the field. Another program \
             answers under the address, a proxy changes answers, or, for the field `epoch`, an older \
             copy of the database is served. Nothing of the answer was applied.",
        )
        .says(&["is no error body, with status …", "another server or an older copy of its database answers"])
        .then("Find out who answers under the server's address.", "vfs-sync doctor"),
    client("invalid_address")
        .means("The server's address is no URL of http or https, or is not encrypted.")
        .says(&["is not encrypted: others could read the token", "the server's address … is no URL"])
        .then("Correct `server` in the replica's settings.json.", "vfs-sync status"),
    client("network")
        .means(
            "The server cannot be reached, or is busy. No guardrail: clients retry by themselves, \
             and changes stay in the queue.",
        )
        .says(&["the server cannot be reached or is busy"])
        .then("Find the step at which the way to the server ends.", "vfs-sync doctor"),
    Entry::new("client", Client, ExitCodes)
        .means("The client stopped for a reason of its own, such as a damaged replica.")
        .then("Check the replica.", "vfs-sync doctor"),
    Entry::new("stopped", Client, Divergence)
        .means(
            "Background work stopped at a violation, and stays stopped until it is started by hand. \
             The reason is kept in the replica.",
        )
        .says(&["synchronisation is stopped"])
        .then("Read the reason, then retry once.", RETRY),
    Entry::new("inUse", Client, ExitCodes)
        .means("Another process has the replica open.")
        .says(&["is in use by another process"])
        .then("Wait for the other command, or end it.", "vfs-sync folder list"),
    Entry::new("newerReplica", Client, ExitCodes)
        .means("The replica was written by a newer version of the program.")
        .says(&["has format …, this program knows …: use a newer one"])
        .then("Use the newer program.", "vfs-sync --version"),
    Entry::new("corruptReplica", Client, Divergence)
        .means("The replica's file is damaged, or is not a replica.")
        .says(&["the replica … cannot be read"])
        .then(
            "Move the replica aside, and hydrate a new one from its last good export, or make a new \
             one by `vfs-sync init`.",
            "vfs-sync doctor",
        ),
    Entry::new("storage", Client, ExitCodes)
        .means("The disk of the replica failed, or is full or read-only.")
        .says(&["the replica's storage failed"])
        .then("Make room on the disk of the replica.", "vfs-sync doctor"),
    Entry::new("wrongContent", Client, Contents)
        .means("The server's bytes are not the content: its copy, or the way to it, is damaged.")
        .says(&["are not the content"])
        .then(
            "The server's operator checks all contents; a device with the good bytes heals it by \
             `vfs-sync put`.",
            "vfs-sync blobs check --data /var/lib/vfs-sync --digests",
        ),
    Entry::new("restoredDuringRebuild", Client, PausesAndWaits)
        .means("The server was restored repeatedly while the replica was rebuilt; it is unchanged.")
        .says(&["was restored again while the replica was rebuilt"])
        .then("Synchronise again.", "vfs-sync sync"),
];
