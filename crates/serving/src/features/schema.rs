//! What a record of a model looks like, as JSON Schema 2020-12.

use engine::tensor::Datatype;
use model_repository::Model;
use problem::Problem;
use serde_json::{Map, Value, json};

use super::layout::{Form, Input, Layout};

/// The schema of one record. What may be left out with `"missing": "nan"` is required here, as it is without.
pub(super) fn of(model: &Model) -> Result<Value, Problem> {
    let layout = Layout::new(&model.signature)?;
    let (mut properties, mut required, mut choices) = (Map::new(), Vec::new(), Vec::new());
    for input in layout.inputs() {
        let name = &input.spec.name;
        match input.form {
            Form::Scalar | Form::Columns(_) => {
                for cell in 0..input.form.cells() {
                    properties.insert(input.cell_name(cell), element(input.spec.datatype));
                    required.push(json!(input.cell_name(cell)));
                }
            }
            Form::Nested => {
                properties.insert(name.clone(), list(input));
                required.push(json!(name));
            }
            Form::Numbered(count) => {
                // A column of another input may have the name already, and keeps it.
                let cells: Vec<String> = (0..count).map(|cell| input.cell_name(cell)).collect();
                for cell in &cells {
                    properties.entry(cell.clone()).or_insert_with(|| element(input.spec.datatype));
                }
                properties.insert(name.clone(), list(input));
                choices.push(one_or_all(name, &cells));
            }
        }
    }
    let outputs = &model.signature.outputs;
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("A record for the model {}", model.identity.name.as_str()),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
        "x-rampart": {
            "model": model.identity.name.as_str(),
            "version": model.version_text,
            "sha256": model.identity.digest.to_string(),
            "outputs": outputs,
        },
    });
    if let (Some(schema), false) = (schema.as_object_mut(), choices.is_empty()) {
        schema.insert("allOf".to_owned(), choices.into());
    }
    Ok(schema)
}

/// Either the list, and none of its values by its number, or all of them.
fn one_or_all(name: &str, cells: &[String]) -> Value {
    let any_cell: Vec<Value> = cells.iter().map(|cell| json!({ "required": [cell] })).collect();
    json!({ "oneOf": [{ "required": [name], "not": { "anyOf": any_cell } }, { "required": cells }] })
}

fn list(input: &Input<'_>) -> Value {
    input.dimensions().iter().rev().fold(element(input.spec.datatype), |items, dimension| match dimension {
        Some(count) => json!({ "type": "array", "items": items, "minItems": count, "maxItems": count }),
        None => json!({ "type": "array", "items": items }),
    })
}

fn element(datatype: Datatype) -> Value {
    if let Some((minimum, maximum)) = datatype.whole_numbers() {
        return json!({ "type": "integer", "minimum": minimum, "maximum": maximum });
    }
    match datatype {
        Datatype::Bool => json!({ "type": "boolean" }),
        Datatype::Bytes => json!({ "type": "string" }),
        _ => json!({ "type": "number" }),
    }
}
