//! Records as JSON, in any of the forms that data frames are sent in. One pass: no tree of values is built.

use std::borrow::Cow;

use problem::{Kind, Problem};

use super::{
    faults::Stop,
    layout::{Part, Slot},
    table::{OpenList, Table},
    values::{Scalar, wanted},
};
use crate::protocol::{
    json::{Fault, Reader, ValueKind},
    wire::fill,
};

/// Reads a body into a table. A fault is one of the syntax, or ends the reading with what the table has noted.
pub(super) fn read(body: &[u8], table: &mut Table<'_, '_>) -> Result<(), Fault> {
    let mut reader = Reader::new(body);
    match reader.peek()? {
        ValueKind::Array => read_records(&mut reader, table, "the body")?,
        ValueKind::Object => read_object(&mut reader, table)?,
        other => {
            return Err(Fault::value(format!("must be a list of records or an object, not {other}")).of_body());
        }
    }
    reader.end()
}

fn read_object<'a>(reader: &mut Reader<'a>, table: &mut Table<'_, '_>) -> Result<(), Fault> {
    let (mut form, mut missing) = (None, None);
    reader.object(|reader, key| match &*key {
        "missing" => fill(&mut missing, "missing", || read_missing(reader, table)),
        "records" | "dataframe_records" | "columns" | "dataframe_split" => {
            if form.replace(key.clone()).is_some() {
                return Err(Fault::value("is given besides another form of records").key(key.into_owned()));
            }
            match &*key {
                "columns" => read_columns(reader, table),
                "dataframe_split" => read_split(reader, table),
                _ => read_records(reader, table, &key),
            }
        }
        "instances" | "inputs" => Err(other_protocol(&key, table).into()),
        _ => Err(Fault::value(
            "is no member of a request; it has one of records, columns, dataframe_split or dataframe_records, and perhaps missing",
        )
        .key(key.into_owned())),
    })?;
    if form.is_some() {
        return Ok(());
    }
    Err(Fault::value("has none of records, columns, dataframe_split and dataframe_records").of_body())
}

fn other_protocol(member: &str, table: &mut Table<'_, '_>) -> Stop {
    let whose = if member == "instances" { "KServe v1" } else { "MLflow or of the inference protocol" };
    let detail = format!(
        "is of a request of {whose}; /api/models/{{model}}/predict takes records by feature name as \"records\", \"columns\", \
         \"dataframe_split\" or \"dataframe_records\", and /v2/models/{{model}}/infer takes tensors as \"inputs\""
    );
    table.faults.stop(Problem::new(Kind::InvalidArgument, detail).field(member.to_owned()))
}

fn read_missing(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Result<(), Fault> {
    if reader.peek()? == ValueKind::String && reader.string()? == "nan" {
        table.may_miss = true;
        return Ok(());
    }
    Err(Fault::value("can only be \"nan\": floats that are missing become NaN"))
}

// --- records ---

/// `place` is where the caller wrote them.
fn read_records<'a>(reader: &mut Reader<'a>, table: &mut Table<'_, '_>, place: &str) -> Result<(), Fault> {
    reader.expect(ValueKind::Array).map_err(|fault| fault.key(place.to_owned()))?;
    // Records mostly have their features in the order of the first one.
    let mut order: Vec<(Cow<'a, str>, Slot)> = Vec::new();
    reader.array(|reader, row| {
        table.begin_record(row)?;
        if reader.peek()? != ValueKind::Object {
            reader.skip()?;
            return Ok(table.faults.add(place, Some(row), "must be an object with the features of a record")?);
        }
        let mut position = 0;
        reader.members(|reader, name| {
            let known = order.get(position).filter(|(known, _)| *known == name).map(|(_, slot)| *slot);
            position += 1;
            let slot = match known {
                Some(slot) => table.claim_slot(slot, &name, Some(row))?,
                None => table.claim(&name, Some(row))?,
            };
            let Some(slot) = slot else { return reader.skip().map(drop) };
            read_value(reader, table, slot, row)?;
            if row == 0 {
                order.push((name, slot));
            }
            Ok(())
        })?;
        Ok(table.end_record(row)?)
    })
}

// --- columns ---

fn read_columns(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Result<(), Fault> {
    reader.expect(ValueKind::Object).map_err(|fault| fault.key("columns"))?;
    let mut first: Option<(String, usize)> = None;
    reader.members(|reader, name| {
        let Some(slot) = table.claim(&name, None)? else { return reader.skip().map(drop) };
        if reader.peek()? != ValueKind::Array {
            reader.skip()?;
            return Ok(table.faults.add(&name, None, "must be a list with a value for each record")?);
        }
        let mut count = 0;
        reader.array(|reader, row| {
            count = row + 1;
            table.begin_row(row)?;
            read_value(reader, table, slot, row)
        })?;
        let (other, wanted) = first.get_or_insert_with(|| (name.clone().into_owned(), count));
        if count != *wanted {
            let detail = format!("has {count} values, but {other:?} has {wanted}");
            table.faults.add(&name, None, detail)?;
        }
        Ok(())
    })?;
    Ok(table.end_header()?)
}

// --- dataframe_split ---

fn read_split<'a>(reader: &mut Reader<'a>, table: &mut Table<'_, '_>) -> Result<(), Fault> {
    reader.expect(ValueKind::Object).map_err(|fault| fault.key("dataframe_split"))?;
    let (mut columns, mut data, mut index) = (None, None, None);
    reader.object(|reader, key| {
        let read = match &*key {
            "columns" => fill(&mut columns, "columns", || read_header(reader, table)),
            "data" => fill(&mut data, "data", || match &columns {
                Some(slots) => read_rows(reader, table, slots).map(|()| None),
                None => reader.skip().map(Some),
            }),
            "index" => fill(&mut index, "index", || reader.skip()),
            _ => Err(Fault::value("is no member of dataframe_split; it has columns, data and perhaps index")
                .key(key.into_owned())),
        };
        read.map_err(|fault| fault.key("dataframe_split"))
    })?;
    let missing = |member: &'static str| Fault::value("is missing").key(member).key("dataframe_split");
    let slots = columns.ok_or_else(|| missing("columns"))?;
    // The data came before its columns: now it can be read.
    if let Some(offset) = data.ok_or_else(|| missing("data"))? {
        let in_data = |fault: Fault| fault.key("data").key("dataframe_split");
        read_rows(&mut reader.at(offset), table, &slots).map_err(in_data)?;
    }
    Ok(())
}

fn read_header(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Result<Vec<Slot>, Fault> {
    let mut slots = Vec::new();
    reader.array(|reader, index| {
        reader.expect(ValueKind::String).map_err(|fault| fault.index(index))?;
        let name = reader.string()?;
        slots.extend(table.claim(&name, None)?);
        Ok(())
    })?;
    table.end_header()?;
    // Without its columns the data means nothing.
    if table.faults.is_empty() { Ok(slots) } else { Err(table.faults.give_up().into()) }
}

fn read_rows(reader: &mut Reader<'_>, table: &mut Table<'_, '_>, slots: &[Slot]) -> Result<(), Fault> {
    reader.array(|reader, row| {
        table.begin_row(row)?;
        if reader.peek()? != ValueKind::Array {
            reader.skip()?;
            return Ok(table.faults.add("dataframe_split.data", Some(row), "must be a list of values")?);
        }
        let mut count = 0;
        reader.array(|reader, index| {
            count = index + 1;
            match slots.get(index) {
                Some(slot) => read_value(reader, table, *slot, row),
                None => reader.skip().map(drop),
            }
        })?;
        if count != slots.len() {
            let detail = format!("has {count} values for {} columns", slots.len());
            table.faults.add("dataframe_split.data", Some(row), detail)?;
        }
        Ok(())
    })
}

// --- values ---

fn read_value(reader: &mut Reader<'_>, table: &mut Table<'_, '_>, slot: Slot, row: usize) -> Result<(), Fault> {
    match (slot.part, reader.peek()?) {
        (Part::Cell(_), ValueKind::Object | ValueKind::Array) => refuse(reader, table, slot, row),
        (Part::Cell(_), _) => {
            let value = read_scalar(reader)?;
            Ok(table.put(slot, row, value)?)
        }
        (Part::Whole, ValueKind::Array) => {
            let mut list = table.open_list(slot.input, row);
            let depth = table.depth(slot.input);
            read_list(reader, table, &mut list, (0, depth))
        }
        (Part::Whole, ValueKind::Null) => {
            reader.null()?;
            Ok(table.refuse(slot, row, "is missing")?)
        }
        (Part::Whole, other) => {
            reader.skip()?;
            Ok(table.refuse(slot, row, &format!("must be a list, not {other}"))?)
        }
    }
}

fn refuse(reader: &mut Reader<'_>, table: &mut Table<'_, '_>, slot: Slot, row: usize) -> Result<(), Fault> {
    let got = reader.peek()?;
    reader.skip()?;
    let wanted = table.input(slot).map_or("a value", |input| wanted(input.spec.datatype));
    Ok(table.refuse(slot, row, &format!("must be {wanted}, not {got}"))?)
}

/// A list at a level of so many.
fn read_list(
    reader: &mut Reader<'_>,
    table: &mut Table<'_, '_>,
    list: &mut OpenList,
    (level, depth): (usize, usize),
) -> Result<(), Fault> {
    let slot = Slot { input: list.input, part: Part::Whole };
    let is_innermost = level + 1 == depth;
    let mut count = 0;
    reader.array(|reader, index| {
        count = index + 1;
        match (is_innermost, reader.peek()?) {
            (false, ValueKind::Array) => read_list(reader, table, list, (level + 1, depth)),
            (true, ValueKind::Object | ValueKind::Array) => refuse(reader, table, slot, list.row),
            (true, _) => {
                let value = read_scalar(reader)?;
                Ok(table.put_next(list, value)?)
            }
            (false, other) => {
                reader.skip()?;
                Ok(table.refuse(
                    slot,
                    list.row,
                    &format!("must be a list in each of {depth} levels, not {other} at level {}", level + 2),
                )?)
            }
        }
    })?;
    Ok(table.close_level(list, level, count)?)
}

fn read_scalar<'a>(reader: &mut Reader<'a>) -> Result<Scalar<'a>, Fault> {
    match reader.peek()? {
        ValueKind::Number => reader.number().map(Scalar::Number),
        ValueKind::String => reader.string().map(Scalar::Text),
        ValueKind::Bool => reader.bool().map(Scalar::Bool),
        ValueKind::Null | ValueKind::Object | ValueKind::Array => {
            reader.skip()?;
            Ok(Scalar::Missing)
        }
    }
}
