//! A check of the doctor as a value: its outcome, evidence, entry of the runbook, and next step.

use serde::Serialize;
use serde_json::{Map, Value, json};
use vfs_sync_core::runbook::{self, Entry, Kind};

use crate::commands::explain::place;

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Outcome {
    /// The check found everything in order.
    Ok,
    /// The check found something to know, or was skipped.
    Note,
    /// Somebody has to act.
    Problem,
}

/// The kind of a piece of evidence, which decides its form in a bug report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reveals {
    /// Numbers, times, statuses, and words of the program.
    Nothing,
    /// A name, a path, an id or an address: replaced by a digest.
    Name,
    /// A text of the system or a server: its unknown words are replaced by digests.
    Text,
}

/// A piece of evidence.
#[derive(Debug, Clone)]
pub(super) struct Fact {
    pub(super) key: &'static str,
    pub(super) value: Value,
    pub(super) reveals: Reveals,
}

/// A check with its result.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) id: &'static str,
    pub(super) outcome: Outcome,
    /// The result in a sentence.
    pub(super) summary: String,
    pub(super) evidence: Vec<Fact>,
    /// The key of the runbook's entry, if it is another than the check's own.
    entry: Option<&'static Entry>,
    pub(super) next: Option<String>,
}

impl Check {
    fn new(id: &'static str, outcome: Outcome, summary: impl Into<String>) -> Self {
        let (summary, evidence) = (summary.into(), Vec::new());
        Self { id, outcome, summary, evidence, entry: None, next: None }
    }

    pub(super) fn ok(id: &'static str, summary: impl Into<String>) -> Self {
        Self::new(id, Outcome::Ok, summary)
    }

    pub(super) fn note(id: &'static str, summary: impl Into<String>) -> Self {
        Self::new(id, Outcome::Note, summary)
    }

    pub(super) fn problem(id: &'static str, summary: impl Into<String>) -> Self {
        Self::new(id, Outcome::Problem, summary)
    }

    /// Creates a check that was not made, for a reason.
    pub(super) fn skipped(id: &'static str, because: &str) -> Self {
        Self::note(id, format!("skipped because {because}")).with("skipped", true)
    }

    fn fact(mut self, key: &'static str, value: impl Serialize, reveals: Reveals) -> Self {
        let value = serde_json::to_value(value).unwrap_or_default();
        self.evidence.push(Fact { key, value, reveals });
        self
    }

    /// Adds evidence that reveals nothing of the user.
    pub(super) fn with(self, key: &'static str, value: impl Serialize) -> Self {
        self.fact(key, value, Reveals::Nothing)
    }

    /// Adds a name, a path, an id or an address as evidence.
    pub(super) fn name(self, key: &'static str, value: impl Serialize) -> Self {
        self.fact(key, value, Reveals::Name)
    }

    /// Adds a text of the system or of a server as evidence.
    pub(super) fn text(self, key: &'static str, value: impl Serialize) -> Self {
        self.fact(key, value, Reveals::Text)
    }

    /// Changes the outcome, and the sentence that states it.
    pub(super) fn becomes(self, outcome: Outcome, summary: impl Into<String>) -> Self {
        Self { outcome, summary: summary.into(), ..self }
    }

    /// Sets the next step, a command to paste.
    pub(super) fn next(mut self, command: impl Into<String>) -> Self {
        self.next = Some(command.into());
        self
    }

    /// Names another entry of the runbook than the check's own, if the runbook has the key.
    pub(super) fn explained(mut self, key: &str) -> Self {
        self.entry = runbook::entry(key).or(self.entry);
        self
    }

    /// Returns the runbook's entry.
    pub(super) fn entry(&self) -> Option<&'static Entry> {
        self.entry.or_else(|| runbook::entry_of(Kind::Check, self.id))
    }

    pub(super) fn is_problem(&self) -> bool {
        self.outcome == Outcome::Problem
    }

    /// Renders the check as JSON.
    pub(super) fn json(&self) -> Value {
        let evidence: Map<String, Value> =
            self.evidence.iter().map(|fact| (fact.key.to_owned(), fact.value.clone())).collect();
        json!({
            "id": self.id,
            "outcome": self.outcome,
            "summary": self.summary,
            "evidence": evidence,
            "entry": self.entry().map(Entry::to_json),
            "next": self.next,
        })
    }

    /// Describes the check for people: its line, and those of what is to be done.
    pub(super) fn lines(&self) -> Vec<String> {
        let mark = match self.outcome {
            Outcome::Ok => "ok",
            Outcome::Note => "note",
            Outcome::Problem => "PROBLEM",
        };
        let mut lines = vec![format!("{mark:8} {:21} {}", self.id, self.summary)];
        if self.outcome == Outcome::Problem
            && let Some(entry) = self.entry()
        {
            lines.push(format!("         means: {}", entry.meaning));
            lines.push(format!("         runbook: {}, {}", entry.key, place(entry)));
        }
        if let Some(next) = self.next.as_ref().filter(|_| self.outcome != Outcome::Ok) {
            lines.push(format!("         next: {next}"));
        }
        lines
    }
}
