//! Standard output and standard error, and the contents of each.
//!
//! Results go to standard output: for people, or with `--json` one JSON document (JSON lines where
//! the command's help says so). Progress, notes and errors go to standard error.
//!
//! No other module of this crate writes to standard output or error: clippy.toml forbids it. All
//! text is printed as [`Line`]s, whose display escapes characters that could control a terminal.

#![expect(clippy::disallowed_methods, reason = "this is where output goes through")]

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use vfs_sync_folder::report::{Problem, Problems};

use crate::error::{Failure, Result};
use crate::escape::{EscapingJson, EscapingLog, Line, escaped};

/// The number of problems that are shown to a person.
const PROBLEMS_SHOWN: usize = 20;

/// The output of a command, as the global options configure it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Output {
    /// Prints a line for people on standard output; prints nothing with `--json` or `--quiet`.
    pub(crate) fn say(&self, line: impl std::fmt::Display) -> Result<()> {
        if self.json || self.quiet {
            return Ok(());
        }
        self.text(line)
    }

    /// Prints a requested line on standard output, even with `--quiet`.
    pub(crate) fn text(&self, line: impl std::fmt::Display) -> Result<()> {
        writeln!(io::stdout().lock(), "{}", Line(line)).map_err(Failure::output)
    }

    /// Prints a requested table on standard output, even with `--quiet`; prints nothing if the
    /// table is empty.
    pub(crate) fn table(&self, rows: Rows) -> Result<()> {
        rows.lines().iter().try_for_each(|line| self.text(line))
    }

    /// Prints a line for people on standard error.
    pub(crate) fn note(&self, line: impl std::fmt::Display) {
        if !self.quiet && !self.json {
            let _ = writeln!(io::stderr().lock(), "{}", Line(line));
        }
    }

    /// Returns whether a person can be asked on the terminal.
    pub(crate) fn can_ask(&self) -> bool {
        !self.json && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Prints a question on the terminal, without ending the line.
    pub(crate) fn prompt(&self, question: impl std::fmt::Display) -> Result<()> {
        write!(io::stderr().lock(), "{} ", Line(question)).map_err(Failure::io("cannot ask"))
    }

    /// Prints a JSON document on a line of standard output, with `--json`.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        write_json(&mut io::stdout().lock(), value).map_err(Failure::output)
    }

    /// Prints a part of a document that is too large for memory, with `--json`.
    pub(crate) fn json_part(&self, text: &str) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        io::stdout().lock().write_all(text.as_bytes()).map_err(Failure::output)
    }

    /// Prints the failure that ends a command.
    pub(crate) fn failure(&self, failure: &Failure) {
        let mut stderr = io::stderr().lock();
        // Without standard error there is no other place for it.
        let _ = if self.json {
            write_json(&mut stderr, &serde_json::json!({ "error": failure }))
        } else {
            failure.text().lines().try_for_each(|line| writeln!(stderr, "{}", Line(line)))
        };
    }

    /// Prints the entries that were left out, for people, on standard error.
    pub(crate) fn problems(&self, problems: &Problems) {
        if self.json {
            return;
        }
        let mut stderr = io::stderr().lock();
        for problem in problems.first.iter().take(PROBLEMS_SHOWN) {
            let Problem { kind, path, detail } = problem;
            let line = Line(format_args!("{}: {path}: {detail}", kind.as_str()));
            let _ = writeln!(stderr, "{line}");
        }
        let shown = problems.first.len().min(PROBLEMS_SHOWN) as u64;
        if problems.total() > shown {
            let counts: Vec<_> = problems
                .counts
                .iter()
                .map(|(kind, count)| format!("{} {}", count, kind.as_str()))
                .collect();
            let _ = writeln!(
                stderr,
                "… and {} more ({} in all); --json lists up to 1,000",
                problems.total() - shown,
                counts.join(", ")
            );
        }
    }

    /// Shows progress on standard error, if it is a terminal.
    pub(crate) fn progress(&self, what: &'static str) -> Progress {
        let visible = !self.json && !self.quiet && io::stderr().is_terminal();
        let target =
            if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {msg} [{elapsed}]") {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        if visible {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Progress { bar }
    }
}

fn write_json(writer: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut text = json_text(value)?;
    text.push('\n');
    writer.write_all(text.as_bytes())?;
    writer.flush()
}

/// Serialises a value as JSON that is harmless on a terminal.
pub(crate) fn json_text(value: &impl Serialize) -> io::Result<String> {
    let mut bytes = Vec::new();
    let formatter = EscapingJson(serde_json::ser::CompactFormatter);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    value.serialize(&mut serializer)?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// A progress display, which is shown until it is dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Replaces the progress message: counts and plain words only.
    pub(crate) fn set(&self, message: String) {
        if !self.bar.is_hidden() {
            self.bar.set_message(Line(message).to_string());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A table without a frame. Each cell is escaped when it is added, so that the widths are those of
/// the displayed text.
pub(crate) struct Rows {
    table: Table,
    is_empty: bool,
}

impl Rows {
    /// Adds a row to the table.
    pub(crate) fn add_row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells: Vec<_> = cells.into_iter().map(|cell| escaped(cell.as_ref())).collect();
        self.table.add_row(cells);
        self.is_empty = false;
    }

    /// Returns the lines, without trailing white space.
    fn lines(mut self) -> Vec<String> {
        if self.is_empty {
            return Vec::new();
        }
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.table.lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

/// Creates a table; `right` has the indexes of the columns to align right.
pub(crate) fn table(header: &[&str], right: &[usize]) -> Rows {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Rows { table, is_empty: true }
}

/// Returns standard output for raw bytes: a content, a script, a document.
pub(crate) fn raw() -> io::StdoutLock<'static> {
    io::stdout().lock()
}

/// Returns standard error for a log that people read.
pub(crate) fn log() -> EscapingLog<io::Stderr> {
    EscapingLog::new(io::stderr())
}

/// Returns standard error for a log of JSON documents.
pub(crate) fn json_log() -> io::Stderr {
    io::stderr()
}

/// Formats a size for people.
pub(crate) fn bytes_text(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Formats a count with its noun: `one` if the count is 1, else `many`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", count_text(count), if count == 1 { one } else { many })
}

/// Formats a number with thousands separators.
pub(crate) fn count_text(count: u64) -> String {
    indicatif::HumanCount(count).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_cannot_end_its_line() {
        let mut rows = table(&[], &[]);
        rows.add_row(["\u{1b}[2Kkey", "a\nb"]);
        assert_eq!(rows.lines(), ["\\u{1b}[2Kkey  a\\nb"]);
    }

    #[test]
    fn a_table_has_its_numbers_to_the_right_and_nothing_trails() {
        let mut numbers = table(&["name", "size"], &[1]);
        numbers.add_row(vec!["a", "1"]);
        numbers.add_row(vec!["bcdef", "1000"]);
        assert_eq!(numbers.lines(), ["name   size", "a         1", "bcdef  1000"]);
    }
}
