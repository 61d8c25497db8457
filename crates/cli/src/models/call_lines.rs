//! How to call a model that was added: a line for a shell and some for Python, with a record that the model takes.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::inspect::{Inspected, Tensor};

/// A longer record is written to a file.
const INLINE_BYTES_MAX: usize = 1000;

/// Where the model is called.
pub(crate) struct Callee<'a> {
    /// The front door's URL.
    pub(crate) front: &'a str,
    pub(crate) ca_file: &'a Path,
    /// With an access token that may predict.
    pub(crate) token_file: &'a Path,
    /// Where a longer record is written; without it, into a temporary file.
    pub(crate) folder: Option<&'a Path>,
}

/// The lines.
pub(crate) fn of(callee: &Callee<'_>, name: &str, version: u64, inspected: &Inspected) -> anyhow::Result<Vec<String>> {
    let Callee { front, ca_file, token_file, folder } = callee;
    let record = record(inspected).context("the golden example has no first record")?;
    // What the golden example has for NaN is a missing value, which a caller allows.
    let may_miss = has_null(&record);
    let body = if may_miss { json!({ "records": [record], "missing": "nan" }) } else { json!({ "records": [record] }) };
    let body = body.to_string();
    let missing = if may_miss { ", missing=\"nan\"" } else { "" };
    let (data, record) = if body.len() <= INLINE_BYTES_MAX {
        (quoted(&body), literal(&record))
    } else {
        let file = write(*folder, name, &body)?.display().to_string();
        (quoted(&format!("@{file}")), format!("json.load(open({}))[\"records\"][0]", literal(&file.into())))
    };
    let (token, ca_file) = (token_file.display().to_string(), ca_file.display().to_string());
    let python = |text: &str| literal(&text.into());
    Ok(vec![
        String::new(),
        format!(
            "curl --cacert {} -H \"Authorization: Bearer $(cat {})\" --json {data} {front}/api/models/{name}/versions/{version}/predict",
            quoted(&ca_file),
            quoted(&token)
        ),
        String::new(),
        "# pip install ./clients/python".to_owned(),
        "import json".to_owned(),
        String::new(),
        "from rampart_client import Client, Session, TokenFile".to_owned(),
        String::new(),
        format!(
            "session = Session({}, ca_file={}, auth=TokenFile({}))",
            python(front),
            python(&ca_file),
            python(&token)
        ),
        "with Client(session) as client:".to_owned(),
        format!("    print(client.predict({}, [{record}], version={version}{missing}))", python(name)),
    ])
}

/// Writes a record that is too long for a line.
fn write(folder: Option<&Path>, name: &str, body: &str) -> anyhow::Result<PathBuf> {
    if let Some(folder) = folder {
        let file = folder.join(format!("example-{name}.json"));
        fs::write(&file, body).with_context(|| format!("cannot write {}", file.display()))?;
        return Ok(file);
    }
    let prefix = format!("example-{name}-");
    let made = tempfile::Builder::new().prefix(&prefix).suffix(".json").tempfile().and_then(|mut file| {
        file.write_all(body.as_bytes())?;
        Ok(file.keep()?.1)
    });
    made.context("cannot write the example into a temporary file")
}

/// The first record of the golden example, by feature name.
fn record(inspected: &Inspected) -> Option<Value> {
    let tensors = inspected.golden.get("inputs")?.as_array()?;
    let mut record = Map::new();
    for (spec, tensor) in inspected.inputs.iter().zip(tensors) {
        let shape: Vec<usize> = serde_json::from_value(tensor.get("shape")?.clone()).ok()?;
        let data = tensor.get("data")?.as_array()?;
        // As the route has it: one row before other dimensions is a record, too.
        let has_rows = spec.shape.first() == Some(&-1) || (spec.shape.len() > 1 && spec.shape.first() == Some(&1));
        let row = if has_rows { shape.get(1..)? } else { &*shape };
        let values = data.get(..row.iter().product())?;
        put(&mut record, spec, row, values)?;
    }
    Some(Value::Object(record))
}

fn put(record: &mut Map<String, Value>, spec: &Tensor, row: &[usize], values: &[Value]) -> Option<()> {
    if spec.columns.is_empty() || row.len() != 1 {
        let value = if row.is_empty() || (row == [1] && spec.shape.len() == 2) {
            values.first()?.clone()
        } else {
            nested(row, values)
        };
        record.insert(spec.name.clone(), value);
    } else {
        record.extend(spec.columns.iter().cloned().zip(values.iter().cloned()));
    }
    Some(())
}

fn nested(shape: &[usize], values: &[Value]) -> Value {
    match shape {
        [] | [_] => Value::Array(values.to_vec()),
        [_, below @ ..] => {
            let length = below.iter().product::<usize>().max(1);
            Value::Array(values.chunks(length).map(|part| nested(below, part)).collect())
        }
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.iter().any(has_null),
        Value::Object(members) => members.values().any(has_null),
        _ => false,
    }
}

/// For Python, whose strings and numbers are those of JSON.
fn literal(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Array(list) => format!("[{}]", list.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| format!("{}: {}", Value::from(&**name), literal(value));
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(", "))
        }
        plain => plain.to_string(),
    }
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(spec: Value, tensor: Value) -> Inspected {
        serde_json::from_value(json!({
            "sha256": "", "digest": "", "data": {}, "inputs": [spec], "outputs": [], "golden": { "inputs": [tensor] },
        }))
        .unwrap()
    }

    #[test]
    fn a_record_has_the_form_of_its_input() {
        let of = |shape: Value, columns: Value, golden_shape: Value, data: Value| {
            let spec = json!({ "name": "x", "datatype": "FP32", "shape": shape, "columns": columns });
            record(&inspected(spec, json!({ "shape": golden_shape, "data": data }))).unwrap()
        };
        assert_eq!(of(json!([-1, 1]), json!([]), json!([2, 1]), json!([7, 8])), json!({ "x": 7 }));
        assert_eq!(of(json!([-1]), json!([]), json!([2]), json!([7, 8])), json!({ "x": 7 }));
        assert_eq!(of(json!([-1, 2]), json!([]), json!([1, 2]), json!([7, 8])), json!({ "x": [7, 8] }));
        assert_eq!(of(json!([-1, 2]), json!(["a", "b"]), json!([1, 2]), json!([7, 8])), json!({ "a": 7, "b": 8 }));
        assert_eq!(of(json!([1, 2]), json!([]), json!([1, 2]), json!([7, 8])), json!({ "x": [7, 8] }));
        assert_eq!(of(json!([2]), json!([]), json!([2]), json!([7, 8])), json!({ "x": [7, 8] }));
        assert_eq!(
            of(json!([-1, 2, 2]), json!([]), json!([1, 2, 2]), json!([1, 2, 3, 4])),
            json!({ "x": [[1, 2], [3, 4]] })
        );
    }

    #[test]
    fn a_missing_value_is_allowed_by_its_caller() {
        let callee = Callee { front: "https://f", ca_file: Path::new("c"), token_file: Path::new("t"), folder: None };
        let lines = |data: Value| {
            let spec = json!({ "name": "x", "datatype": "FP32", "shape": [-1, 2] });
            let inspected = inspected(spec, json!({ "shape": [1, 2], "data": data }));
            of(&callee, "m", 1, &inspected).unwrap().join("\n")
        };
        let printed = lines(json!([1, null]));
        assert!(printed.contains(r#""missing":"nan""#) && printed.contains(r#", missing="nan"))"#), "{printed}");
        assert!(!lines(json!([1, 2])).contains("missing"));
    }

    #[test]
    fn python_reads_a_record() {
        assert_eq!(literal(&json!({ "a": [true, null, 1.5], "b": "x\"" })), r#"{"a": [True, None, 1.5], "b": "x\""}"#);
    }

    #[test]
    fn a_quote_is_no_end_of_a_word() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
