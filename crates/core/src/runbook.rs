//! The runbook as data: for each signature, code and status that a client or a server reports, its
//! meaning and what to do next.
//!
//! ```
//! let found = vfs_sync_core::runbook::find("pull:pullCursorRegression");
//! assert_eq!(found[0].section.anchor(), "1-sync-state-divergence");
//! ```

mod clients;
mod codes;
mod folders;
mod servers;
mod situations;
mod statuses;
mod storage;

/// An entry of the runbook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The signature, code or status that the entry explains.
    pub key: &'static str,
    /// The group of keys that the entry belongs to.
    pub kind: Kind,
    /// The HTTP statuses with which a server sends the code.
    pub statuses: &'static [u16],
    /// The sentences of errors with this key; `…` stands for any text.
    pub texts: &'static [&'static str],
    /// The meaning, in one or two sentences.
    pub meaning: &'static str,
    /// The section of the documents that treats it.
    pub section: Section,
    /// The action that resolves it, in words.
    pub action: &'static str,
    /// The next step as a command to paste.
    pub command: &'static str,
}

/// The groups of keys in the runbook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub enum Kind {
    /// The `stage:code` of a guardrail violation.
    Signature,
    /// A code in an error body of the server.
    Code,
    /// A reason in an error body with the code `unauthorized`.
    TokenReason,
    /// A `storageCode` of the object store.
    StorageCode,
    /// A status of an HTTP answer.
    HttpStatus,
    /// The status of a stage.
    StageStatus,
    /// A result of an operation, or the reason for it.
    Result,
    /// An error that a client finds by itself.
    Client,
    /// The reason why a change that a restored server lost could not be offered again.
    LostReason,
    /// The reason why an entry of a live folder is left out.
    FolderProblem,
    /// A check of `vfs-sync doctor` or `vfs-sync admin doctor`.
    Check,
}

impl Kind {
    /// Returns the group's name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The sections of the documents that entries belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::VariantArray)]
#[allow(missing_docs, reason = "named as the headings")]
pub enum Section {
    Divergence,
    Visibility,
    BlobPersistence,
    PausesAndWaits,
    OtherAnswers,
    Telemetry,
    ExitCodes,
    RestoredServer,
    Contents,
    Protocol,
    Results,
    Permissions,
    Limits,
    Rates,
    FolderLimits,
    FolderChanges,
    FolderIgnoring,
    FolderService,
    Install,
    Doctor,
    ServerDoctor,
}

impl Section {
    /// Returns the path of the document, from the top of the repository.
    #[must_use]
    pub const fn document(self) -> &'static str {
        match self {
            Self::Divergence
            | Self::Visibility
            | Self::BlobPersistence
            | Self::PausesAndWaits
            | Self::OtherAnswers
            | Self::Telemetry => "docs/en/vfs-sync-runbook.md",
            Self::ExitCodes | Self::RestoredServer | Self::Contents => "docs/cli.md",
            Self::Protocol | Self::Results | Self::Permissions => "docs/protocol.md",
            Self::Limits | Self::Rates => "docs/limits.md",
            Self::FolderLimits
            | Self::FolderChanges
            | Self::FolderIgnoring
            | Self::FolderService => "docs/folders.md",
            Self::Install => "docs/install.md",
            Self::Doctor | Self::ServerDoctor => "docs/doctor.md",
        }
    }

    /// Returns the section's heading in the document.
    #[must_use]
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Divergence => "1) Sync-state divergence",
            Self::Visibility => "2) Staged-blob visibility failures",
            Self::BlobPersistence => "3) Blob persistence failures",
            Self::PausesAndWaits => "What pauses and what waits",
            Self::OtherAnswers => "Other answers",
            Self::Telemetry => "4) Guardrail telemetry reference",
            Self::ExitCodes => "Exit codes",
            Self::RestoredServer => "A restored server",
            Self::Contents => "Contents",
            Self::Protocol => "Errors",
            Self::Results => "Push",
            Self::Permissions => "Visibility and permissions",
            Self::Limits => "What one user may keep and change",
            Self::Rates => "Rates",
            Self::FolderLimits => "Limits",
            Self::FolderChanges => "What happens to a file",
            Self::FolderIgnoring => "Leaving things out",
            Self::FolderService => "Always on",
            Self::Install => "Run",
            Self::Doctor => "Checks",
            Self::ServerDoctor => "The server's checks",
        }
    }

    /// Returns the anchor of the heading, as a browser's address has it.
    #[must_use]
    pub fn anchor(self) -> String {
        anchor(self.heading())
    }
}

/// Returns the anchor that a renderer of Markdown gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
}

impl Entry {
    const fn new(key: &'static str, kind: Kind, section: Section) -> Self {
        let (meaning, action, command) = ("", "", "");
        Self { key, kind, statuses: &[], texts: &[], meaning, section, action, command }
    }

    const fn means(self, meaning: &'static str) -> Self {
        Self { meaning, ..self }
    }

    /// Sets the action in words, and the command to paste.
    const fn then(self, action: &'static str, command: &'static str) -> Self {
        Self { action, command, ..self }
    }

    const fn with(self, statuses: &'static [u16]) -> Self {
        Self { statuses, ..self }
    }

    const fn says(self, texts: &'static [&'static str]) -> Self {
        Self { texts, ..self }
    }

    /// Describes the entry in JSON, as `vfs-sync explain` and the operator's console show it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "key": self.key,
            "kind": self.kind.as_str(),
            "statuses": self.statuses,
            "meaning": self.meaning,
            "action": self.action,
            "next": self.command,
            "runbook": {
                "document": self.section.document(),
                "anchor": self.section.anchor(),
                "heading": self.section.heading(),
            },
        })
    }

    /// Returns the part of a signature behind the stage; else the whole key.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.kind {
            Kind::Signature => self.key.split_once(':').map_or(self.key, |(_, code)| code),
            _ => self.key,
        }
    }
}

const TABLES: [&[Entry]; 10] = [
    clients::SIGNATURES,
    clients::CLIENT,
    codes::CODES,
    codes::TOKEN_REASONS,
    storage::STORAGE,
    statuses::RESULTS,
    folders::PROBLEMS,
    situations::CHECKS,
    servers::CHECKS,
    statuses::HTTP,
];

/// Returns all entries of the runbook, by group.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    TABLES.into_iter().flatten()
}

/// Returns the entry with exactly this key. A key that several groups have is the first one's.
#[must_use]
pub fn entry(key: &str) -> Option<&'static Entry> {
    entries().find(|entry| entry.key == key)
}

/// Returns the entry of this group with exactly this key.
#[must_use]
pub fn entry_of(kind: Kind, key: &str) -> Option<&'static Entry> {
    entries().find(|entry| entry.kind == kind && entry.key == key)
}

/// The greatest length of a text that is searched, in bytes.
const MAX_QUERY_BYTES: usize = 64 * 1024;

/// Returns the entries that a key, an HTTP status or the text of an error names, the most specific
/// first; none if nothing in it is known.
#[must_use]
pub fn find(query: &str) -> Vec<&'static Entry> {
    let mut end = query.len().min(MAX_QUERY_BYTES);
    while !query.is_char_boundary(end) {
        end -= 1;
    }
    let query = query[..end].trim().to_lowercase();
    let query = query.split_whitespace().collect::<Vec<_>>().join(" ");
    if query.is_empty() {
        return Vec::new();
    }
    let is = |text: &str| text.to_lowercase() == query;
    let exact: Vec<_> = entries().filter(|entry| is(entry.key)).collect();
    if let [first, ..] = exact[..] {
        if first.kind == Kind::HttpStatus {
            return with_status(first);
        }
        return exact;
    }
    let codes: Vec<_> = entries().filter(|entry| is(entry.code())).collect();
    if !codes.is_empty() {
        return codes;
    }
    // The text of an error: its own sentence says more than a word in it, and a code more than a
    // status.
    let mut found: Vec<_> = entries().filter(|entry| says(entry, &query)).collect();
    for name in [Word::Marked, Word::AfterStatus, Word::Status] {
        if found.is_empty() {
            found = words(&query, name);
        }
    }
    found
}

/// Returns the entry of a status, and the codes that are sent with it.
fn with_status(status: &'static Entry) -> Vec<&'static Entry> {
    let of_it = entries().filter(|entry| {
        entry.kind != Kind::HttpStatus
            && entry.statuses.iter().any(|number| number.to_string() == status.key)
    });
    std::iter::once(status).chain(of_it).collect()
}

/// Returns whether a text has one of the entry's sentences.
fn says(entry: &Entry, query: &str) -> bool {
    entry.texts.iter().any(|text| {
        let mut rest = query;
        text.to_lowercase().split('…').all(|part| {
            let part = part.trim();
            rest.find(part).inspect(|at| rest = &rest[at + part.len()..]).is_some()
        })
    })
}

/// The words of a text that may be keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    /// A word that is no word of a language: it has a sign or an upper-case letter inside.
    Marked,
    /// A word that follows a status, as the code of an error does.
    AfterStatus,
    /// A number of three digits.
    Status,
}

/// Returns the entries whose keys are words of a text, in the order of the text.
fn words(query: &str, name: Word) -> Vec<&'static Entry> {
    let in_key = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '-' | '.');
    let is_status = |word: &str| word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
    let marked = |key: &str| key.contains(['_', ':']) || key.chars().any(char::is_uppercase);
    let mut found: Vec<&'static Entry> = Vec::new();
    let mut before = "";
    for word in query.split(|c: char| !in_key(c)) {
        let word = word.trim_matches(['.', ':', '-']);
        if word.is_empty() {
            continue;
        }
        let may_be = |key: &str| match name {
            Word::Marked => marked(key),
            Word::AfterStatus => is_status(before),
            Word::Status => is_status(key),
        };
        let is = |entry: &&Entry| {
            let keys = [entry.key, entry.code()];
            keys.into_iter().any(|key| may_be(key) && key.to_lowercase() == word)
        };
        for entry in entries().filter(is) {
            if !found.contains(&entry) {
                found.push(entry);
            }
        }
        before = word;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use strum::VariantArray as _;

    use super::*;
    use crate::cursor::{Cursor, Epoch, Position};
    use crate::guardrail::{Stage, Violation};
    use crate::id::{ReplicaId, WriteId};
    use crate::time::Timestamp;
    use crate::wire::{PushReason, PushStatus, StageStatus};

    fn keys(query: &str) -> Vec<&'static str> {
        find(query).into_iter().map(|entry| entry.key).collect()
    }

    fn repository(path: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    }

    #[test]
    fn every_entry_is_whole_and_its_key_is_its_own() {
        for (index, one) in entries().enumerate() {
            for (what, text) in
                [("meaning", one.meaning), ("action", one.action), ("command", one.command)]
            {
                assert!(!text.is_empty(), "{} has no {what}", one.key);
                assert!(!text.contains(['\n', '\t']), "{}", one.key);
            }
            let twin = |other: &&Entry| (other.kind, other.key) == (one.kind, one.key);
            assert_eq!(entries().position(|other| twin(&other)), Some(index), "{}", one.key);
        }
    }

    #[test]
    fn every_section_is_a_heading_of_its_document() {
        for section in Section::VARIANTS {
            let document = repository(section.document());
            let headings: Vec<String> = document
                .lines()
                .filter_map(|line| {
                    Some(anchor(line.strip_prefix('#')?.trim_start_matches('#').trim()))
                })
                .collect();
            assert!(headings.contains(&section.anchor()), "{section:?} is not in {headings:?}");
        }
        assert_eq!(Section::Divergence.anchor(), "1-sync-state-divergence");
    }

    /// Returns a violation of each kind, except that one kind may have several stages.
    fn violations() -> Vec<Violation> {
        let position = Position { epoch: Epoch::from_u64(1).unwrap(), counter: 1 };
        let cursor: Cursor = position.at(Timestamp::from_millis(0).unwrap());
        let op_id = cursor.change_id.clone();
        let (previous, incoming) = (WriteId::new(2).unwrap(), WriteId::new(1).unwrap());
        let replica_id = ReplicaId::new("laptop").unwrap();
        let regression = |stage| Violation::LastWriteIdRegression {
            stage,
            replica_id: replica_id.clone(),
            previous,
            incoming,
        };
        let (previous, incoming) = (cursor.clone(), cursor.clone());
        vec![
            regression(Stage::Pull),
            regression(Stage::Reconcile),
            Violation::EmptyPageWithMore,
            Violation::DuplicateOpReplay { op_id: op_id.clone() },
            Violation::NextCursorMismatch { next_cursor: None, page_cursor: cursor.clone() },
            Violation::PullCursorRegression { previous, incoming },
            Violation::ItemsOutOfOrder { item_index: 0, op_id },
            Violation::RematerializationRequired { requested: None, oldest_available: None },
            Violation::ReconcileCursorRegression { previous: cursor.clone(), incoming: cursor },
            Violation::StaleWriteRecoveryExhausted {
                attempts: 2,
                max_attempts: 2,
                stale_results: 1,
            },
        ]
    }

    #[test]
    fn every_violation_is_found_by_its_signature_code_and_message() {
        for violation in violations() {
            // Without a wildcard: a new variant has to be added above.
            match violation {
                Violation::LastWriteIdRegression { .. }
                | Violation::EmptyPageWithMore
                | Violation::DuplicateOpReplay { .. }
                | Violation::NextCursorMismatch { .. }
                | Violation::PullCursorRegression { .. }
                | Violation::ItemsOutOfOrder { .. }
                | Violation::RematerializationRequired { .. }
                | Violation::ReconcileCursorRegression { .. }
                | Violation::StaleWriteRecoveryExhausted { .. }
                | Violation::Hydrate { .. } => {}
            }
            let signature = violation.signature();
            assert_eq!(keys(&signature), [signature.as_str()]);
            for text in [violation.code().to_owned(), violation.message()] {
                assert!(keys(&text).contains(&signature.as_str()), "{text}: {:?}", keys(&text));
            }
        }
        assert_eq!(keys("hydrateGuardrailViolation"), ["hydrate:hydrateGuardrailViolation"]);
    }

    #[test]
    fn every_code_result_and_stage_status_has_an_entry() {
        let source = include_str!("wire.rs");
        let (_, codes) = source.split_once("pub mod code {").unwrap();
        let (codes, _) = codes.split_once("\n}").unwrap();
        let names = codes.lines().filter(|line| line.trim_start().starts_with("pub const"));
        let values: Vec<&str> = names
            .map(|line| line.split('"').nth(1).unwrap_or(crate::cursor::InvalidCursor::NAME))
            .collect();
        assert!(values.len() > 30, "{values:?}");
        for code in values {
            assert!(entry_of(Kind::Code, code).is_some(), "{code} has no entry");
        }
        let json = |value: serde_json::Value| value.as_str().unwrap().to_owned();
        for status in StageStatus::VARIANTS {
            assert!(entry_of(Kind::StageStatus, status.as_str()).is_some(), "{status:?}");
        }
        let statuses = PushStatus::VARIANTS.iter().map(|one| serde_json::to_value(one).unwrap());
        let reasons = PushReason::VARIANTS.iter().map(|one| serde_json::to_value(one).unwrap());
        for result in statuses.chain(reasons).map(json) {
            assert!(entry_of(Kind::Result, &result).is_some(), "{result} has no entry");
        }
        for reason in crate::client::offer::LostReason::VARIANTS {
            let reason = json(serde_json::to_value(reason).unwrap());
            assert!(entry_of(Kind::LostReason, &reason).is_some(), "{reason} has no entry");
        }
    }

    #[test]
    fn every_row_of_the_documents_tables_has_an_entry() {
        let runbook = repository("docs/en/vfs-sync-runbook.md");
        let persistence = repository("docs/en/vfs-blob-persistence.md");
        let mut rows = 0;
        for line in runbook.lines().chain(persistence.lines()) {
            let Some(cell) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next())
            else {
                continue;
            };
            // The helpers of tests, the routes for operators, the head of a table.
            if cell.contains('(') || cell.contains('/') || cell == "storageCode" {
                continue;
            }
            rows += 1;
            assert!(!find(cell).is_empty(), "{cell:?} is not found");
        }
        assert!(rows > 30, "{rows}");
    }

    #[test]
    fn a_status_and_the_text_of_an_error_are_found() {
        assert_eq!(
            keys("409 Client reconcile state is behind required visibility"),
            ["reconcile_state_behind"]
        );
        let conflict = keys("409");
        assert_eq!(conflict[0], "409");
        assert!(conflict.contains(&"write_ids_ahead_of_server"), "{conflict:?}");
        assert_eq!(keys("500 Failed to attach staged blob"), ["attach_failed"]);
        assert_eq!(keys("Failed to persist blob data")[0], "blob_store_error");
        assert_eq!(keys("507 storage_full"), ["storage_full"]);
        assert_eq!(
            keys("malformedResponse: pull: body is no error body, with status 302"),
            ["malformedResponse"]
        );
        assert_eq!(keys("  PULL:pullcursorregression\n"), ["pull:pullCursorRegression"]);
        assert_eq!(
            keys("lastWriteIdRegression"),
            ["pull:lastWriteIdRegression", "reconcile:lastWriteIdRegression"]
        );
        assert_eq!(keys("the server answered 502 Bad Gateway"), ["502"]);
        assert_eq!(
            keys("error: the server refused (413 quota_exceeded): too much"),
            ["quota_exceeded"]
        );
        assert_eq!(keys("The server is busy (503 overloaded)"), ["overloaded"]);
        assert_eq!(keys("it failed (503 timeout)"), ["timeout"]);
        let plain = "client error (SendRequest): connection closed, a time after the name expired";
        assert_eq!(keys(plain), [""; 0], "words of a language name no entry");
        for nothing in ["", "   ", "409x", "no such thing", "\u{0}"] {
            assert!(find(nothing).is_empty(), "{nothing:?}");
        }
        let long = "é".repeat(MAX_QUERY_BYTES);
        assert!(find(&long).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_query_makes_it_panic(query: String) {
            let _ = find(&query);
        }
    }
}
