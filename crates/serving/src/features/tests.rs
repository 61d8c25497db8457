//! Bodies of every kind against signatures of every kind, without a model.

use engine::{
    TensorSpec,
    tensor::{Data, Datatype},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn spec(name: &str, datatype: Datatype, shape: &[i64], columns: &[&str]) -> TensorSpec {
    let columns = columns.iter().map(|column| (*column).to_owned()).collect();
    TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec(), columns }
}

fn signature(inputs: Vec<TensorSpec>) -> Signature {
    Signature { inputs, outputs: vec![spec("y", Datatype::Fp32, &[-1], &[])] }
}

/// One input of each form.
fn every_form() -> Signature {
    signature(vec![
        spec("a", Datatype::Fp32, &[-1], &[]),
        spec("b", Datatype::Int64, &[-1, 1], &[]),
        spec("m", Datatype::Fp64, &[-1, 2], &["c", "d"]),
        spec("n", Datatype::Uint8, &[-1, 2], &[]),
        spec("o", Datatype::Int32, &[-1, -1], &[]),
        spec("p", Datatype::Bytes, &[-1, 2, 2], &[]),
        spec("q", Datatype::Bool, &[-1], &[]),
        spec("r", Datatype::Fp16, &[-1, -1, 1], &[]),
    ])
}

fn record(offset: i64) -> Value {
    json!({
        "a": 0.5, "b": offset, "c": 1, "d": 1e-3, "n": [1, 2], "o": [offset, 2, 3], "p": [["w", "x"], ["y", "z"]], "q": true,
        "r": [[1], [2]],
    })
}

fn read_json(body: &str, signature: &Signature) -> Result<Vec<Tensor>, Problem> {
    read(body.as_bytes(), Format::Json, false, signature).map(|(call, _)| call.inputs)
}

fn read_csv(body: &str, signature: &Signature) -> Result<Vec<Tensor>, Problem> {
    read(body.as_bytes(), Format::Csv, false, signature).map(|(call, _)| call.inputs)
}

#[test]
fn every_form_of_input_is_filled_row_by_row() {
    let tensors = read_json(&json!([record(7), record(8)]).to_string(), &every_form()).unwrap();
    let shapes: Vec<&[i64]> = tensors.iter().map(Tensor::shape).collect();
    assert_eq!(shapes, [&[2][..], &[2, 1], &[2, 2], &[2, 2], &[2, 3], &[2, 2, 2], &[2], &[2, 2, 1]]);
    assert_eq!(*tensors[2].data(), Data::Fp64(vec![1.0, 1e-3, 1.0, 1e-3]));
    assert_eq!(*tensors[4].data(), Data::Int32(vec![7, 2, 3, 8, 2, 3]));
    let mut numbered = record(8);
    numbered.as_object_mut().unwrap().remove("n");
    numbered["n_1"] = json!(4);
    numbered["n_0"] = json!(3);
    let tensors = read_json(&json!([record(7), numbered]).to_string(), &every_form()).unwrap();
    assert_eq!(*tensors[3].data(), Data::Uint8(vec![1, 2, 3, 4]));
}

#[test]
fn lists_must_have_the_shape_of_the_first() {
    let fault = |name: &str, value: Value| {
        let mut other = record(8);
        other[name] = value;
        let problem = read_json(&json!([record(7), other]).to_string(), &every_form()).unwrap_err();
        let [error] = problem.field_errors() else { panic!("{problem}") };
        (error.field().to_owned(), error.row_index(), error.detail().to_owned())
    };
    let wanted = |name: &str, detail: &str| (name.to_owned(), Some(1), detail.to_owned());
    assert_eq!(fault("o", json!([1, 2])), wanted("o", "has a list of 2, where one of 3 belongs"));
    assert_eq!(fault("r", json!([[1], [1, 2]])), wanted("r", "has a list of 2, where one of 1 belongs"));
    assert_eq!(fault("n", json!(3)), wanted("n", "must be a list, not a number"));
    assert_eq!(fault("n", json!([3, 256])), wanted("n[1]", "is out of the range of UINT8"));
    assert_eq!(fault("n", json!([3, [4]])), wanted("n", "must be a whole number, not an array"));
    assert_eq!(fault("n", json!(null)), wanted("n", "is missing"));
    assert_eq!(
        fault("p", json!([["w", "x"], "y"])),
        wanted("p", "must be a list in each of 2 levels, not a string at level 2")
    );
    assert_eq!(fault("p", json!([["w", "x"], ["y", 1]])), wanted("p[3]", "must be a string, not a number"));
}

#[test]
fn what_leaves_out_much_makes_no_large_tensor() {
    let columns: Vec<String> = (0..4096).map(|index| index.to_string()).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let wide = signature(vec![spec("m", Datatype::Fp64, &[-1, 4096], &columns)]);
    let body = |rows: usize| format!("{{\"missing\":\"nan\",\"records\":[{}{{}}]}}", "{},".repeat(rows - 1));
    assert_eq!(read_json(&body(16), &wide).unwrap()[0].shape(), [16, 4096]);
    assert_eq!(read_json(&body(17), &wide).unwrap_err().kind(), Kind::TooLarge);
    let column = format!("{{\"columns\":{{\"4095\":[1{}]}}}}", ",1".repeat(60));
    assert_eq!(read_json(&column, &wide).unwrap_err().kind(), Kind::TooLarge);
}

#[test]
fn faults_are_listed_up_to_a_bound() {
    let one = signature(vec![spec("x", Datatype::Fp32, &[-1], &[])]);
    let problem = read_json(&format!("[{}{{\"x\":1}}", "{\"x\":true},".repeat(500)), &one).unwrap_err();
    assert_eq!(problem.field_errors().len(), 100, "and the rest of the body, which is not JSON, is not read");
    let long = format!("[{{\"x\":1,\"{}\":1}}]", "é".repeat(10_000));
    let problem = read_json(&long, &one).unwrap_err();
    assert!(problem.message().len() < 1000, "{}", problem.message().len());
}

#[test]
fn rows_of_csv_keep_their_numbers() {
    let one = signature(vec![spec("x", Datatype::Fp32, &[-1], &[])]);
    for csv in ["x\n1\n\n2\n", "x\r\n1\r\n\r\n2\r\n", "x\n1\n\r\n2\n", "\nx\n1\n"] {
        assert!(read_csv(csv, &one).unwrap_err().message().contains("empty line"), "{csv:?}");
    }
    for csv in
        ["x\n1\n2\n", "x\r\n1\r\n2", "x\r1\r2\r", "x\n1\n2\n\n\n", "\u{feff}x\r\n1\r\n2\r\n\r\n", "\"x\"\n\"1\"\n2"]
    {
        assert_eq!(*read_csv(csv, &one).unwrap()[0].data(), Data::Fp32(vec![1.0, 2.0]), "{csv:?}");
    }
    let text = signature(vec![spec("s", Datatype::Bytes, &[-1], &[]), spec("x", Datatype::Fp32, &[-1], &[])]);
    let tensors = read_csv("x,s\n1,\"a\r\n\r\n,\"\"b\"\n2, c \n", &text).unwrap();
    assert_eq!(*tensors[0].data(), Data::Bytes(vec!["a\r\n\r\n,\"b".into(), " c ".into()]));
    assert!(read_csv("n\n1\n", &every_form()).is_err());
    assert!(read_csv("o,p\n", &every_form()).is_err());
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let names = prop_oneof![
        "[a-dm-r]|n_[0-2]|missing|records|columns|dataframe_split|dataframe_records|data|index|inputs",
        ".{0,3}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        Just(json!("nan")),
        "[a-dm-r]".prop_map(Into::into),
        ".{0,4}".prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            proptest::collection::hash_map(names.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
    .prop_map(|value| value.to_string().into_bytes())
}

fn sound_bodies() -> Vec<String> {
    let records = [record(7), record(8)];
    let names: Vec<&String> = records[0].as_object().unwrap().keys().collect();
    let rows: Value = records
        .iter()
        .map(|record| names.iter().map(|name| record[name.as_str()].clone()).collect::<Value>())
        .collect();
    let columns: serde_json::Map<_, _> = names
        .iter()
        .map(|name| ((*name).clone(), records.iter().map(|record| record[name.as_str()].clone()).collect()))
        .collect();
    vec![
        json!(records).to_string(),
        json!({ "missing": "nan", "records": records }).to_string(),
        json!({ "columns": columns }).to_string(),
        json!({ "dataframe_split": { "columns": names, "data": rows } }).to_string(),
        json!({ "dataframe_split": { "data": rows, "columns": names } }).to_string(),
    ]
}

fn is_answered(body: &[u8], format: Format, may_miss: bool) -> bool {
    let refused = read(body, format, may_miss, &every_form()).err().map(|problem| problem.kind());
    matches!(refused, None | Some(Kind::InvalidArgument | Kind::TooLarge))
}

#[test]
fn sound_bodies_are_read() {
    for body in sound_bodies() {
        assert_eq!(read_json(&body, &every_form()).unwrap().len(), 8, "{body}");
    }
}

proptest! {
    /// Whatever is sent is read or is the caller's fault; never a panic, never a fault of ours.
    #[test]
    fn any_json_is_read_or_refused(body in any_body(), may_miss in any::<bool>()) {
        prop_assert!(is_answered(&body, Format::Json, may_miss));
    }

    #[test]
    fn mutated_json_is_read_or_refused(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        with in prop_oneof![any::<[u8; 1]>().prop_map(Vec::from), "[\\[\\]{},:]|null|true|1e400|\"a\"|NaN".prop_map(String::into_bytes), Just(vec![])],
        cut in 0_usize..12,
    ) {
        let bodies = sound_bodies();
        let mut body = which.get(&bodies).clone().into_bytes();
        let at = at.index(body.len());
        body.splice(at..(at + cut).min(body.len()), with);
        prop_assert!(is_answered(&body, Format::Json, false));
    }

    #[test]
    fn any_csv_is_read_or_refused(body in "([a-d]|n_0|n_1|q|[0-9]{1,3}|true|\"|\"\"|,|,|,|\n|\r\n|\r|.|\0){0,60}", may_miss in any::<bool>()) {
        prop_assert!(is_answered(body.as_bytes(), Format::Csv, may_miss));
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(is_answered(&body, Format::Csv, true) && is_answered(&body, Format::Json, true));
    }

    /// A table of numbers and strings gives the same tensors as JSON and as CSV.
    #[test]
    fn csv_is_read_as_json_is(
        rows in proptest::collection::vec((any::<f64>(), any::<i64>(), "[^\0]{1,6}", any::<bool>()), 1..8),
    ) {
        let signature = signature(vec![
            spec("f", Datatype::Fp64, &[-1], &[]),
            spec("i", Datatype::Int64, &[-1, 1], &[]),
            spec("s", Datatype::Bytes, &[-1], &[]),
            spec("b", Datatype::Bool, &[-1], &[]),
        ]);
        prop_assume!(rows.iter().all(|row| row.0.is_finite()));
        let records: Value = rows.iter().map(|(f, i, s, b)| json!({ "f": f, "i": i, "s": s, "b": b })).collect();
        let mut writer = ::csv::Writer::from_writer(Vec::new());
        writer.write_record(["s", "f", "b", "i"]).unwrap();
        for (f, i, s, b) in &rows {
            writer.write_record([s, &f.to_string(), &b.to_string(), &i.to_string()]).unwrap();
        }
        let csv = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        prop_assert_eq!(read_csv(&csv, &signature).unwrap(), read_json(&records.to_string(), &signature).unwrap());
    }
}
