//! Entries of HTTP statuses, and of the statuses that the protocol has for operations and stages.

use super::Kind::{HttpStatus, LostReason, Result, StageStatus};
use super::Section::{
    BlobPersistence, Limits, OtherAnswers, PausesAndWaits, Permissions, Protocol, Rates,
    RestoredServer, Results, Visibility,
};
use super::{Entry, Section};

const DOCTOR: &str = "vfs-sync doctor";
const REJECTED: &str = "vfs-sync rejected";
const RECOVER: &str = "vfs-sync recover";
const SYNC: &str = "vfs-sync sync";

const fn http(key: &'static str, statuses: &'static [u16], section: Section) -> Entry {
    Entry::new(key, HttpStatus, section).with(statuses)
}

pub(super) const HTTP: &[Entry] = &[
    http("302", &[302], OtherAnswers)
        .means("No answer of vfs-sync: a proxy, or the log-in page of a network, answers for it.")
        .then("Open any page in a browser, and sign in to the network.", DOCTOR),
    http("400", &[400], Protocol)
        .means("The request is malformed; `code` says how.")
        .then("A defect of the client: report it.", "vfs-sync state export --redact report.json"),
    http("401", &[401], PausesAndWaits)
        .means("There is no token, an expired one, or one of another key.")
        .then("Renew the token: its file is read again.", DOCTOR),
    http("403", &[403], Permissions)
        .means("The token is valid, but not for this: another user's, too few rights, or no scope.")
        .then("Look up the code of the error.", DOCTOR),
    http("404", &[404], BlobPersistence)
        .means(
            "The thing does not exist for this user. For a blob: the registry (the metadata layer) \
             does not have it, whereas 500 means that the store (the object layer) failed.",
        )
        .then("Look up the code of the error; synchronise.", SYNC),
    http("405", &[405], Protocol)
        .means("The route does not have this method.")
        .then("Check the server's address and version.", DOCTOR),
    http("407", &[407], OtherAnswers)
        .means("A proxy on the way wants its own log-in.")
        .then("Correct HTTPS_PROXY, with the proxy's user and password.", DOCTOR),
    http("408", &[408], Rates)
        .means("The request's body came too slowly.")
        .then("Look at the network between the device and the server.", DOCTOR),
    http("409", &[409], Visibility)
        .means("The server's state forbids it; `code` says which part.")
        .then("Look up the code of the error.", "vfs-sync status --server"),
    http("413", &[413], Limits)
        .means("The request, or what the user has, is larger than the limits allow.")
        .then("Look up the code; without one, a proxy has a smaller limit.", REJECTED),
    http("415", &[415], Protocol)
        .means("The media type or encoding is not one that the route takes.")
        .then("A defect of the client, or a proxy that changes headers.", DOCTOR),
    http("426", &[426], OtherAnswers)
        .means("The client speaks an older protocol than the server's minimum.")
        .then("Use a newer vfs-sync.", "vfs-sync --version"),
    http("429", &[429], Rates)
        .means("The user or the address asks for too much at a time.")
        .then("The client waits as long as `Retry-After` says, and goes on by itself.", SYNC),
    http("460", &[460], Visibility)
        .means("The bytes of an upload do not match their checksum.")
        .then("Something on the way changes bytes: find out what.", DOCTOR),
    http("500", &[500], BlobPersistence)
        .means("The server failed, its object store did, or a stored row is malformed.")
        .then("Look up the code of the error; the server's log has the requestId.", DOCTOR),
    http("502", &[502], OtherAnswers)
        .means("A proxy before the server does not reach it.")
        .then("The server's operator looks at the proxy and the server.", DOCTOR),
    http("503", &[503], OtherAnswers)
        .means("The server or its database does not answer now.")
        .then("The client tries again by itself; the operator looks at /readyz.", DOCTOR),
    http("504", &[504], OtherAnswers)
        .means("A proxy before the server waited for it in vain.")
        .then("The server's operator looks at the server's database and its load.", DOCTOR),
    http("507", &[507], PausesAndWaits)
        .means("The server's database has no room; nothing was changed.")
        .then("The server's operator makes room; the client goes on by itself then.", SYNC),
];

const fn result(key: &'static str, section: Section) -> Entry {
    Entry::new(key, Result, section)
}

const fn stage(key: &'static str) -> Entry {
    Entry::new(key, StageStatus, Visibility)
}

const fn lost(key: &'static str) -> Entry {
    Entry::new(key, LostReason, RestoredServer)
}

pub(super) const RESULTS: &[Entry] = &[
    result("applied", Results)
        .means("The operation changed the server's state.")
        .then("Nothing.", SYNC),
    result("alreadyApplied", Results)
        .means("The same operation was applied before: a repetition.")
        .then("Nothing.", SYNC),
    result("outdatedOp", Results)
        .means("A newer write, or a cycle, superseded the operation.")
        .then("Nothing: the newer write shows.", SYNC),
    result("staleWriteId", Results)
        .means("The write id is not above the replica's last one: the client renumbers its queue.")
        .then(
            "If it repeats, two installations have one client id: compare.",
            "vfs-sync status --server",
        ),
    result("invalidOp", Results)
        .means("The operation is malformed or not allowed; the client sets it aside.")
        .then("Read the reason, then retry or discard it.", REJECTED),
    result("superseded", Results)
        .means("A newer write holds the register.")
        .then("Nothing: the newer write shows.", SYNC),
    result("unseen", Results)
        .means("The deletion's author had not seen the item's newest change, so the item stays.")
        .then("Look at the item, and delete it again if it should go.", SYNC),
    result("cycle", Results)
        .means("The link would close a cycle of folders.")
        .then("Move the folder elsewhere.", REJECTED),
    result("tooManyGrants", Limits)
        .means("The item has as many grants as one may have.")
        .then("Share it with a group, or remove grants.", "vfs-sync shares"),
    result("notPermitted", Permissions)
        .means("The user sees the item but has too few rights on it.")
        .then("Ask the owner for access; then retry.", REJECTED),
    result("unknownItem", Results)
        .means("The item does not exist, or is not visible to the user.")
        .then("Read the list; discard what is no longer wanted.", REJECTED),
    result("tooManyConsequences", Limits)
        .means("The operation would show others more than one transaction may.")
        .then("Share, move or delete a smaller part at a time.", REJECTED),
    result("malformed", Results)
        .means("The operation breaks a rule of form.")
        .then("A defect of the client: report it.", "vfs-sync state export --redact report.json"),
    stage("blob-stage:staged")
        .means("The stage waits for its attach; until it expires.")
        .then("Nothing: the client attaches it.", SYNC),
    stage("blob-stage:attached")
        .means("The stage's content is attached to an item.")
        .then("Nothing.", SYNC),
    stage("blob-stage:abandoned")
        .means("The stage was given up, or has expired.")
        .then("The client stages the content again, under new ids.", SYNC),
    lost("needsConsent")
        .means("A grant that the server lost is only given again with your consent.")
        .then("Read the list, then give the grants again.", "vfs-sync recover --grants"),
    lost("notShown")
        .means("The item's folder is not shared with you any more.")
        .then("Ask the folder's owner.", RECOVER),
    lost("noBytes")
        .means("The bytes of the content are not on this device.")
        .then("Synchronise the device that has them.", RECOVER),
    lost("notCarried")
        .means("Attachments of this kind are not uploaded by this client.")
        .then("Attach it again by the application that made it.", RECOVER),
    Entry::new("notPermitted", LostReason, RestoredServer)
        .means("Your level on the item does not allow the change any more.")
        .then("Ask the item's owner.", RECOVER),
];
