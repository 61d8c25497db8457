//! How a command prints what it found: as JSON, as a table on a terminal, or as lines of words.

use std::io::{self, IsTerminal as _};

use bootstrap::say;
use serde_json::Value;

/// Options of every command that prints data.
#[derive(clap::Args, Clone, Copy, Default)]
pub(crate) struct Output {
    /// Print one JSON document, with members that keep their names (see the README of this command line).
    #[arg(long)]
    json: bool,
}

/// A column: its heading on a terminal, and its least width in lines of words.
pub(crate) struct Column {
    pub(crate) heading: &'static str,
    pub(crate) width: usize,
}

/// Rows of cells under columns.
pub(crate) struct Table {
    columns: &'static [Column],
    rows: Vec<Vec<String>>,
}

// === impl Output ===

impl Output {
    /// One fact.
    pub(crate) fn fact(self, line: &str, document: &Value) {
        say(&if self.json { document.to_string() } else { printable(line) });
    }

    /// Many of a kind.
    pub(crate) fn table(self, table: &Table, document: &Value) {
        for line in self.lines(table, document, io::stdout().is_terminal()) {
            say(&line);
        }
    }

    /// The lines of a table, as the reader wants them.
    pub(crate) fn lines(self, table: &Table, document: &Value, is_terminal: bool) -> Vec<String> {
        match (self.json, is_terminal) {
            (true, _) => vec![document.to_string()],
            (false, true) => table.aligned(),
            (false, false) => table.words(),
        }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }
}

// === impl Table ===

impl Table {
    pub(crate) fn new<const N: usize>(
        columns: &'static [Column; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Self {
        let rows = rows.into_iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        Self { columns, rows }
    }

    /// With headings, every column as wide as its widest cell.
    fn aligned(&self) -> Vec<String> {
        let width = |(index, column): (usize, &Column)| {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            cells.map(|cell| cell.chars().count()).fold(column.heading.len(), usize::max)
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(width).collect();
        let headings = self.columns.iter().map(|column| column.heading.to_owned()).collect();
        let rows = std::iter::once(&headings).chain(&self.rows);
        rows.map(|row| joined(row, widths.iter().copied(), "  ")).collect()
    }

    /// As scripts read them: no heading, and the same widths in every run.
    fn words(&self) -> Vec<String> {
        let widths = || self.columns.iter().map(|column| column.width);
        self.rows.iter().map(|row| joined(row, widths(), " ")).collect()
    }
}

fn joined(row: &[String], widths: impl Iterator<Item = usize>, between: &str) -> String {
    let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    cells.join(between).trim_end().to_owned()
}

/// A text of the platform or of a model, which must not control a terminal nor look like two lines.
pub(crate) fn printable(text: &str) -> String {
    let escaped = |c: char| match c {
        '\n' | '\r' | '\t' => " ".to_owned(),
        // What controls, and what turns the direction of text.
        c if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
            c.escape_unicode().to_string()
        }
        c => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: [Column; 3] = [
        Column { heading: "NAME", width: 8 },
        Column { heading: "KIND", width: 6 },
        Column { heading: "WHY", width: 0 },
    ];

    fn table() -> Table {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        Table::new(&COLUMNS, [row(["ann", "person", "a\nb\u{1b}[2J"]), row(["a-long-name", "machine", ""])])
    }

    #[test]
    fn a_table_is_aligned_on_a_terminal_and_lines_of_words_elsewhere() {
        let output = Output { json: false };
        assert_eq!(
            output.lines(&table(), &json!({}), true),
            ["NAME         KIND     WHY", "ann          person   a b\\u{1b}[2J", "a-long-name  machine"]
        );
        assert_eq!(output.lines(&table(), &json!({}), false), ["ann      person a b\\u{1b}[2J", "a-long-name machine"]);
    }

    #[test]
    fn json_is_one_line_on_a_terminal_too() {
        assert_eq!(Output { json: true }.lines(&table(), &json!({ "a": [1] }), true), [r#"{"a":[1]}"#]);
    }
}
