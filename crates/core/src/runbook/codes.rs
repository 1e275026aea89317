//! Entries of the codes in error bodies of a server.

use super::Kind::{Code, TokenReason};
use super::Section::{
    BlobPersistence, Install, Limits, OtherAnswers, PausesAndWaits, Permissions, Protocol, Rates,
    RestoredServer, Visibility,
};
use super::{Entry, Section};

const DOCTOR: &str = "vfs-sync doctor";
const REJECTED: &str = "vfs-sync rejected";
const SYNC: &str = "vfs-sync sync";

const fn code(key: &'static str, statuses: &'static [u16], section: Section) -> Entry {
    Entry::new(key, Code, section).with(statuses)
}

const BUG: &str = "A defect of the client: keep what the redacted state, and report it.";
const BUNDLE: &str = "vfs-sync state export --redact report.json";

pub(super) const CODES: &[Entry] = &[
    code("crdt_rematerialization_required", &[409], RestoredServer)
        .means(
            "The server can no longer serve the cursor: it was restored, or the device was away for \
             longer than the retention.",
        )
        .says(&["The cursor cannot be served: pull from the start"])
        .then("Rebuild the replica from the server's state; the queue is kept.", "vfs-sync rematerialise"),
    code("write_ids_ahead_of_server", &[409], OtherAnswers)
        .means("A client has writes that the server never saw: two databases behind one name.")
        .says(&["the server knows fewer write ids of"])
        .then("Compare with the server's state.", "vfs-sync status --server"),
    code("upgrade_required", &[426], OtherAnswers)
        .means("The client speaks an older protocol than the server's minimum.")
        .then("Use a newer vfs-sync.", "vfs-sync --version"),
    code("reconcile_state_behind", &[409], Visibility)
        .means("The client's reconcile state is behind the checkpoint that the attach requires.")
        .says(&["Client reconcile state is behind required visibility"])
        .then(
            "Retry the identical attach once the reconcile state has advanced: `sync` does both.",
            SYNC,
        ),
    code("content_changed", &[409], Visibility)
        .means(
            "Another content was attached in the meantime; the client keeps its own as a conflicted \
             copy beside it.",
        )
        .says(&["Another content has been attached in the meantime"])
        .then("Compare the two files, and delete one.", SYNC),
    code("stage_not_attachable", &[409], Visibility)
        .means("The stage is attached or abandoned already.")
        .says(&["The stage can no longer be attached"])
        .then("The client stages the content again by itself.", SYNC),
    code("stage_expired", &[409], Visibility)
        .means("The stage has expired before it was attached.")
        .says(&["The stage has expired"])
        .then("The client stages the content again, under new ids.", SYNC),
    code("stage_empty", &[409], Visibility)
        .means("The stage has no bytes yet: the upload was cut.")
        .says(&["The stage has no bytes yet"])
        .then("The client uploads the bytes again.", SYNC),
    code("attach_differs", &[409], Visibility)
        .means("An earlier request attached the stage with other values.")
        .says(&["The stage is attached already, by a different request"])
        .then("Look at the rejected content, then retry or discard it.", REJECTED),
    code("attached_as_other_kind", &[409], Visibility)
        .means("The blob is attached to the item as another kind.")
        .says(&["The blob is attached to the item as another kind"])
        .then("Look at the rejected content, then retry or discard it.", REJECTED),
    code("id_taken", &[409], Visibility)
        .means("A staging id or a blob id is already used for something else.")
        .then("Look at the rejected content; a retry gives it new ids.", "vfs-sync rejected retry --all"),
    code("upload_differs", &[409], Visibility)
        .means("The stage has other bytes already.")
        .says(&["The stage has other bytes already"])
        .then("Look at the rejected content; a retry gives it new ids.", "vfs-sync rejected retry --all"),
    code("upload_superseded", &[409], Visibility)
        .means("Another call has taken over the upload, such as an earlier request of this client.")
        .then("The client tries again by itself.", SYNC),
    code("offset_mismatch", &[409], Visibility)
        .means("The offset of the call differs from the upload's.")
        .then("The client asks for the offset and goes on.", SYNC),
    code("checksum_mismatch", &[460], Visibility)
        .means("The bytes do not match the checksum sent along; the server did not keep them.")
        .then("Something on the way changes bytes: find out what.", DOCTOR),
    code("digest_mismatch", &[400], Visibility)
        .means("The bytes do not match the digest sent along.")
        .says(&["The bytes do not match the digest"])
        .then("Something on the way changes bytes: find out what.", DOCTOR),
    code("too_many_requests", &[429], Rates)
        .means("The user has as much in progress as one user may, or sends too fast.")
        .says(&[
            "The user has too much in progress",
            "too many event streams open",
            "The rate limit is reached",
        ])
        .then("The client waits as long as `Retry-After` says, and goes on by itself.", SYNC),
    code("quota_exceeded", &[413], PausesAndWaits)
        .means(
            "The user may have no more; `limit` names the limit. What exceeds the quota waits, the \
             rest continues.",
        )
        .says(&["That would be more than the user may have", "The owner of the item … no more"])
        .then(
            "Make room, or have the server's operator raise the quota; what waits is sent then.",
            "vfs-sync trash empty",
        ),
    code("too_many_consequences", &[413], Limits)
        .means("The change would show others more than one transaction can; nothing was changed.")
        .says(&["It would show others more than one transaction can"])
        .then("Share, move or delete a smaller part at a time.", REJECTED),
    code("blob_attached", &[409], Visibility)
        .means("The blob is attached to something, so it cannot be removed.")
        .then("Delete the item that has the content.", DOCTOR),
    code("blob_store_error", &[500], BlobPersistence)
        .means("The object store failed; `storageCode` says how, and `retryable` whether it passes.")
        .says(&[
            "Failed to persist blob data",
            "Failed to read blob data",
            "Failed to delete blob data",
        ])
        .then(
            "Look up the storageCode; the server's operator compares registry and store.",
            "vfs-sync blobs check --data /var/lib/vfs-sync",
        ),
    code("unknown_stage", &[404], Visibility)
        .means("The user has no such stage: it never was, or was swept.")
        .then("The client stages the content again.", SYNC),
    code("unknown_item", &[404], Protocol)
        .means("The user sees no such item.")
        .says(&["There is no such item"])
        .then("Synchronise: it may have been deleted, or is no longer shared.", SYNC),
    code("unknown_blob", &[404], BlobPersistence)
        .means("The registry does not know the blob, or the user may not read it.")
        .says(&["There is no such blob"])
        .then("Synchronise: another content may have replaced it.", SYNC),
    code("not_in_trash", &[409], Protocol)
        .means("The item is not deleted, so it cannot be removed for good.")
        .says(&["The item is not deleted: delete it first"])
        .then("Delete it first.", "vfs-sync trash"),
    code("not_permitted", &[403], Permissions)
        .means("The user's rights on the item are too few for the change.")
        .says(&["The user may read the item, not write it", "Only the owner may remove an item"])
        .then("Ask the owner for access; the change is among the rejected ones.", REJECTED),
    code("storage_full", &[507], PausesAndWaits)
        .means("The database's disk is full. The server stays up, and nothing was changed.")
        .says(&["The server's database has no room"])
        .then("The server's operator makes room; the client goes on by itself then.", SYNC),
    code("malformed_row", &[500], Visibility)
        .means(
            "A stored row of the server is malformed; `table`, `key` and `malformed` name it. Clients \
             keep what they have.",
        )
        .says(&["A stored row is malformed"])
        .then(
            "The server's operator runs the repair that the answer names.",
            "vfs-sync admin repair reconcile-state --data /var/lib/vfs-sync --dry-run",
        ),
    code("attach_failed", &[500], Visibility)
        .means("A row that an attach depends on is malformed: the failure is deterministic.")
        .says(&["Failed to attach staged blob"])
        .then(
            "The server's operator runs the repair that the answer names.",
            "vfs-sync admin repair reconcile-state --data /var/lib/vfs-sync --dry-run",
        ),
    code("wrong_user", &[403], OtherAnswers)
        .means(
            "The token is of another user (`actual`) than the replica (`expected`). Nothing was \
             exchanged.",
        )
        .says(&["The request is for … the token belongs to", "the token is of … and this replica belongs to"])
        .then("Give the replica a token of its own user, then start again.", DOCTOR),
    code("device_revoked", &[403], OtherAnswers)
        .means(
            "The device was revoked: the server serves it no longer. Everything on the device stays, and \
             so does its queue.",
        )
        .then(
            "To synchronise this machine again, create another replica by `vfs-sync init`; what was not \
             sent is in this one.",
            "vfs-sync devices list",
        ),
    code("user_disabled", &[403], OtherAnswers)
        .means(
            "An operator has disabled the user: none of their devices is served. Everything on the device \
             stays, and so does its queue.",
        )
        .then("Ask the server's operator; synchronise once the user is enabled again.", SYNC),
    code("user_deleted", &[403], OtherAnswers)
        .means(
            "The user was deleted, with everything that the user had on the server: no device is served, so \
             that none offers it all again. Everything on the device stays, and so does its queue.",
        )
        .then(
            "Export what is needed from the device. If the deletion was a mistake, the server's operator can \
             allow the user again by `vfs-sync admin users allow`.",
            SYNC,
        ),
    code("deletion_under_way", &[409], Protocol)
        .means(
            "The user is being deleted. Until the removal begins the deletion can be called off; afterwards \
             the user can be allowed again once it has come to its end.",
        )
        .then(
            "See how far it is; `vfs-sync admin users allow USER` calls off what has not begun.",
            "vfs-sync admin users list",
        ),
    code("unknown_device", &[404], Protocol)
        .means("The user has no such device.")
        .then("List the devices.", "vfs-sync devices list"),
    code("no_sign_in", &[404], Install)
        .means("The server has no OpenID provider to sign in with: it takes tokens by hand.")
        .says(&["has no OpenID provider to sign in with", "has no identity provider to sign in with"])
        .then("Ask the server's operator for a token, and name its file.", "vfs-sync init --help"),
    code("unknown_user", &[404], Protocol)
        .means("The server knows no such user: nobody has made a call with that name.")
        .then("List the users, as the server's operator.", "vfs-sync admin users list"),
    code("unknown_session", &[404], Install)
        .means("There is no such session of the console: it was signed out, or has ended.")
        .says(&["There is no such session of the console"])
        .then("Sign in again with a token of the scope vfs:admin.", "vfs-sync token --user root --scope vfs:admin --ttl 1h"),
    code("untrusted_host", &[403], Install)
        .means("The console was opened at a name that the server does not know for its own: another site may have pointed it here.")
        .says(&["The console is opened at an address, at localhost, or at a name of --admin-hosts"])
        .then("Open it at its address, or name the host in --admin-hosts.", "vfs-sync serve --help"),
    code("untrusted_origin", &[403], Install)
        .means("A request with the console's cookie, or a sign-in, did not come from the console's own page.")
        .says(&["The console's session is good for its own page alone"])
        .then("Reload the console; programs send a bearer token instead.", "vfs-sync token --help"),
    code("insufficient_scope", &[403], PausesAndWaits)
        .means("The token is valid but lacks a scope; `requiredScope` names it.")
        .says(&["The token lacks the scope"])
        .then("Have a token made with that scope.", DOCTOR),
    code("invalid_cursor", &[400], OtherAnswers)
        .means("The cursor was not created by a server.")
        .says(&["Invalid cursor"])
        .then(BUG, BUNDLE),
    code("invalid_request", &[400], Protocol)
        .means("The request is malformed; `field` names the field, if it is known.")
        .says(&["The request is malformed"])
        .then(BUG, BUNDLE),
    code("unauthorized", &[401], PausesAndWaits)
        .means(
            "There is no token, an expired one, or one that is not signed by the configured key; \
             `reason` says which.",
        )
        .says(&["cannot sign in to the server"])
        .then("Renew the token: its file is read again.", DOCTOR),
    code("too_large", &[413], Limits)
        .means("A body, or a list in it, is larger than the limits allow.")
        .says(&["The request is too large"])
        .then("Look at the rejected change; a proxy may have a smaller limit.", REJECTED),
    code("not_found", &[404], Protocol)
        .means("The server has no such route: an older server, or another path than the server's.")
        .says(&["There is no such route"])
        .then("Check the server's address and version.", DOCTOR),
    code("method_not_allowed", &[405], Protocol)
        .means("The route does not have this method: an older server, or a proxy.")
        .says(&["The route does not have this method"])
        .then("Check the server's address and version.", DOCTOR),
    code("internal_error", &[500], Protocol)
        .means("The server failed; its log has the reason under the `requestId`.")
        .says(&["The server failed; its log has the reason"])
        .then("Give the server's operator the requestId; the client tries again.", SYNC),
    code("overloaded", &[503], PausesAndWaits)
        .means("The server is busy.")
        .says(&["The server is busy: try again later"])
        .then("The client tries again by itself.", SYNC),
    code("timeout", &[503], OtherAnswers)
        .means("The request took the server too long.")
        .says(&["The request took too long"])
        .then("The client tries again by itself; the operator looks at the database.", SYNC),
    code("request_timeout", &[408], Rates)
        .means("The request's body came too slowly.")
        .says(&["The request's body came too slowly"])
        .then("Look at the network between the device and the server.", DOCTOR),
    code("database_unavailable", &[503], OtherAnswers)
        .means(
            "The database does not answer; or its file was removed or replaced while the server \
             runs, which the log says.",
        )
        .says(&["The database is unavailable"])
        .then("The client tries again by itself; the operator looks at /readyz.", DOCTOR),
    code("database_behind", &[503], OtherAnswers)
        .means(
            "The server's database is of an earlier epoch than this device has seen: a former \
             primary after a failover, or an older copy. Nothing was read or changed.",
        )
        .says(&["The database is behind what this device has seen"])
        .then(
            "The client tries again by itself. If it goes on, the server's log has both epochs and \
             what to do.",
            DOCTOR,
        ),
    code("unsupported_media_type", &[415], Protocol)
        .means("The request's media type or encoding is not one that the route takes.")
        .then(BUG, BUNDLE),
    code("keys_unavailable", &[503], OtherAnswers)
        .means("The server cannot fetch the keys that verify tokens.")
        .says(&["the keys that verify tokens are unavailable"])
        .then("The client tries again; the operator looks at the key set's address.", SYNC),
];

const fn reason(key: &'static str) -> Entry {
    Entry::new(key, TokenReason, PausesAndWaits).with(&[401])
}

const LOGIN: &str = "vfs-sync login";
const RENEW: &str = "Renew the token: its file is read again.";

pub(super) const TOKEN_REASONS: &[Entry] = &[
    reason("missing")
        .means("The request has no bearer token.")
        .says(&["a bearer token is required"])
        .then("Put a token into the file of `init --token-file`.", DOCTOR),
    reason("malformed")
        .means("The bearer token is not a JSON Web Token.")
        .says(&["the bearer token is malformed"])
        .then(RENEW, DOCTOR),
    reason("unknown_key")
        .means("The token is signed by a key that the server does not know.")
        .says(&["the bearer token is signed by an unknown key"])
        .then("Have a token made by this server's issuer.", DOCTOR),
    reason("bad_signature")
        .means(
            "The token's signature is not one of the server's key: of another server, or changed.",
        )
        .says(&["the bearer token's signature is wrong"])
        .then("Have a token made by this server's issuer.", DOCTOR),
    reason("no_expiry")
        .means("The token has no exp, which the server requires.")
        .says(&["the bearer token has no exp"])
        .then(RENEW, DOCTOR),
    reason("expired")
        .means("The token has expired, or the clock of the server or the issuer is wrong.")
        .says(&["the bearer token has expired"])
        .then(RENEW, DOCTOR),
    reason("not_yet_valid")
        .means("The token is not valid yet: the clock of the server or the issuer is wrong.")
        .says(&["the bearer token is not valid yet"])
        .then("Set the clocks right.", DOCTOR),
    reason("wrong_issuer")
        .means("The token has another issuer than the server expects.")
        .says(&["the bearer token has another issuer"])
        .then("Have a token made by this server's issuer.", DOCTOR),
    reason("wrong_audience")
        .means("The token has another audience than the server expects.")
        .says(&["the bearer token has another audience"])
        .then("Have a token made for this server.", DOCTOR),
    reason("bad_subject")
        .means("The token's sub is not a user id.")
        .says(&["the bearer token's sub is not a user id"])
        .then("Have a token made for a user.", DOCTOR),
    reason("device_credential_required")
        .means("The server takes tokens of devices that have signed in, and none by hand.")
        .says(&["this server takes no token that is given by hand"])
        .then("Sign this device in.", LOGIN),
    reason("credential_ended")
        .means(
            "The device's sign-in was given up, replaced by another of the same device, or forgotten by \
             a server that was restored.",
        )
        .says(&["this device's sign-in has ended", "does not know the secrets of this device's sign-in"])
        .then("Sign this device in again; everything on it stays.", LOGIN),
    reason("session_ended")
        .means("The console's session is over: its hour, its token, or another operator ended it.")
        .says(&["the console's session has ended"])
        .then("Sign in again with a token of the scope vfs:admin.", "vfs-sync token --user root --scope vfs:admin --ttl 1h"),
    reason("credential_reused")
        .means(
            "A secret of the device's sign-in was used that it had given up: it was copied with the \
             device's files, or stolen. The server has ended the sign-in.",
        )
        .says(&["an old secret of this device's sign-in was used again"])
        .then("Find out who else has the device's files, then sign in again.", LOGIN),
    reason("credential_unknown")
        .means("The server knows another secret of the sign-in: its database went back.")
        .says(&["the secret of this device's sign-in is not known"])
        .then("The client tries the secrets that it keeps; sign in again if it says so.", LOGIN),
    reason("other_device")
        .means("A sign-in is good for one replica, and the call names another.")
        .says(&["the sign-in is of another device"])
        .then("Sign this replica in itself.", LOGIN),
];
