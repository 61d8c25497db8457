//! Records as arrays, one for each feature or for each input: how numpy keeps tables.
//!
//! Their numbers go the way of a CSV field, so what is refused there is refused here, with the same words.

use std::collections::BTreeSet;

use engine::tensor::{Data, Tensor};

use super::{
    faults::Stop,
    layout::{Form, Input, Layout, Part, Slot},
    table::Table,
    values::Scalar,
};

/// An array of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array {
    /// None if there is one alone, which is then the model's only input.
    pub(crate) name: Option<String>,
    pub(crate) tensor: Tensor,
    /// The places of elements that stand for missing values, beside those that are NaN.
    pub(crate) missing: BTreeSet<usize>,
}

/// Where an array belongs.
#[derive(Clone, Copy)]
enum Place {
    /// One value of each record.
    Cell(Slot),
    /// Everything that a record gives of an input.
    Whole(usize),
}

/// Reads arrays into a table. A stop ends the reading with what the table has noted.
pub(super) fn read(arrays: &[Array], layout: &Layout<'_>, table: &mut Table<'_, '_>) -> Result<(), Stop> {
    let mut placed = Vec::new();
    for array in arrays {
        let name = name_of(array, layout);
        if let Some(place) = claim(&name, layout, table)? {
            placed.push((name, array, place));
        }
    }
    table.end_header()?;
    let mut rows = None;
    for (name, array, place) in &placed {
        let Some(input) = layout.inputs().get(place.input()) else { continue };
        let found = fitting_rows(array.tensor.shape(), input, *place);
        match found {
            Err(detail) => table.faults.add(name, None, detail)?,
            Ok(found) if *rows.get_or_insert(found) != found => {
                let detail = format!("has {found} rows, where others have {}", rows.unwrap_or_default());
                table.faults.add(name, None, detail)?;
            }
            Ok(_) => {}
        }
    }
    if !table.faults.is_empty() {
        return Err(table.faults.give_up());
    }
    let rows = rows.unwrap_or_default();
    if let Some(last) = rows.checked_sub(1) {
        table.begin_row(last)?;
    }
    placed.iter().try_for_each(|(_, array, place)| put(array, *place, rows, table))
}

/// An array without a name is the only input's.
fn name_of(array: &Array, layout: &Layout<'_>) -> String {
    match (&array.name, layout.inputs()) {
        (Some(name), _) => name.clone(),
        (None, [input]) => input.spec.name.clone(),
        (None, _) => "the array".to_owned(),
    }
}

/// Notes what an array gives; a name that is unknown or there twice is a fault.
fn claim(name: &str, layout: &Layout<'_>, table: &mut Table<'_, '_>) -> Result<Option<Place>, Stop> {
    let by_columns = |input: &Input<'_>| matches!(input.form, Form::Columns(_)) && input.spec.name == name;
    if layout.find(name).is_none()
        && let Some(input) = layout.inputs().iter().position(by_columns)
    {
        let cells = layout.inputs().get(input).map_or(0, |input| input.form.cells());
        for cell in 0..cells {
            let slot = Slot { input, part: Part::Cell(cell) };
            if table.claim_slot(slot, name, None)?.is_none() {
                return Ok(None);
            }
        }
        return Ok(Some(Place::Whole(input)));
    }
    let place = |slot: Slot| match slot.part {
        Part::Whole => Place::Whole(slot.input),
        Part::Cell(_) => Place::Cell(slot),
    };
    Ok(table.claim(name, None)?.map(place))
}

/// How many records an array has, if its other dimensions are those of the place.
fn fitting_rows(shape: &[i64], input: &Input<'_>, place: Place) -> Result<usize, String> {
    let (rows, of_record) = match (input.has_rows, shape) {
        (false, shape) => (1, shape),
        (true, [rows, of_record @ ..]) => (*rows, of_record),
        (true, []) => return Err("is a single value, where the first dimension counts the records".to_owned()),
    };
    let wanted = match place {
        Place::Cell(_) => Vec::new(),
        Place::Whole(_) => input.dimensions(),
    };
    let is_one = |dimensions: &[i64]| dimensions.iter().all(|length| *length == 1);
    let fits = |(wanted, length): (&Option<usize>, &i64)| wanted.is_none_or(|it| i64::try_from(it) == Ok(*length));
    let is_same = wanted.len() == of_record.len() && wanted.iter().zip(of_record).all(fits);
    // A column of a table may have a second dimension, of 1.
    let is_column = wanted.is_empty() && of_record.len() <= 1 && is_one(of_record);
    if !is_same && !is_column {
        let rows = input.has_rows.then(|| "N".to_owned());
        let lengths = wanted.iter().map(|it| it.map_or_else(|| "any".to_owned(), |it| it.to_string()));
        let wanted: Vec<String> = rows.into_iter().chain(lengths).collect();
        return Err(format!("has the shape {shape:?}, where [{}] belongs", wanted.join(", ")));
    }
    usize::try_from(rows).map_err(|error| error.to_string())
}

fn put(array: &Array, place: Place, rows: usize, table: &mut Table<'_, '_>) -> Result<(), Stop> {
    let mut text = String::new();
    match place {
        Place::Cell(slot) => (0..rows).try_for_each(|row| table.put(slot, row, scalar(array, row, &mut text))),
        Place::Whole(input) => {
            let width = array.tensor.data().len().checked_div(rows).unwrap_or(0);
            (0..rows).try_for_each(|row| put_whole(array, input, row, width, table, &mut text))
        }
    }
}

fn put_whole(
    array: &Array,
    input: usize,
    row: usize,
    width: usize,
    table: &mut Table<'_, '_>,
    text: &mut String,
) -> Result<(), Stop> {
    let at = |cell: usize| row.saturating_mul(width).saturating_add(cell);
    let slot = |cell| Slot { input, part: Part::Cell(cell) };
    match table.input(slot(0)).map(|input| input.form) {
        Some(Form::Columns(_) | Form::Scalar) => {
            (0..width).try_for_each(|cell| table.put(slot(cell), row, scalar(array, at(cell), text)))
        }
        _ => {
            let mut list = table.open_list(input, row);
            let depth = table.depth(input);
            let of_record = array.tensor.shape().iter().rev().take(depth).rev();
            for (depth, length) in of_record.enumerate() {
                table.close_level(&list, depth, usize::try_from(*length).unwrap_or_default())?;
            }
            (0..width).try_for_each(|cell| table.put_next(&mut list, scalar(array, at(cell), text)))
        }
    }
}

/// An element as a field of a table would have it: NaN is a missing value.
fn scalar<'a>(array: &'a Array, at: usize, text: &'a mut String) -> Scalar<'a> {
    if array.missing.contains(&at) {
        return Scalar::Missing;
    }
    let number = match array.tensor.data() {
        Data::Bool(values) => return values.get(at).map_or(Scalar::Missing, |value| Scalar::Bool(*value)),
        Data::Bytes(values) => {
            let value = values.get(at).map(|value| String::from_utf8_lossy(value));
            return value.map_or(Scalar::Missing, Scalar::Text);
        }
        Data::Uint8(values) => values.get(at).map(ToString::to_string),
        Data::Uint16(values) => values.get(at).map(ToString::to_string),
        Data::Uint32(values) => values.get(at).map(ToString::to_string),
        Data::Uint64(values) => values.get(at).map(ToString::to_string),
        Data::Int8(values) => values.get(at).map(ToString::to_string),
        Data::Int16(values) => values.get(at).map(ToString::to_string),
        Data::Int32(values) => values.get(at).map(ToString::to_string),
        Data::Int64(values) => values.get(at).map(ToString::to_string),
        Data::Fp16(values) => values.get(at).filter(|value| !value.is_nan()).map(ToString::to_string),
        Data::Bf16(values) => values.get(at).filter(|value| !value.is_nan()).map(ToString::to_string),
        Data::Fp32(values) => values.get(at).filter(|value| !value.is_nan()).map(ToString::to_string),
        Data::Fp64(values) => values.get(at).filter(|value| !value.is_nan()).map(ToString::to_string),
    };
    let Some(number) = number else { return Scalar::Missing };
    *text = number;
    Scalar::Number(text)
}

// === impl Place ===

impl Place {
    fn input(self) -> usize {
        match self {
            Self::Cell(slot) => slot.input,
            Self::Whole(input) => input,
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::{
        Signature, TensorSpec,
        tensor::{Data, Datatype},
    };

    use super::*;
    use crate::features::read_arrays;

    fn spec(name: &str, datatype: Datatype, shape: &[i64], columns: &[&str]) -> TensorSpec {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec(), columns }
    }

    fn array(name: &str, shape: &[i64], data: Data) -> Array {
        let name = Some(name.to_owned()).filter(|name| !name.is_empty());
        Array { name, tensor: Tensor::new(shape.to_vec(), data).unwrap(), missing: BTreeSet::new() }
    }

    fn read(inputs: Vec<TensorSpec>, arrays: &[Array]) -> Result<Vec<Data>, String> {
        let tensors = read_arrays(arrays, &Signature { inputs, outputs: vec![] });
        let told = |problem: problem::Problem| format!("{problem} {:?}", problem.field_errors());
        tensors.map_err(told).map(|tensors| tensors.iter().map(|tensor| tensor.data().clone()).collect())
    }

    #[test]
    fn an_array_alone_is_the_only_input() {
        let doubles = array("", &[2, 2], Data::Fp64(vec![0.1, 2.0, -3.5, 4e30]));
        let floats = Data::Fp32(vec![0.1, 2.0, -3.5, 4e30]);
        for spec in [
            spec("x", Datatype::Fp32, &[-1, 2], &[]),
            spec("x", Datatype::Fp32, &[-1, 2], &["a", "b"]),
            spec("x", Datatype::Fp32, &[-1, -1], &[]),
            spec("x", Datatype::Fp32, &[2, 2], &[]),
        ] {
            assert_eq!(read(vec![spec.clone()], std::slice::from_ref(&doubles)), Ok(vec![floats.clone()]), "{spec}");
        }
        let two = vec![spec("x", Datatype::Fp32, &[-1], &[]), spec("y", Datatype::Fp32, &[-1], &[])];
        assert!(read(two, &[doubles]).unwrap_err().contains("no such feature"));
    }

    #[test]
    fn arrays_are_features_or_inputs_by_their_names() {
        let inputs = vec![
            spec("age", Datatype::Fp32, &[-1, 1], &[]),
            spec("town", Datatype::Bytes, &[-1, 1], &[]),
            spec("m", Datatype::Int64, &[-1, 2], &["w", "h"]),
            spec("image", Datatype::Fp32, &[-1, 1, 2], &[]),
        ];
        let words = Data::Bytes(vec!["a".into(), "b".into()]);
        let mut arrays = vec![
            array("image", &[2, 1, 2], Data::Fp32(vec![1.0, 2.0, 3.0, 4.0])),
            array("town", &[2], words.clone()),
            array("age", &[2, 1], Data::Int32(vec![7, 8])),
            array("h", &[2], Data::Fp64(vec![5.0, 6.0])),
            array("w", &[2], Data::Uint8(vec![1, 2])),
        ];
        let wanted = vec![
            Data::Fp32(vec![7.0, 8.0]),
            words,
            Data::Int64(vec![1, 5, 2, 6]),
            Data::Fp32(vec![1.0, 2.0, 3.0, 4.0]),
        ];
        assert_eq!(read(inputs.clone(), &arrays), Ok(wanted));
        arrays.push(array("m", &[2, 2], Data::Int64(vec![1, 5, 2, 6])));
        assert!(read(inputs.clone(), &arrays).unwrap_err().contains("given twice"));
        arrays.truncate(3);
        let missing = read(inputs, &arrays).unwrap_err();
        assert!(missing.contains("\"w\"") && missing.contains("\"h\""), "{missing}");
    }

    #[test]
    fn only_floats_may_be_missing() {
        let mut given = array("", &[2], Data::Fp64(vec![1.0, f64::NAN]));
        let read_as =
            |datatype, array: &Array| read(vec![spec("x", datatype, &[-1], &[])], std::slice::from_ref(array));
        let read_floats = read_as(Datatype::Fp32, &given);
        let Ok([Data::Fp32(values)]) = read_floats.as_deref() else { panic!("no FP32") };
        assert!(values[0] == 1.0 && values[1].is_nan());
        assert!(read_as(Datatype::Int64, &given).unwrap_err().contains("is missing"));
        given = Array { missing: BTreeSet::from([0]), ..array("", &[1], Data::Bytes(vec!["".into()])) };
        assert!(read_as(Datatype::Bytes, &given).unwrap_err().contains("is missing"));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let inputs = vec![spec("a", Datatype::Int64, &[-1], &[]), spec("b", Datatype::Fp32, &[-1, 2], &[])];
        let fault = |a: Array, b: Array| read(inputs.clone(), &[a, b]).unwrap_err();
        let a = || array("a", &[2], Data::Int64(vec![1, 2]));
        let b = || array("b", &[2, 2], Data::Fp32(vec![0.0; 4]));
        assert!(fault(a(), array("b", &[3, 2], Data::Fp32(vec![0.0; 6]))).contains("has 3 rows, where others have 2"));
        assert!(fault(a(), array("b", &[4], Data::Fp32(vec![0.0; 4]))).contains("[4], where [N, 2] belongs"));
        assert!(fault(array("a", &[], Data::Int64(vec![1])), b()).contains("a single value"));
        let halves = array("a", &[2], Data::Fp64(vec![1.0, 1.5]));
        assert!(fault(halves, b()).contains("must be written as a whole number"));
        let infinite = array("b", &[2, 2], Data::Fp64(vec![0.0, 0.0, 0.0, f64::INFINITY]));
        assert!(fault(a(), infinite).contains("is out of the range of FP32"));
        let none = array("b", &[0, 2], Data::Fp32(vec![]));
        assert!(fault(array("a", &[0], Data::Int64(vec![])), none).contains("there is no record"));
    }
}
