//! Predictions by feature name: every form of records gives what the inference protocol gives, and what is wrong is named.

use bytes::Bytes;
use http::Method;
use policy::Role;
use serde_json::{Value, json};

use crate::support::{
    Client, Serving,
    client::Answer,
    models::{
        ModelFolder, copy_example, copy_exported, example_golden, golden, tensor, write_fill, write_identity,
        write_root, write_sum,
    },
    onnx::model,
};

const FOREST: &str = "breast-cancer-forest";
const JSON: &str = "application/json";
const CSV: &str = "text/csv; charset=utf-8; header=present";

/// Four people, of whom the model knows age, fare, sex and port.
fn passengers() -> Vec<Value> {
    vec![
        json!({ "age": 22, "fare": 7.25, "sex": "male", "port": "S" }),
        json!({ "sex": "female", "port": "C", "fare": 71.2833, "age": 38.5 }),
        json!({ "age": 0.42, "fare": 8.5167, "sex": "male", "port": "\u{e9}\"," }),
        json!({ "age": 54, "fare": 51.8625, "sex": "female", "port": "Q" }),
    ]
}

async fn replica() -> (Serving, Client) {
    let serving = Serving::start_with("[inference]\nbody_bytes_max = 65536\nanswer_bytes_max = 65536\n", |models| {
        copy_exported(models, "titanic");
        copy_example(models, FOREST);
        ["FP16", "BF16", "FP32", "FP64", "INT64", "UINT64", "INT8", "BOOL", "BYTES"]
            .iter()
            .for_each(|datatype| write_identity(models, datatype));
        write_fill(models);
        write_root(models);
        write_sum(models);
        write_named(models);
    })
    .await;
    let client = serving.client("balancer").await;
    (serving, client)
}

/// `named`: a matrix whose two columns have names, in and out, and come out as they went in.
fn write_named(models: &std::path::Path) {
    let (inputs, outputs) = ([("m", "FP32", &[-1_i64, 2][..])], [("scores", "FP32", &[-1_i64, 2][..])]);
    let bytes = model(&[("Identity", &["m"], &["scores"])], &inputs, &outputs);
    let one = |name| tensor(name, "FP32", &[1, 2], json!([1, 2]));
    ModelFolder { name: "named", inputs: &inputs, outputs: &outputs, champion: "1" }
        .write(models, &[("1", &bytes, golden(&[one("m")], &[one("scores")]))]);
    let file = models.join("named/model.toml");
    let toml = std::fs::read_to_string(&file).unwrap();
    let named =
        |part: &str, columns: &str| part.replace("shape = [-1, 2]", &format!("shape = [-1, 2]\ncolumns = {columns}"));
    let (inputs, outputs) = toml.split_once("[[outputs]]").unwrap();
    let (inputs, outputs) = (named(inputs, r#"["low", 'high "end"']"#), named(outputs, r#"["no", "yes"]"#));
    std::fs::write(&file, format!("{inputs}[[outputs]]{outputs}")).unwrap();
}

async fn post(client: &Client, path: &str, content_type: &str, body: impl Into<Bytes>) -> Answer {
    client.call(Method::POST, path, &[("content-type", content_type)], body.into()).await
}

async fn predict(client: &Client, model: &str, body: &Value) -> Answer {
    post(client, &format!("/api/models/{model}/predict"), JSON, body.to_string()).await
}

async fn predict_csv(client: &Client, model: &str, body: &str) -> Answer {
    post(client, &format!("/api/models/{model}/predict"), CSV, body.to_owned()).await
}

fn predictions(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{:?}", answer.body.slice(..answer.body.len().min(1000)));
    answer.json()["predictions"].clone()
}

/// A problem in the form of the API, with this status.
fn problem(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{:?}", answer.body.slice(..answer.body.len().min(1000)));
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    answer.json()
}

/// The faults of an answer as `(field, row, detail)`.
fn faults(answer: &Answer) -> Vec<(String, Option<u64>, String)> {
    let problem = problem(answer, 400);
    let errors = problem["errors"].as_array().unwrap_or_else(|| panic!("{problem}"));
    let text = |error: &Value, member| error[member].as_str().unwrap().to_owned();
    errors.iter().map(|error| (text(error, "field"), error["row"].as_u64(), text(error, "detail"))).collect()
}

/// The only fault of an answer.
fn fault(answer: &Answer) -> (String, Option<u64>, String) {
    let faults = faults(answer);
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].clone()
}

/// What the inference protocol answers to the same records, put together by record.
async fn inferred(client: &Client, model: &str, inputs: &[Value], rows: usize) -> Value {
    let answer = client.infer(model, &json!({ "inputs": inputs })).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let answer = answer.json();
    let outputs = answer["outputs"].as_array().unwrap();
    let of_row = |row: usize| {
        let parts = outputs.iter().map(|output| {
            let data = output["data"].as_array().unwrap();
            let width = data.len() / rows;
            let part = &data[row * width..(row + 1) * width];
            let is_scalar = output["shape"].as_array().unwrap().len() == 1;
            (output["name"].as_str().unwrap().to_owned(), if is_scalar { part[0].clone() } else { json!(part) })
        });
        Value::Object(parts.collect())
    };
    (0..rows).map(of_row).collect()
}

async fn inferred_passengers(client: &Client) -> Value {
    let column = |name: &str, datatype: &str| {
        let values: Vec<Value> = passengers().iter().map(|row| row[name].clone()).collect();
        tensor(name, datatype, &[4, 1], json!(values))
    };
    let inputs = [column("age", "FP32"), column("fare", "FP32"), column("sex", "BYTES"), column("port", "BYTES")];
    inferred(client, "titanic", &inputs, 4).await
}

/// Every form of the same records gives the same predictions, to the last digit those of the inference protocol.
#[tokio::test]
async fn every_form_of_records_answers_as_inference_does() {
    let (_serving, client) = replica().await;
    let wanted = inferred_passengers(&client).await;
    let columns = json!({
        "sex": ["male", "female", "male", "female"], "age": [22, 38.5, 0.42, 54],
        "port": ["S", "C", "\u{e9}\",", "Q"], "fare": [7.25, 71.2833, 8.5167, 51.8625],
    });
    let data = json!([
        [22, "S", 7.25, "male"],
        [38.5, "C", 71.2833, "female"],
        [0.42, "\u{e9}\",", 8.5167, "male"],
        [54, "Q", 51.8625, "female"],
    ]);
    let names = json!(["age", "port", "fare", "sex"]);
    for body in [
        json!(passengers()),
        json!({ "records": passengers() }),
        json!({ "dataframe_records": passengers() }),
        json!({ "columns": columns }),
        json!({ "dataframe_split": { "columns": names, "index": [3, 1, 2, 0], "data": data } }),
    ] {
        let answer = predict(&client, "titanic", &body).await;
        assert_eq!(predictions(&answer), wanted, "{body}");
        let answer = answer.json();
        assert_eq!((&answer["model"], &answer["version"]), (&json!("titanic"), &json!("1")));
        assert_eq!(answer["sha256"], "dfa988470b62b9b8cadf38318220c06eac5efcab7d72a998a88074bcb8dfe9dc");
    }
    // The data before its columns.
    let split = format!(r#"{{"dataframe_split":{{"data":{data},"columns":{names}}}}}"#);
    let answer =
        post(&client, "/api/models/titanic/versions/1/predict", "application/json; charset=UTF-8", split).await;
    assert_eq!(predictions(&answer), wanted);
    let csv = "age,fare,sex,port\r\n22,7.25,male,S\r\n38.5,71.2833,female,C\r\n.42,8.5167,male,\"\u{e9}\"\",\"\r\n\"54\",+51.8625,female,Q";
    assert_eq!(predictions(&predict_csv(&client, "titanic", csv).await), wanted);
    let excel = format!("\u{feff}{}\r\n\r\n", csv.replace("\r\n", "\n"));
    assert_eq!(predictions(&predict_csv(&client, "titanic", &excel).await), wanted);
}

/// A matrix without names has its values numbered, or takes lists.
#[tokio::test]
async fn the_values_of_a_matrix_are_numbered() {
    let (_serving, client) = replica().await;
    let input = example_golden(FOREST, "2")["inputs"][0].clone();
    let rows: Vec<Vec<Value>> = input["data"].as_array().unwrap().chunks(30).map(<[Value]>::to_vec).collect();
    let wanted = inferred(&client, FOREST, &[input], rows.len()).await;
    let numbered = |row: &Vec<Value>| -> Value {
        Value::Object(row.iter().enumerate().map(|(index, value)| (format!("input_{index}"), value.clone())).collect())
    };
    let numbered: Value = rows.iter().map(numbered).collect();
    let lists: Value = rows.iter().map(|row| json!({ "input": row })).collect();
    let names: Vec<String> = (0..30).rev().map(|index| format!("input_{index}")).collect();
    let reversed: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().rev().map(ToString::to_string).collect()).collect();
    let lines: Vec<String> = reversed.iter().map(|row| row.join(",")).collect();
    let csv = format!("{}\n{}\n", names.join(","), lines.join("\n"));
    for version in ["versions/2/", "versions/champion/", ""] {
        for body in [&numbered, &lists, &json!({ "columns": { "input": rows } })] {
            let answer = post(&client, &format!("/api/models/{FOREST}/{version}predict"), JSON, body.to_string()).await;
            assert_eq!(predictions(&answer), wanted);
            assert_eq!(answer.json()["version"], "2");
        }
        let answer = post(&client, &format!("/api/models/{FOREST}/{version}predict"), CSV, csv.clone()).await;
        assert_eq!(predictions(&answer), wanted);
    }
    let mut short = lists;
    short[1]["input"].as_array_mut().unwrap().pop();
    let wanted = ("input".to_owned(), Some(1), "has a list of 29, where one of 30 belongs".to_owned());
    assert_eq!(fault(&predict(&client, FOREST, &short).await), wanted);
    let answer = predict(&client, FOREST, &json!([{ "input_0": 1, "input": [1, 2], "input_30": 3 }])).await;
    let faults = faults(&answer);
    assert_eq!(faults[0], ("input".to_owned(), Some(0), "is given twice".to_owned()));
    assert_eq!(faults[1].0, "input_30");
}

/// Columns that the model names are features, and members of the predictions.
#[tokio::test]
async fn named_columns_are_features_and_members() {
    let (_serving, client) = replica().await;
    let answer =
        predict(&client, "named", &json!([{ "high \"end\"": 2.5, "low": -1 }, { "low": 3, "high \"end\"": 0 }])).await;
    let wanted = json!([{ "scores": { "no": -1.0, "yes": 2.5 } }, { "scores": { "no": 3.0, "yes": 0.0 } }]);
    assert_eq!(predictions(&answer), wanted);
    let answer = predict_csv(&client, "named", "\"high \"\"end\"\"\",low\n2.5,-1\n0,3\n").await;
    assert_eq!(predictions(&answer), wanted);
    let answer = predict(&client, "named", &json!([{ "m": [1, 2] }])).await;
    let fields: Vec<String> = faults(&answer).into_iter().map(|(field, ..)| field).collect();
    assert_eq!(fields, ["m", "low", "high \"end\""]);
}

/// Numbers of every type go through unrounded, in JSON and in CSV.
#[tokio::test]
async fn no_number_is_rounded_on_its_way() {
    let (_serving, client) = replica().await;
    for (datatype, text, wanted) in [
        ("int64", "9007199254740993", "9007199254740993"),
        ("int64", "-9223372036854775808", "-9223372036854775808"),
        ("uint64", "18446744073709551615", "18446744073709551615"),
        ("fp64", "0.30000000000000004", "0.30000000000000004"),
        ("fp64", "5e-324", "5e-324"),
        // Over double precision it would be 1.0.
        ("fp32", "1.00000005960464477540", "1.0000001"),
        ("fp16", "1.00048828125000000001", "1.0009766"),
        ("bf16", "1.00390625000000000001", "1.0078125"),
        ("bool", "true", "true"),
    ] {
        let model = format!("identity-{datatype}");
        for (content_type, body) in [(JSON, format!(r#"[{{"x":{text}}}]"#)), (CSV, format!("x\n{text}\n"))] {
            let answer = post(&client, &format!("/api/models/{model}/predict"), content_type, body).await;
            let wanted = format!(r#""predictions":[{{"y":{wanted}}}]}}"#);
            let got = String::from_utf8_lossy(&answer.body);
            assert!(got.ends_with(&wanted), "{datatype} {content_type}: {got}");
        }
    }
}

/// Names that are unknown, missing or given twice are all named at once, in every form.
#[tokio::test]
async fn wrong_names_are_all_named_at_once() {
    let (_serving, client) = replica().await;
    let wanted = |row: Option<u64>| {
        let fault = |field: &str, row, detail: &str| (field.to_owned(), row, detail.to_owned());
        vec![
            fault("fares", row, "is unknown: the model has no such feature"),
            fault("sex", row, "is given twice"),
            fault(
                "fare",
                row,
                if row.is_some() { "is missing; with \"missing\": \"nan\" it would be NaN" } else { "is missing" },
            ),
            fault("port", row, "is missing"),
        ]
    };
    let mut got = Vec::new();
    for body in [
        r#"[{"age":1,"fares":2,"sex":"male","\u0073ex":"male"},{"age":1,"fares":2,"sex":"male","sex":"male"}]"#,
        r#"{"records":[{"age":1,"fares":2,"sex":"male","sex":"male"}]}"#,
        r#"{"columns":{"age":[1],"fares":[2],"sex":["male"],"sex":["male"]}}"#,
        r#"{"dataframe_split":{"columns":["age","fares","sex","sex"],"data":[[1,2,"male","male"]]}}"#,
    ] {
        let answer = post(&client, "/api/models/titanic/predict", JSON, body).await;
        got.push(faults(&answer));
    }
    got.push(faults(&predict_csv(&client, "titanic", "age,fares,sex,sex\n1,2,male,male\n").await));
    for (index, mut got) in got.into_iter().enumerate() {
        let mut wanted = wanted((index < 2).then_some(0));
        if index == 0 {
            // Each record lacks the fare; of other faults the first record tells enough.
            wanted.push((
                "fare".to_owned(),
                Some(1),
                "is missing; with \"missing\": \"nan\" it would be NaN".to_owned(),
            ));
        }
        wanted.sort();
        got.sort();
        assert_eq!(got, wanted, "{index}");
    }
    let answer = predict(&client, "titanic", &json!([{ "age": 1 }])).await;
    let detail = problem(&answer, 400)["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("sex: row 0: is missing; and 2 more"), "{detail}");
}

/// Values of another type or out of range are refused with their row.
#[tokio::test]
async fn wrong_values_are_named_with_their_row() {
    let (_serving, client) = replica().await;
    for (model, feature, value, detail) in [
        ("titanic", "age", json!("22"), "must be a number, not a string"),
        ("titanic", "age", json!(true), "must be a number, not true or false"),
        ("titanic", "age", json!([22]), "must be a number, not an array"),
        ("titanic", "age", json!({ "age": 22 }), "must be a number, not an object"),
        ("titanic", "age", json!(1e39), "is out of the range of FP32"),
        ("titanic", "sex", json!(1), "must be a string, not a number"),
        ("titanic", "sex", json!(null), "is missing"),
        ("titanic", "sex", json!("a\u{0}b"), "has a NUL, which the engine cannot hold"),
        ("identity-int8", "x", json!(128), "is out of the range of INT8"),
        ("identity-int8", "x", json!(1.0), "must be written as a whole number"),
        ("identity-int64", "x", json!(1e3), "must be written as a whole number"),
        ("identity-bool", "x", json!(1), "must be true or false, not a number"),
        ("identity-fp16", "x", json!(65520), "is out of the range of FP16"),
    ] {
        let mut records = match model {
            "titanic" => passengers(),
            "identity-bool" => vec![json!({ "x": true }); 4],
            _ => vec![json!({ "x": 1 }); 4],
        };
        records[2][feature] = value;
        let wanted = (feature.to_owned(), Some(2), detail.to_owned());
        assert_eq!(fault(&predict(&client, model, &json!(records)).await), wanted);
        let columns: Vec<&String> = records[0].as_object().unwrap().keys().collect();
        let column = |name: &String| -> Value { records.iter().map(|record| record[name].clone()).collect() };
        let columns: serde_json::Map<_, _> = columns.into_iter().map(|name| (name.clone(), column(name))).collect();
        assert_eq!(fault(&predict(&client, model, &json!({ "columns": columns })).await), wanted);
    }
    for (model, csv, detail) in [
        ("identity-fp32", "x\n1\nNaN\n", "must be a number; where it is missing, the field is empty"),
        ("identity-fp32", "x\n1\n 2\n", "must be a number"),
        ("identity-int64", "x\n1\n2.0\n", "must be written as a whole number"),
        ("identity-bool", "x\ntrue\n1\n", "must be true or false"),
        ("identity-bytes", "x\na\n\"\"\n", "is missing"),
    ] {
        assert_eq!(fault(&predict_csv(&client, model, csv).await), ("x".to_owned(), Some(1), detail.to_owned()));
    }
}

/// A missing float is refused unless the request says that it is NaN; nothing else may be missing.
#[tokio::test]
async fn what_is_missing_is_nan_only_where_the_request_says_so() {
    let (_serving, client) = replica().await;
    let mut inputs = [
        json!({ "name": "age", "datatype": "FP32", "shape": [4, 1], "parameters": { "binary_data_size": 16 } }),
        tensor("fare", "FP32", &[4, 1], json!([7.25, 71.2833, 8.5167, 51.8625])),
        tensor("sex", "BYTES", &[4, 1], json!(["male", "female", "male", "female"])),
        tensor("port", "BYTES", &[4, 1], json!(["S", "C", "\u{e9}\",", "Q"])),
    ];
    let head = json!({ "inputs": inputs }).to_string();
    let ages = [22_f32, f32::NAN, 0.42, f32::NAN].map(f32::to_le_bytes).concat();
    let body = Bytes::from([head.as_bytes(), &ages].concat());
    let length = head.len().to_string();
    let headers = [("inference-header-content-length", &*length)];
    let answer = client.call(Method::POST, "/v2/models/titanic/infer", &headers, body).await.json();
    inputs[0] = answer["outputs"][1]["data"].clone();
    let wanted: Vec<&[Value]> = inputs[0].as_array().unwrap().chunks(2).collect();

    let mut records = passengers();
    records[1]["age"] = Value::Null;
    records[3].as_object_mut().unwrap().remove("age");
    let probabilities = |answer: &Answer| -> Vec<Value> {
        predictions(answer).as_array().unwrap().iter().map(|row| row["probabilities"].clone()).collect()
    };
    for body in [json!({ "missing": "nan", "records": records }), json!({ "records": records, "missing": "nan" })] {
        assert_eq!(json!(probabilities(&predict(&client, "titanic", &body).await)), json!(wanted));
    }
    let csv = "age,fare,sex,port\n22,7.25,male,S\n,71.2833,female,C\n0.42,8.5167,male,\"\u{e9}\"\",\"\n\"\",51.8625,female,Q\n";
    let answer = post(&client, "/api/models/titanic/predict?missing=nan", CSV, csv).await;
    assert_eq!(json!(probabilities(&answer)), json!(wanted));

    let detail = "is missing; with \"missing\": \"nan\" it would be NaN".to_owned();
    let refused = [("age".to_owned(), Some(1), detail.clone()), ("age".to_owned(), Some(3), detail)];
    assert_eq!(faults(&predict(&client, "titanic", &json!(records)).await), refused);
    assert_eq!(faults(&predict_csv(&client, "titanic", csv).await), refused);
    records[0]["sex"] = Value::Null;
    let answer = predict(&client, "titanic", &json!({ "records": records, "missing": "nan" })).await;
    assert_eq!(fault(&answer), ("sex".to_owned(), Some(0), "is missing".to_owned()));

    // What comes out is not turned into anything else either.
    let answer = predict(&client, "root", &json!([{ "x": 4 }, { "x": -1 }])).await;
    let detail = problem(&answer, 400)["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("row 1") && detail.contains("\"y\" is NaN"), "{detail}");
    for (path, body) in [("?missing=zero", "[]"), ("?other=1", "[]"), ("", r#"{"missing":"zero","records":[]}"#)] {
        problem(&post(&client, &format!("/api/models/root/predict{path}"), JSON, body).await, 400);
    }
}

/// A model without a batch dimension takes one record, and gives its whole output for it.
#[tokio::test]
async fn a_model_without_a_batch_takes_one_record() {
    let (_serving, client) = replica().await;
    let answer = predict(&client, "fill", &json!([{ "n": 3 }])).await;
    assert_eq!(predictions(&answer), json!([{ "y": [0.0, 0.0, 0.0] }]));
    assert_eq!(predictions(&predict_csv(&client, "fill", "n\n1\n").await), json!([{ "y": [0.0] }]));
    let answer = predict(&client, "fill", &json!([{ "n": 3 }, { "n": 3 }])).await;
    assert!(problem(&answer, 400)["detail"].as_str().unwrap().contains("one record"));
}

/// Bodies that are no request: too long, of another type, not JSON, of another protocol, empty.
#[tokio::test]
async fn what_is_no_request_is_refused() {
    let (_serving, client) = replica().await;
    let path = "/api/models/sum/predict";
    for content_type in [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "text/csv; header=absent",
        "application/json; charset=latin1",
    ] {
        let problem = problem(&post(&client, path, content_type, "[]").await, 415);
        assert_eq!(problem["type"], "urn:rampart:problem:unsupported-media-type");
    }
    problem(&client.post(path, "[]").await, 415);
    problem(&post(&client, path, JSON, vec![b' '; 65_537]).await, 413);
    let packed = { [("content-type", JSON), ("content-encoding", "br")] };
    problem(&client.call(Method::POST, path, &packed, Bytes::new()).await, 415);
    for (body, offset) in [("", 0), ("{", 1), (r#"[{"a":1,"b":NaN}]"#, 12), ("[] x", 3)] {
        assert_eq!(problem(&post(&client, path, JSON, body).await, 400)["offset"], offset, "{body}");
    }
    for (body, field) in [
        (r#"{"instances":[]}"#, "instances"),
        (r#"{"inputs":[]}"#, "inputs"),
        (r#"{"rows":[]}"#, "rows"),
        (r#"{"records":[],"records":[]}"#, "records"),
        (r#"{"records":[],"columns":{}}"#, "columns"),
        (r#"{"missing":"nan","missing":"nan"}"#, "missing"),
        (r#"{"records":{}}"#, "records"),
        (r#"{"columns":[]}"#, "columns"),
        (r#"{"dataframe_split":{"columns":[]}}"#, "a"),
        (r#"{"dataframe_split":{"columns":["a","b"]}}"#, "dataframe_split.data"),
        (r#"{"dataframe_split":{"data":[]}}"#, "dataframe_split.columns"),
        (r#"{"dataframe_split":{"columns":["a","b"],"data":[[1]]}}"#, "dataframe_split.data"),
        (r#"{"dataframe_split":{"columns":["a","b"],"data":[[1,2,3]]}}"#, "dataframe_split.data"),
        (r#"{"columns":{"a":[1,2],"b":[1]}}"#, "b"),
        (r#"{"dataframe_records":{}}"#, "dataframe_records"),
        (r#"{"records":[1]}"#, "records"),
        (r#"{"dataframe_records":[1]}"#, "dataframe_records"),
        ("[1]", "the body"),
        ("7", "the body"),
    ] {
        assert_eq!(problem(&post(&client, path, JSON, body).await, 400)["field"], field, "{body}");
    }
    for separator in [";", "\t", "|"] {
        let csv = "a,b\n1,2\n".replace(',', separator);
        let problem = problem(&predict_csv(&client, "sum", &csv).await, 400);
        let detail = problem["detail"].as_str().unwrap();
        assert!(problem["field"] == "the body" && detail.contains("separated by commas"), "{detail}");
    }
    let instances = post(&client, path, JSON, r#"{"instances":[]}"#).await.json();
    assert!(instances["detail"].as_str().unwrap().contains("/api/models/{model}/predict"), "{instances}");
    for body in ["[]", r#"{"records":[]}"#, r#"{"columns":{"a":[],"b":[]}}"#] {
        assert_eq!(problem(&post(&client, path, JSON, body).await, 400)["detail"], "there is no record");
    }
    for csv in ["", "\n", "a,b\n", "a,b\n1\n", "a,b\n1,2\n\n3,4\n", "a,b\n1,\"2\n", "a,b\n1,\u{0}\n"] {
        problem(&predict_csv(&client, "sum", csv).await, 400);
    }
    problem(&predict(&client, "unknown", &json!([])).await, 404);
    let wrong_method = client.get("/api/models/sum/predict").await;
    problem(&wrong_method, 405);
    assert_eq!(wrong_method.headers["allow"], "POST");
}

/// More records than one request may have, and an answer that its names make too long.
#[tokio::test]
async fn rows_and_answers_have_a_bound() {
    let serving = Serving::start_with("[inference]\nanswer_bytes_max = 819200\n", |models| {
        write_identity(models, "BOOL");
        write_named(models);
    })
    .await;
    let client = serving.client("balancer").await;
    let csv = |rows: usize| format!("x\n{}", "true\n".repeat(rows));
    assert_eq!(
        predictions(&predict_csv(&client, "identity-bool", &csv(100_000)).await).as_array().unwrap().len(),
        100_000
    );
    problem(&predict_csv(&client, "identity-bool", &csv(100_001)).await, 413);
    let columns = json!({ "columns": { "x": vec![true; 100_001] } });
    problem(&predict(&client, "identity-bool", &columns).await, 413);
    let rows = "-1.25,-1.25\n".repeat(99_999);
    let answer = predict_csv(&client, "named", &format!("low,\"high \"\"end\"\"\"\n{rows}")).await;
    let detail = problem(&answer, 413)["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("their names"), "{detail}");
}

/// The schema describes exactly what a record must have.
#[tokio::test]
async fn the_schema_describes_a_record() {
    let (serving, client) = replica().await;
    for path in ["/api/models/titanic/schema", "/api/models/titanic/versions/1/schema"] {
        let answer = client.get(path).await;
        assert_eq!(
            (answer.status, &answer.headers["content-type"]),
            (200, &"application/schema+json".parse().unwrap())
        );
        let schema = answer.json();
        let number = json!({ "type": "number" });
        let properties =
            json!({ "age": number, "fare": number, "sex": { "type": "string" }, "port": { "type": "string" } });
        assert_eq!(schema["properties"], properties);
        assert_eq!(schema["required"], json!(["age", "fare", "sex", "port"]));
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["x-rampart"]["sha256"], "dfa988470b62b9b8cadf38318220c06eac5efcab7d72a998a88074bcb8dfe9dc");
        assert_eq!(schema["x-rampart"]["outputs"][0], json!({ "name": "label", "datatype": "INT64", "shape": [-1] }));
    }
    let schema = client.get("/api/models/identity-int8/schema").await.json();
    assert_eq!(schema["properties"]["x"], json!({ "type": "integer", "minimum": -128, "maximum": 127 }));
    let schema = client.get("/api/models/named/schema").await.json();
    assert_eq!(schema["required"], json!(["low", "high \"end\""]));
    assert_eq!(schema["x-rampart"]["outputs"][0]["columns"], json!(["no", "yes"]));
    let schema = client.get(&format!("/api/models/{FOREST}/schema")).await.json();
    assert_eq!(schema["properties"].as_object().unwrap().len(), 31);
    assert_eq!(schema["properties"]["input"]["minItems"], 30);
    assert_eq!(schema["allOf"][0]["oneOf"][1]["required"].as_array().unwrap().len(), 30);
    problem(&client.get("/api/models/unknown/schema").await, 404);

    let viewer = serving.client_with(Some(serving.passport(&[Role::Viewer]))).await;
    assert_eq!(viewer.get("/api/models/titanic/schema").await.status, 200);
    problem(&predict(&viewer, "titanic", &json!(passengers())).await, 403);
}
