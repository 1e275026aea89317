//! The table of results: each measurement, its budget, and whether the budget is met.

use comfy_table::Table;

/// Returns the value that `percent` of `sorted` do not exceed, `None` if there is none.
pub(crate) fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied()
}

/// The rows added so far.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<[String; 4]>,
    missed: usize,
}

impl Report {
    /// Adds a figure that must be at least `budget`.
    pub(crate) fn at_least(&mut self, what: &str, value: f64, budget: f64, unit: &str) {
        self.row(what, value, unit, format!("≥ {}", number(budget)), value >= budget);
    }

    /// Adds a figure that must be at most `budget`.
    pub(crate) fn at_most(&mut self, what: &str, value: f64, budget: f64, unit: &str) {
        self.row(what, value, unit, format!("≤ {}", number(budget)), value <= budget);
    }

    /// Adds a figure for comparison only.
    pub(crate) fn note(&mut self, what: &str, value: f64, unit: &str) {
        self.rows.push([
            what.into(),
            format!("{} {unit}", number(value)),
            String::new(),
            String::new(),
        ]);
        eprintln_row(what, value, unit);
    }

    /// Adds a row that says why something was not measured.
    pub(crate) fn skipped(&mut self, what: &str, why: &str) {
        self.rows.push([what.into(), format!("skipped: {why}"), String::new(), String::new()]);
        eprintln!("{what}: skipped: {why}");
    }

    fn row(&mut self, what: &str, value: f64, unit: &str, budget: String, holds: bool) {
        self.missed += usize::from(!holds);
        let verdict = if holds { "holds" } else { "MISSED" };
        self.rows.push([what.into(), format!("{} {unit}", number(value)), budget, verdict.into()]);
        eprintln_row(what, value, unit);
    }

    /// Prints the table; returns the number of missed budgets.
    pub(crate) fn print(&self) -> usize {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header(["measured", "result", "budget", ""]);
        for row in &self.rows {
            table.add_row(row);
        }
        println!("{table}");
        self.missed
    }
}

fn eprintln_row(what: &str, value: f64, unit: &str) {
    eprintln!("{what}: {} {unit}", number(value));
}

fn number(value: f64) -> String {
    if value >= 100.0 {
        let whole = format!("{value:.0}");
        let mut out = String::new();
        for (index, digit) in whole.chars().enumerate() {
            if index > 0 && (whole.len() - index) % 3 == 0 {
                out.push(',');
            }
            out.push(digit);
        }
        out
    } else {
        format!("{value:.2}")
    }
}
