//! Records as CSV: RFC 4180, UTF-8, the names in the first line.

use ::csv::{ByteRecord, ReaderBuilder};
use problem::{Kind, Problem};

use super::{
    faults::Stop,
    layout::{Part, Slot},
    table::Table,
    values::Scalar,
};

/// Reads a body into a table. A stop ends the reading with what the table has noted.
pub(super) fn read(body: &[u8], table: &mut Table<'_, '_>) -> Result<(), Stop> {
    // The parser takes the end of the body for the end of an open quote, and what it swallowed for one value.
    if !body.iter().filter(|byte| **byte == b'"').count().is_multiple_of(2) {
        return Err(refuse(table, "a quote is not closed"));
    }
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(body);
    let mut record = ByteRecord::new();
    let mut lines = Lines { body, end: 0 };
    let mut slots: Option<Vec<Slot>> = None;
    let mut row = 0;
    while reader.read_byte_record(&mut record).map_err(|error| refuse(table, &error.to_string()))? {
        if lines.skipped_one(reader.position().byte()) {
            let detail = "an empty line is before this row; a missing value of the only column is written as \"\"";
            table.faults.add("the body", Some(row), detail)?;
        }
        match &slots {
            None => slots = Some(read_header(&record, table)?),
            Some(slots) => {
                table.begin_row(row)?;
                read_row(&record, table, slots, row)?;
                row += 1;
            }
        }
    }
    if slots.is_none() {
        return Err(refuse(table, "is empty; its first line has the names of the features"));
    }
    Ok(())
}

fn refuse(table: &mut Table<'_, '_>, detail: &str) -> Stop {
    table.faults.stop(Problem::new(Kind::InvalidArgument, detail).field("the body"))
}

fn read_header(record: &ByteRecord, table: &mut Table<'_, '_>) -> Result<Vec<Slot>, Stop> {
    let mut slots = Vec::new();
    if let Some(separator) = other_separator(record, table) {
        let detail = format!(
            "its first line has no comma but {separator}: the fields of a line are separated by commas (pandas: sep=',')"
        );
        return Err(refuse(table, &detail));
    }
    for name in record {
        let Ok(name) = std::str::from_utf8(name) else { return Err(refuse(table, "a name is not UTF-8")) };
        if name.is_empty() {
            return Err(refuse(
                table,
                "a name of the first line is empty; write a table without its index (pandas: index=False)",
            ));
        }
        slots.extend(table.claim(name, None)?);
    }
    table.end_header()?;
    // Without its columns a row means nothing.
    if table.faults.is_empty() { Ok(slots) } else { Err(table.faults.give_up()) }
}

/// What spreadsheets of other languages and other tools write between fields, if it stands in the only name of a line, and the model has no
/// feature of that name.
fn other_separator(record: &ByteRecord, table: &Table<'_, '_>) -> Option<&'static str> {
    let [name] = &*record.iter().collect::<Vec<_>>() else { return None };
    let name = std::str::from_utf8(name).ok().filter(|name| !table.has_feature(name))?;
    let separators = [(';', "semicolons"), ('\t', "tabs"), ('|', "vertical bars")];
    separators.into_iter().find(|(separator, _)| name.contains(*separator)).map(|(_, words)| words)
}

fn read_row(record: &ByteRecord, table: &mut Table<'_, '_>, slots: &[Slot], row: usize) -> Result<(), Stop> {
    if record.len() != slots.len() {
        let detail = format!("has {} fields, but the first line has {} names", record.len(), slots.len());
        return table.faults.add("the body", Some(row), detail);
    }
    for (field, slot) in record.iter().zip(slots) {
        let Some(input) = table.input(*slot) else { continue };
        if slot.part == Part::Whole {
            let detail = "has lists as values, which CSV cannot carry: give each value a column of its own if the model names them, or send JSON";
            return Err(table.faults.stop(Problem::new(Kind::InvalidArgument, detail).field(input.spec.name.clone())));
        }
        let text = std::str::from_utf8(field).map_err(|_| "is not UTF-8".to_owned());
        match text.and_then(|text| Scalar::of_field(text, input.spec.datatype)) {
            Ok(value) => table.put(*slot, row, value)?,
            Err(detail) => table.refuse(*slot, row, &detail)?,
        }
    }
    Ok(())
}

/// Where records end: the parser leaves out empty lines, with which rows would lose their numbers.
struct Lines<'a> {
    body: &'a [u8],
    end: usize,
}

// === impl Lines ===

impl Lines<'_> {
    /// Whether the record that ends here begins with an empty line.
    fn skipped_one(&mut self, end: u64) -> bool {
        let end = usize::try_from(end).unwrap_or(usize::MAX);
        let mut text = self.body.get(self.end..end).unwrap_or_default();
        let before = self.end.checked_sub(1).and_then(|last| self.body.get(last));
        // The parser may end a record after CR, and leave its LF to the next.
        if before == Some(&b'\r') {
            text = text.strip_prefix(b"\n").unwrap_or(text);
        }
        self.end = end;
        matches!(text.first(), Some(b'\r' | b'\n'))
    }
}
