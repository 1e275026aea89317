//! Replaces names, contents, tokens and addresses by digests, for a bug report.
//!
//! Everything that is not known to reveal nothing is replaced: a value is kept if it is a number, a
//! truth value, a time, a position of the feed, or a word of the program. The digests are keyed with a
//! secret that is made for one report and kept nowhere: equal values have equal digests within the
//! report, and nobody can find a value by trying.

use std::collections::HashSet;

use serde_json::{Map, Value};
use vfs_sync_core::cursor::Position;
use vfs_sync_core::id::ChangeId;
use vfs_sync_core::runbook;
use vfs_sync_core::time::Timestamp;

use super::check::{Check, Reveals};
use crate::error::{Failure, Result};

/// The names of fields, and values that are words of the program.
const WORDS: &str = "\
    access acknowledged accessLevel acl_add acl_remove actorId advice after afterOperations at \
    attach attachedAt attachment attachments authoredAt authorOpId authorReplicaId baseline basis before blob_attach \
    blob_detach blobId bytes bytesAfter bytesBefore bytesPerSecond cacheSize changedAt changeId changes checks \
    childId clientId clock code contact container containerClocks containerId contentReason contents contentType \
    copied count counts createdAt cursor defect detail details device digest directory elsewhere \
    encrypted encryptedPayload encryptionAad encryptionNonce encryptionSignature entries entry epoch error \
    evidence excluded expectedBlobId expires failed failedClosed failingStep failures file first fix floor folder \
    folders format free freeBytes grants group head held heldEntries hydrate id identical ignored \
    init inStep insecureHttp integrity item item_delete item_upsert itemId items joined key keyEpoch kind last \
    lastInStep lastReconciledWriteIds level link link_add link_remove links live lost machine max maxPullLimit \
    message metadata millis millisAhead mode modified modifiedAt name newest next nextLocalWriteId node note notes \
    now null objectType of offeredAgain oldestAvailable opId opType operation operations organization outcome own \
    ownAtServer ownerId ownLastWriteId ownRules pages parentId path paused pending positions \
    positionsLost principalId principalType problem problems progressed protocol pushes queue read readOnly \
    reason reasons reconcileState redacted refId refusals refusalsBefore relationKind release rejected \
    rematerialise replayCursor replica replicaId replicaFile replicasBehindAtServer replicasBehindHere reported \
    requiredCursor retry retryGoesThrough rows running scan scanned scopes seen seenThrough server serverEpoch \
    serverHead serverHeadAt serverTime settings signature since size skipped stagingId state states statesAt \
    status step steps stored succeeded sync system target tokenFile trustIgnore unknown user userId validFrom \
    value values verdict version violation vfs-sync.replica-state waiting waits waitsFor working write writeId \
    writeIdFloor admin allowedLinks behind ahead true false ok file folder";

/// The fields whose values are always replaced: names, ids, addresses, and what an application put
/// there.
const NAMES: [&str; 30] = [
    "name",
    "path",
    "directory",
    "metadata",
    "itemId",
    "item",
    "parentId",
    "childId",
    "containerId",
    "ownerId",
    "userId",
    "user",
    "actorId",
    "principalId",
    "clientId",
    "replicaId",
    "replica",
    "authorReplicaId",
    "authorOpId",
    "opId",
    "blobId",
    "stagingId",
    "refId",
    "server",
    "tokenFile",
    "device",
    "detail",
    "message",
    "contentType",
    "target",
];

/// The fields whose own fields are ids.
const MAPS: [&str; 3] = ["writeIdFloor", "lastReconciledWriteIds", "allowedLinks"];

/// Words of operating systems and libraries in the texts of errors.
const ERRORS: &str = "\
    a access address again an and another answer as at be body broken by cannot certificate channel client \
    closed code connect connection connecting contact could data database deadline denied device directory disk does \
    dns end error errors exceeded expired failed failure file for found from handshake has have host http https \
    image in input invalid io is it issuer large line lookup malformed many memory message missing name network no \
    not number of on open operation or os out output peer permission pipe port possible proxy quota read refused \
    request reset resolve resource response route sending server service size slow socket space stalled status \
    stream such supported system table temporarily the timed timeout tls to token too trying unable unavailable \
    unexpected unknown unreachable up url use valid value was while with within write wrong yet";

/// A replacement of values by digests, with a secret of its own.
pub(super) struct Redaction {
    secret: [u8; 32],
    words: HashSet<String>,
}

impl Redaction {
    pub(super) fn new() -> Result<Self> {
        let mut secret = [0; 32];
        let filled = rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty());
        if filled != Ok(secret.len()) {
            return Err(Failure::failed(
                "the system gives no random bytes for the report's secret",
            ));
        }
        let mut words: HashSet<String> = HashSet::new();
        for text in [WORDS, ERRORS] {
            words.extend(text.split_whitespace().map(str::to_owned));
        }
        for entry in runbook::entries() {
            words.insert(entry.key.to_owned());
            words.insert(entry.kind.as_str().to_owned());
        }
        Ok(Self { secret, words })
    }

    /// Returns the digest that stands for a text.
    fn digest(&self, text: &str) -> String {
        let hash = blake3::keyed_hash(&self.secret, text.as_bytes()).to_hex();
        format!("digest:{}", &hash[..16])
    }

    /// Replaces a text as a whole, unless it is a word of the program, a time or a position.
    fn plain(&self, text: &str) -> String {
        let is_time = text.len() <= 32 && text.parse::<Timestamp>().is_ok();
        let position = ChangeId::new(text).ok().and_then(|id| Position::parse(&id));
        if self.words.contains(text) || is_time || position.is_some() || text.is_empty() {
            text.to_owned()
        } else {
            self.digest(text)
        }
    }

    /// Replaces the unknown words of a free text.
    pub(super) fn text(&self, text: &str) -> String {
        let mut out = String::new();
        for word in text.split_inclusive(char::is_whitespace) {
            let space = &word[word.trim_end().len()..];
            let word = word.trim_end();
            // A path, an address, an e-mail address: as a whole.
            let is_place = word.contains(['/', '\\', '@', '%', '=']);
            let core = word.trim_matches(|c: char| !c.is_alphanumeric());
            let lower = core.to_lowercase();
            let is_known = self.words.contains(core)
                || self.words.contains(&lower)
                || (core.len() <= 4 && core.chars().all(|c| c.is_ascii_digit()))
                || core.parse::<Timestamp>().is_ok();
            if word.is_empty() || (is_known && !is_place) || core.is_empty() && !is_place {
                out.push_str(word);
            } else {
                out.push_str(&self.digest(word));
            }
            out.push_str(space);
        }
        out
    }

    /// Replaces what a value reveals, the names of unknown fields included.
    pub(super) fn value(&self, value: &Value) -> Value {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
            Value::String(text) => self.plain(text).into(),
            Value::Array(values) => values.iter().map(|value| self.value(value)).collect(),
            Value::Object(fields) => {
                let fields = fields.iter().map(|(key, value)| {
                    let value = match (key.as_str(), value) {
                        (field, Value::Object(ids)) if MAPS.contains(&field) => {
                            let ids = ids.iter().map(|(id, of)| (self.digest(id), self.value(of)));
                            Value::Object(ids.collect())
                        }
                        ("metadata", value) => self.all(value),
                        (field, Value::String(text)) if NAMES.contains(&field) => {
                            self.digest(text).into()
                        }
                        _ => self.value(value),
                    };
                    (self.plain(key), value)
                });
                Value::Object(fields.collect())
            }
        }
    }

    /// Replaces every leaf of a value by its digest, numbers too.
    fn all(&self, value: &Value) -> Value {
        match value {
            Value::Null => Value::Null,
            Value::Array(values) => values.iter().map(|value| self.all(value)).collect(),
            Value::Object(fields) => {
                let fields = fields.iter().map(|(key, value)| (self.digest(key), self.all(value)));
                Value::Object(fields.collect())
            }
            leaf => self.digest(&leaf.to_string()).into(),
        }
    }

    /// Replaces what the texts of a value reveal, word by word.
    fn texts(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.text(text).into(),
            Value::Array(values) => values.iter().map(|value| self.texts(value)).collect(),
            Value::Object(fields) => {
                let fields = fields.iter().map(|(key, value)| (self.plain(key), self.texts(value)));
                Value::Object(fields.collect())
            }
            other => other.clone(),
        }
    }

    /// Renders a check: its sentence and its next step name things, and are left out.
    pub(super) fn check(&self, check: &Check) -> Value {
        let mut evidence = Map::new();
        for fact in &check.evidence {
            let value = match fact.reveals {
                Reveals::Nothing => fact.value.clone(),
                Reveals::Name => match &fact.value {
                    Value::String(text) => self.digest(text).into(),
                    value => self.value(value),
                },
                Reveals::Text => self.texts(&fact.value),
            };
            evidence.insert(fact.key.to_owned(), value);
        }
        serde_json::json!({
            "id": check.id,
            "outcome": check.outcome,
            "entry": check.entry().map(|entry| entry.key),
            "evidence": evidence,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_reveals_nothing_stays_and_everything_else_is_a_digest() {
        let redaction = Redaction::new().unwrap();
        let value = json!({
            "itemId": "0193-secret", "createdAt": "2026-01-01T00:00:00.000Z", "size": 7,
            "changeId": "0123456789ab-0000000000000001", "opType": "item_upsert",
            "metadata": {"salary": 81234, "tags": ["Zanzibar"]}, "Zanzibar": true, "name": "Zanzibar",
        });
        let redacted = redaction.value(&value);
        let text = redacted.to_string();
        for secret in ["0193-secret", "salary", "81234", "Zanzibar", "tags"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(redacted["createdAt"], value["createdAt"]);
        assert_eq!(redacted["changeId"], value["changeId"]);
        assert_eq!((&redacted["size"], &redacted["opType"]), (&7.into(), &"item_upsert".into()));
        let again = redaction.value(&json!("Zanzibar"));
        assert_eq!(again, redacted["name"], "equal values have equal digests");
        assert_ne!(
            Redaction::new().unwrap().value(&json!("Zanzibar")),
            again,
            "of this report alone"
        );
    }

    #[test]
    fn a_text_keeps_the_words_of_errors() {
        let redaction = Redaction::new().unwrap();
        let text = redaction.text("cannot read /home/zoe/tax: Permission denied (os error 13)");
        assert!(text.starts_with("cannot read digest:"), "{text}");
        assert!(text.ends_with("Permission denied (os error 13)"), "{text}");
        assert!(!redaction.text("token=abc zoe@example.org Quarterly").contains("Quarterly"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String) {
            let redaction = Redaction::new().unwrap();
            let _ = redaction.text(&text);
            let _ = redaction.value(&json!({ text.clone(): text }));
        }
    }
}
