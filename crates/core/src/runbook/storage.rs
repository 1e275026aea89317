//! Entries of the object store's codes.

use super::Entry;
use super::Kind::StorageCode;
use super::Section::BlobPersistence;

const fn storage(key: &'static str) -> Entry {
    Entry::new(key, StorageCode, BlobPersistence).with(&[500])
}

const CHECK: &str = "vfs-sync blobs check --data /var/lib/vfs-sync";
const SYNC: &str = "vfs-sync sync";

pub(super) const STORAGE: &[Entry] = &[
    storage("NoSuchKey")
        .means("Orphaned metadata: the registry has the blob, the object is missing.")
        .then("Put the object back from a backup; the operator lists all that are missing.", CHECK),
    storage("AccessDenied")
        .means(
            "The store refuses the server: its key lacks a right on the bucket, or the store hides \
             that the object is missing.",
        )
        .then("Check the key's rights, VFS_BLOB_S3_BUCKET and VFS_BLOB_S3_KEY_PREFIX.", CHECK),
    storage("ServiceUnavailable")
        .means("A transient outage of the store: safe to retry.")
        .then("Nothing: clients retry with the same payload.", SYNC),
    storage("SlowDown")
        .means("The store throttles: safe to retry with back-off.")
        .then("Nothing: clients retry. If it lasts, spread the load over more prefixes.", SYNC),
    storage("InternalError")
        .means("The store's internal error: safe to retry.")
        .then("Nothing: clients retry with the same payload.", SYNC),
    storage("StorageFull")
        .means("The disk of the contents, or the bucket's quota, is full: safe to retry.")
        .says(&["the server has no room for it"])
        .then(
            "The server's operator makes room; queued contents wait, and resume by themselves.",
            SYNC,
        ),
];
