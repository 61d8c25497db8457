//! Canonical JSON (RFC 8785) for the values that records are made of: ASCII member names, whole numbers, any text.

use serde_json::Value;

/// The one way to write `value`: members sorted by name, no space. The order in which they were put in does not matter.
pub(super) fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            let mut separator = '[';
            for item in items {
                text.push(separator);
                write(item, text);
                separator = ',';
            }
            text.push_str(if separator == '[' { "[]" } else { "]" });
        }
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort();
            let mut separator = '{';
            for name in names {
                text.push(separator);
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write(members.get(name).unwrap_or(&Value::Null), text);
                separator = ',';
            }
            text.push_str(if separator == '{' { "{}" } else { "}" });
        }
        // serde_json writes strings, whole numbers and the three words as RFC 8785 wants them.
        leaf => text.push_str(&leaf.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_value_is_written_the_same_way_whatever_the_order() {
        let one: Value =
            serde_json::from_str(r#"{ "b": [1, {"y": null, "x": true}], "a": "\u00e9\n", "c": {}, "d": [] }"#).unwrap();
        let other = json!({ "d": [], "c": {}, "a": "é\n", "b": [1, { "x": true, "y": null }] });
        assert_eq!(canonical_json(&one), r#"{"a":"é\n","b":[1,{"x":true,"y":null}],"c":{},"d":[]}"#);
        assert_eq!(canonical_json(&one), canonical_json(&other));
    }
}
