//! Prints entries of the runbook: `explain`.

use serde_json::json;
use vfs_sync_core::runbook::{self, Entry};

use crate::args::Explain;
use crate::error::{Failure, Kind, Result};
use crate::escape::escaped;
use crate::output::{Output, table};

/// The number of similar keys that are named for an unknown one.
const NEAR: usize = 5;
/// The similarity from which a key is named for an unknown one, from 0 to 1.
const NEAR_ENOUGH: f64 = 0.8;

pub(super) fn explain(args: &Explain, output: Output) -> Result<()> {
    let query = args.query.join(" ");
    if query.trim().is_empty() {
        return list(output);
    }
    let found = runbook::find(&query);
    if found.is_empty() {
        return Err(unknown(&query));
    }
    let entries: Vec<_> = found.iter().map(|entry| entry.to_json()).collect();
    output.json(&json!({ "query": query, "entries": entries }))?;
    if output.json {
        return Ok(());
    }
    for (index, entry) in found.iter().enumerate() {
        if index > 0 {
            output.text("")?;
        }
        print(entry, output)?;
    }
    Ok(())
}

fn print(entry: &Entry, output: Output) -> Result<()> {
    let statuses: Vec<_> = entry.statuses.iter().map(u16::to_string).collect();
    let statuses = match statuses.is_empty() || entry.kind == runbook::Kind::HttpStatus {
        true => String::new(),
        false => format!(", status {}", statuses.join(", ")),
    };
    output.text(format_args!("{} ({}{statuses})", entry.key, entry.kind.as_str()))?;
    output.text(format_args!("  means: {}", entry.meaning))?;
    output.text(format_args!("  do: {}", entry.action))?;
    output.text(format_args!("  next: {}", entry.command))?;
    output.text(format_args!("  runbook: {}", place(entry)))
}

fn list(output: Output) -> Result<()> {
    let entries: Vec<_> = runbook::entries().map(Entry::to_json).collect();
    output.json(&json!({ "query": null, "entries": entries }))?;
    if output.json {
        return Ok(());
    }
    let mut rows = table(&["key", "kind", "runbook"], &[]);
    for entry in runbook::entries() {
        rows.add_row([entry.key, entry.kind.as_str(), &place(entry)]);
    }
    output.table(rows)
}

/// Returns the place in the documents that treats an entry.
pub(super) fn place(entry: &Entry) -> String {
    format!("{}#{}", entry.section.document(), entry.section.anchor())
}

fn unknown(query: &str) -> Failure {
    let near = near(query);
    let mut failure =
        Failure::new(Kind::NotFound, format!("the runbook has nothing about {}", escaped(query)));
    let all = "`vfs-sync explain` lists everything that it knows";
    failure.hint = Some(match near.is_empty() {
        true => all.to_owned(),
        false => format!("did you mean {}?\n{all}", near.join(", ")),
    });
    failure.details.insert("near".into(), near.into());
    failure
}

/// Returns the keys that are most similar to an unknown one.
fn near(query: &str) -> Vec<&'static str> {
    // More is a text, to which no key is similar.
    let query: String = query.chars().take(64).collect::<String>().to_lowercase();
    let similarity = |entry: &'static Entry| {
        let of = |key: &str| {
            let key = key.to_lowercase();
            let part = query.len() >= 4 && key.contains(&query);
            if part { 1.0 } else { strsim::jaro_winkler(&query, &key) }
        };
        (of(entry.key).max(of(entry.code())), entry.key)
    };
    let mut all: Vec<_> = runbook::entries().map(similarity).collect();
    all.retain(|(similarity, _)| *similarity >= NEAR_ENOUGH);
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let mut keys: Vec<&str> = Vec::new();
    for (_, key) in all {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.truncate(NEAR);
    keys
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn a_mistyped_key_has_near_matches() {
        assert_eq!(near("pull:pullCursorRegresion")[0], "pull:pullCursorRegression");
        assert!(near("cursorRegression").contains(&"pull:pullCursorRegression"));
        assert!(near("storagefull").contains(&"storage_full"));
        assert_eq!(near("quite another thing").len(), 0);
    }

    #[test]
    fn every_command_of_the_runbook_is_one_that_the_program_has() {
        for entry in runbook::entries() {
            let words: Vec<&str> = entry.command.split(' ').collect();
            assert_eq!(words[0], "vfs-sync", "{}", entry.command);
            if let Err(error) = Cli::try_parse_from(&words) {
                let fine =
                    [clap::error::ErrorKind::DisplayHelp, clap::error::ErrorKind::DisplayVersion];
                assert!(fine.contains(&error.kind()), "{}: {error}", entry.command);
            }
        }
    }

    #[test]
    fn every_problem_of_a_live_folder_has_an_entry() {
        use strum::VariantArray as _;
        use vfs_sync_folder::report::ProblemKind;
        for kind in ProblemKind::VARIANTS {
            let entry = runbook::entry_of(runbook::Kind::FolderProblem, kind.as_str());
            assert!(entry.is_some(), "{kind:?}");
        }
    }
}
