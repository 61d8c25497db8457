//! Every datatype of the protocol through every form it has: what goes in comes out, bit for bit.

use bytes::Bytes;
use http::Method;
use proto::inference::{InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor};
use serde_json::{Value, json};

use crate::support::{
    Client, Serving,
    models::{tensor, write_identity},
};

const DATATYPES: [&str; 14] = [
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES",
    "BF16",
];

/// Little-endian bytes of three elements, extremes among them.
fn raw(datatype: &str) -> Vec<u8> {
    match datatype {
        "BOOL" => vec![1, 0, 1],
        "UINT8" | "INT8" => vec![0, 0x7f, 0xff],
        "UINT16" | "INT16" => vec![0, 0, 0xff, 0x7f, 0x00, 0x80],
        "FP16" => vec![0x00, 0x3c, 0x00, 0x7e, 0x00, 0xfc], // 1, NaN, -infinity
        "BF16" => vec![0x80, 0x3f, 0xc0, 0x7f, 0x80, 0xff],
        "UINT32" | "INT32" => [0_u32, 0x7fff_ffff, 0x8000_0000].iter().flat_map(|n| n.to_le_bytes()).collect(),
        "UINT64" | "INT64" => [0_u64, (1 << 53) + 1, u64::MAX].iter().flat_map(|n| n.to_le_bytes()).collect(),
        "FP32" => [0.1_f32, f32::NAN, f32::MIN_POSITIVE / 2.0].iter().flat_map(|n| n.to_le_bytes()).collect(),
        "FP64" => [0.1_f64, f64::INFINITY, 5e-324].iter().flat_map(|n| n.to_le_bytes()).collect(),
        "BYTES" => ["", "é", "a longer string"]
            .iter()
            .flat_map(|s| [&u32::try_from(s.len()).unwrap().to_le_bytes(), s.as_bytes()].concat())
            .collect(),
        other => panic!("{other}"),
    }
}

fn json_data(datatype: &str) -> Option<Value> {
    Some(match datatype {
        "BOOL" => json!([true, false, true]),
        "UINT8" => json!([0, 1, 255]),
        "UINT16" => json!([0, 1, 65535]),
        "UINT32" => json!([0, 1, u32::MAX]),
        "UINT64" => json!([0, (1_u64 << 53) + 1, u64::MAX]),
        "INT8" => json!([-128, 0, 127]),
        "INT16" => json!([-32768, 0, 32767]),
        "INT32" => json!([i32::MIN, 0, i32::MAX]),
        "INT64" => json!([i64::MIN, (1_i64 << 53) + 1, i64::MAX]),
        "FP32" => json!([0.5, -1.25, 3.0]),
        "FP64" => json!([0.1, -1e-300, 1.797e308]),
        "BYTES" => json!(["", "é \"quoted\" \\ \n", "z"]),
        _ => return None,
    })
}

async fn replica() -> (Serving, Client) {
    let serving = Serving::start(|models| DATATYPES.iter().for_each(|datatype| write_identity(models, datatype))).await;
    let client = serving.client("balancer").await;
    (serving, client)
}

/// All fourteen in one replica: JSON, binary REST, raw gRPC, typed gRPC.
#[tokio::test]
async fn every_datatype_round_trips_in_every_form() {
    let (_serving, client) = replica().await;
    for datatype in DATATYPES {
        let model = format!("identity-{}", datatype.to_lowercase());
        binary_rest(&client, &model, datatype).await;
        raw_grpc(&client, &model, datatype).await;
        match json_data(datatype) {
            Some(data) => json_rest(&client, &model, datatype, data).await,
            None => half_has_no_json(&client, &model, datatype).await,
        }
    }
    typed_grpc(&client).await;
}

async fn json_rest(client: &Client, model: &str, datatype: &str, data: Value) {
    let answer =
        client.infer(model, &json!({ "id": "7", "inputs": [tensor("x", datatype, &[3], data.clone())] })).await;
    assert_eq!(answer.status, 200, "{datatype}: {:?}", answer.body);
    let wanted = json!({
        "model_name": model, "model_version": "1", "id": "7",
        "outputs": [{ "name": "y", "datatype": datatype, "shape": [3], "data": data }],
    });
    assert_eq!(answer.json(), wanted);
    assert_eq!(answer.headers["content-type"], "application/json");
}

async fn half_has_no_json(client: &Client, model: &str, datatype: &str) {
    let sent = client.infer(model, &json!({ "inputs": [tensor("x", datatype, &[3], json!([1, 2, 3]))] })).await;
    assert_eq!(sent.status, 400);
    assert!(sent.error().starts_with("inputs[0].data: ") && sent.error().contains("binary"), "{}", sent.error());
    let asked = binary_call(client, model, datatype, json!({})).await;
    assert_eq!(asked.status, 400);
    assert!(asked.error().starts_with("outputs: ") && asked.error().contains("binary"), "{}", asked.error());
}

async fn binary_rest(client: &Client, model: &str, datatype: &str) {
    for parameters in [
        json!({ "parameters": { "binary_data_output": true } }),
        json!({ "outputs": [{ "name": "y", "parameters": { "binary_data": true } }] }),
    ] {
        let answer = binary_call(client, model, datatype, parameters).await;
        assert_eq!(answer.status, 200, "{datatype}: {:?}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/octet-stream");
        let json_length: usize = answer.headers["inference-header-content-length"].to_str().unwrap().parse().unwrap();
        let head: Value = serde_json::from_slice(&answer.body[..json_length]).unwrap();
        assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], raw(datatype).len());
        assert_eq!(&answer.body[json_length..], raw(datatype), "{datatype}");
    }
}

/// Sends the raw bytes; `more` is merged into the request.
async fn binary_call(client: &Client, model: &str, datatype: &str, more: Value) -> crate::support::client::Answer {
    let input = json!({ "name": "x", "datatype": datatype, "shape": [3], "parameters": { "binary_data_size": raw(datatype).len() } });
    let mut head = json!({ "inputs": [input] });
    head.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let head = head.to_string();
    let body = [head.as_bytes(), &raw(datatype)].concat();
    let length = head.len().to_string();
    client
        .call(
            Method::POST,
            &format!("/v2/models/{model}/infer"),
            &[("inference-header-content-length", &length)],
            Bytes::from(body),
        )
        .await
}

async fn raw_grpc(client: &Client, model: &str, datatype: &str) {
    let request = ModelInferRequest {
        model_name: model.to_owned(),
        id: "8".to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: datatype.to_owned(),
            shape: vec![3],
            ..Default::default()
        }],
        raw_input_contents: vec![Bytes::from(raw(datatype))],
        ..Default::default()
    };
    let answer = client.grpc().model_infer(request).await.unwrap().into_inner();
    assert_eq!((&*answer.model_name, &*answer.model_version, &*answer.id), (model, "1", "8"));
    assert_eq!(answer.raw_output_contents, [Bytes::from(raw(datatype))], "{datatype}");
    assert_eq!(
        (&*answer.outputs[0].name, &*answer.outputs[0].datatype, &*answer.outputs[0].shape),
        ("y", datatype, &[3_i64][..])
    );
}

async fn typed_grpc(client: &Client) {
    let bytes = |strings: &[&str]| strings.iter().map(|string| Bytes::copy_from_slice(string.as_bytes())).collect();
    let cases = [
        ("BOOL", InferTensorContents { bool_contents: vec![true, false, true], ..Default::default() }),
        ("UINT8", InferTensorContents { uint_contents: vec![0, 1, 255], ..Default::default() }),
        ("UINT16", InferTensorContents { uint_contents: vec![0, 1, 65535], ..Default::default() }),
        ("UINT32", InferTensorContents { uint_contents: vec![0, 1, u32::MAX], ..Default::default() }),
        ("UINT64", InferTensorContents { uint64_contents: vec![0, 1, u64::MAX], ..Default::default() }),
        ("INT8", InferTensorContents { int_contents: vec![-128, 0, 127], ..Default::default() }),
        ("INT16", InferTensorContents { int_contents: vec![-32768, 0, 32767], ..Default::default() }),
        ("INT32", InferTensorContents { int_contents: vec![i32::MIN, 0, i32::MAX], ..Default::default() }),
        ("INT64", InferTensorContents { int64_contents: vec![i64::MIN, 0, i64::MAX], ..Default::default() }),
        ("FP32", InferTensorContents { fp32_contents: vec![0.1, -2.0, f32::INFINITY], ..Default::default() }),
        ("FP64", InferTensorContents { fp64_contents: vec![0.1, -2.0, f64::MAX], ..Default::default() }),
        ("BYTES", InferTensorContents { bytes_contents: bytes(&["", "é", "z"]), ..Default::default() }),
    ];
    for (datatype, contents) in cases {
        let input = InferInputTensor {
            name: "x".to_owned(),
            datatype: datatype.to_owned(),
            shape: vec![3],
            contents: Some(contents.clone()),
            ..Default::default()
        };
        let model_name = format!("identity-{}", datatype.to_lowercase());
        let request = ModelInferRequest { model_name, inputs: vec![input], ..Default::default() };
        let answer = client.grpc().model_infer(request).await.unwrap().into_inner();
        assert_eq!(answer.outputs[0].contents, Some(contents), "{datatype}");
        assert!(answer.raw_output_contents.is_empty());
    }
}
