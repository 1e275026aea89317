//! Pushes of the greatest size: encrypted notes that fill the database instead of the object store.

use std::convert::Infallible;

use serde_json::{Value, json};

use crate::Failure;
use crate::attack::Target;

/// The notes of one push, and those that are written over and over.
const NOTES: usize = 62;
const ALL: usize = NOTES * 10;

pub(crate) async fn run(on: Target) -> Result<Infallible, Failure> {
    let mut mallory = on.attacker("metadata-quota")?;
    on.prepared().await;
    for round in 0.. {
        let notes = (0..NOTES).map(|n| (round * NOTES + n) % ALL);
        let notes = notes.map(|n| note(&format!("metadata-quota-{n}"), round));
        on.push(&mut mallory, notes.collect()).await;
    }
    unreachable!("the rounds do not end")
}

/// Returns an encrypted note of 64 kB that differs from round to round.
pub(crate) fn note(id: &str, round: usize) -> Value {
    json!({"opType": "item_upsert", "itemId": id, "objectType": "note",
        "encryptedPayload": format!("{}{round:08}", "Ab3+".repeat(15_998)), "keyEpoch": 1,
        "encryptionNonce": "AAAA", "encryptionAad": "AAAA", "encryptionSignature": "AAAA"})
}
