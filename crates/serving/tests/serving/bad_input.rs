//! An error names the field or the byte that is wrong, in the form of the route, and is never a 500.

use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::support::{
    Client, Serving,
    models::{copy_example, tensor, write_identity, write_steps, write_sum},
};

async fn replica() -> (Serving, Client) {
    let serving = Serving::start_with("[inference]\nbody_bytes_max = 65536\n", |models| {
        copy_example(models, "breast-cancer-forest");
        write_steps(models, 2);
        write_sum(models);
        write_identity(models, "BYTES");
        write_identity(models, "INT64");
    })
    .await;
    let client = serving.client("balancer").await;
    (serving, client)
}

/// A body that is well-formed but wrong is 400 and names its field.
#[tokio::test]
async fn wrong_fields_are_named() {
    let (_serving, client) = replica().await;
    let sound = r#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}],"outputs":[{"name":"y"}]}"#;
    assert_eq!(client.post("/v2/models/steps/infer", sound).await.status, 200);
    let cases = [
        ("\"x\"", "\"z\"", "inputs[0].name:"),
        ("[2]", "[3]", "inputs[0].data:"),
        ("[2]", "[1]", "inputs[0].data:"),
        ("[2]", "[2,1]", "inputs[0].shape:"),
        ("[2]", "[-1]", "inputs[0].shape[0]:"),
        ("[2]", "[9223372036854775807,9223372036854775807]", "inputs[0].data:"),
        ("[2]", "\"2\"", "inputs[0].shape:"),
        ("FP32", "FP64", "inputs[0].datatype:"),
        ("FP32", "FLOAT", "inputs[0].datatype:"),
        ("FP32", "INT64", "inputs[0].datatype:"),
        ("[1,2]", "[1,\"2\"]", "inputs[0].data[1]:"),
        ("[1,2]", "[1,null]", "inputs[0].data[1]:"),
        ("[1,2]", "[1,1e39]", "inputs[0].data[1]:"),
        ("[1,2]", "[[1,2]]", "inputs[0].data"),
        ("[1,2]", "[1]", "inputs[0].data:"),
        ("[1,2]", "[1,2,3]", "inputs[0].data:"),
        (",\"data\":[1,2]", "", "inputs[0].data:"),
        ("\"y\"", "\"z\"", "outputs[0].name:"),
        ("{\"name\":\"y\"}", "{\"name\":\"y\"},{\"name\":\"y\"}", "outputs[1].name:"),
        ("\"outputs\"", "\"parameters\":{\"timeout\":-1},\"outputs\"", "parameters.timeout:"),
        ("\"outputs\"", "\"id\":7,\"outputs\"", "id:"),
        ("\"inputs\"", "\"in\"", "inputs:"),
        (
            "[{\"name\":\"x\"",
            "[{\"name\":\"x\",\"shape\":[1],\"datatype\":\"FP32\",\"data\":[1]},{\"name\":\"x\"",
            "inputs[1].name:",
        ),
        ("[{\"name\":\"x\",\"shape\":[2],\"datatype\":\"FP32\",\"data\":[1,2]}]", "[]", "inputs:"),
    ];
    for (from, to, field) in cases {
        let answer = client.post("/v2/models/steps/infer", sound.replacen(from, to, 1)).await;
        assert_eq!(answer.status, 400, "{from} -> {to}: {:?}", answer.body);
        assert!(answer.error().starts_with(field), "{from} -> {to}: {}", answer.error());
    }
}

/// Where the whole body is something else than an object, the text says that the body is meant; a number out of range names datatype and
/// range.
#[tokio::test]
async fn texts_name_the_body_and_the_range() {
    let serving = Serving::start(|models| {
        write_steps(models, 1);
        write_identity(models, "INT8");
    })
    .await;
    let client = serving.client("balancer").await;
    for path in ["/v2/models/steps/infer", "/v2/repository/index", "/v2/repository/models/steps/load"] {
        let answer = client.post(path, "[]").await;
        assert_eq!((answer.status, &*answer.error()), (400, "the body: must be an object, not an array"), "{path}");
    }
    let answer =
        client.infer("identity-int8", &json!({ "inputs": [tensor("x", "INT8", &[2], json!([1, 128]))] })).await;
    let range = "inputs[0].data[1]: is out of the range of INT8, which is from -128 to 127";
    assert_eq!((answer.status, &*answer.error()), (400, range));
}

/// A body that is not JSON is 400 and says at which byte; NaN is named.
#[tokio::test]
async fn broken_json_has_an_offset() {
    let (_serving, client) = replica().await;
    let sound = r#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}]}"#;
    for length in 0..sound.len() {
        let answer = client.post("/v2/models/steps/infer", &sound[..length]).await;
        assert_eq!(answer.status, 400);
        assert!(answer.error().ends_with(&format!("(at byte {length})")), "{length}: {}", answer.error());
    }
    let nan = sound.replace("[1,2]", "[1,NaN]");
    let answer = client.post("/v2/models/steps/infer", nan.clone()).await;
    let offset = nan.find("NaN").unwrap();
    assert!(answer.error().starts_with("inputs[0].data[1]: NaN and infinity are not JSON"), "{}", answer.error());
    assert!(answer.error().ends_with(&format!("(at byte {offset})")));
    for wrong in [
        vec![0xff, 0xfe],
        b"{\"inputs\":[{\"name\":\"\xff\"}]}".to_vec(),
        format!("{{\"x\":{}", "[".repeat(60_000)).into_bytes(),
    ] {
        let answer = client.post("/v2/models/steps/infer", wrong).await;
        assert_eq!(answer.status, 400);
        assert!(answer.error().contains("at byte"), "{}", answer.error());
    }
}

/// What is not there is 404, in the protocol's form, also a path that is not declared; a wrong method of one that is, is 405.
#[tokio::test]
async fn unknown_things_are_not_found() {
    let (_serving, client) = replica().await;
    let body = json!({ "inputs": [tensor("x", "FP32", &[1], json!([1]))] });
    for path in [
        "/v2/models/unknown/infer",
        "/v2/models/steps/versions/9/infer",
        "/v2/models/steps/versions/loser/infer",
        "/v2/models/..%2f..%2fetc/infer",
    ] {
        let answer = client.post_json(path, &body).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.error().contains("no "), "{}", answer.error());
    }
    let answer = client.get("/v2/nothing").await;
    assert_eq!(answer.status, 404);
    assert!(!answer.error().is_empty());
    for (method, path, allowed) in [
        (Method::GET, "/v2/models/steps/infer", "POST"),
        (Method::DELETE, "/v2/models/steps", "GET, HEAD"),
        (Method::GET, "/v2/repository/index", "POST"),
    ] {
        let answer = client.call(method.clone(), path, &[], Bytes::new()).await;
        assert_eq!((answer.status, &answer.headers["allow"]), (405, &allowed.parse().unwrap()), "{path}");
        assert!(answer.error().contains(method.as_str()), "{}", answer.error());
    }
    for path in
        ["/v2/models/unknown", "/v2/models/unknown/ready", "/v2/models/unknown/stats", "/v2/models/steps/versions/3"]
    {
        assert_eq!(client.get(path).await.status, 404, "{path}");
    }
    for action in ["load", "unload"] {
        assert_eq!(client.post(&format!("/v2/repository/models/unknown/{action}"), "").await.status, 404);
    }
}

/// A body over the limit is 413 whether it announces its length or not.
#[tokio::test]
async fn long_bodies_are_refused() {
    let (_serving, client) = replica().await;
    let answer = client.post("/v2/models/steps/infer", vec![b' '; 65_537]).await;
    assert_eq!(answer.status, 413);
    assert!(!answer.error().is_empty());
}

/// Inputs whose shapes are each allowed, but not together, are the caller's error, not the server's.
#[tokio::test]
async fn what_the_graph_refuses_is_400() {
    let (_serving, client) = replica().await;
    let body =
        json!({ "inputs": [tensor("a", "FP32", &[2], json!([1, 2])), tensor("b", "FP32", &[3], json!([1, 2, 3]))] });
    let answer = client.infer("sum", &body).await;
    assert_eq!(answer.status, 400, "{:?}", answer.body);
    // By the file's own name of the length, and not by the engine's words alone.
    let reason = "inputs: the model cannot compute these inputs: the length N is 2 in dimension 0 of a and 3 in dimension 0 of b";
    assert!(answer.error().starts_with(reason), "{}", answer.error());
}

/// The binary form: sums, lengths, strings, and headers that lie.
#[tokio::test]
async fn binary_bodies_are_checked_to_the_byte() {
    let (_serving, client) = replica().await;
    let call = async |model: &str, head: &str, tail: &[u8], length: &str| {
        let body = Bytes::from([head.as_bytes(), tail].concat());
        client
            .call(
                Method::POST,
                &format!("/v2/models/{model}/infer"),
                &[("inference-header-content-length", length)],
                body,
            )
            .await
    };
    let head = |model: &str, size: usize| {
        let datatype = if model == "steps" { "FP32" } else { "BYTES" };
        json!({ "inputs": [{ "name": "x", "shape": [2], "datatype": datatype, "parameters": { "binary_data_size": size } }] }).to_string()
    };
    let steps = head("steps", 8);
    let length = steps.len().to_string();
    assert_eq!(call("steps", &steps, &[0; 8], &length).await.status, 200);
    for (tail, length) in [
        (&[0_u8; 7][..], &*length),
        (&[0; 9], &length),
        (&[0; 8], "99999"),
        (&[0; 8], "-1"),
        (&[0; 8], "x"),
        (&[0; 8], "10"),
        (&[0; 8], "0"),
    ] {
        let answer = call("steps", &steps, tail, length).await;
        assert_eq!(answer.status, 400, "{} {length}", tail.len());
        assert!(!answer.error().is_empty());
    }
    let half = head("steps", 4);
    assert!(call("steps", &half, &[0; 4], &half.len().to_string()).await.error().starts_with("inputs[0]: 4 bytes"));
    for tail in [&[1, 0, 0, 0, b'a'][..], &[9, 0, 0, 0, b'a'], &[1, 0, 0, 0, 0xff, 0, 0, 0, 0], &[0xff; 8]] {
        let head = head("identity-bytes", tail.len());
        let answer = call("identity-bytes", &head, tail, &head.len().to_string()).await;
        assert_eq!(answer.status, 400, "{tail:?}");
        assert!(answer.error().starts_with("inputs[0]"), "{}", answer.error());
    }
}

/// `load` and `unload` take nothing that could put another model in the place of the folder's.
#[tokio::test]
async fn overrides_are_refused() {
    let (_serving, client) = replica().await;
    for parameters in [json!({ "config": "{}" }), json!({ "file:1/model.onnx": "AAAA" }), json!({ "anything": true })] {
        let answer = client.post_json("/v2/repository/models/steps/load", &json!({ "parameters": parameters })).await;
        assert_eq!(answer.status, 400);
        assert!(answer.error().starts_with("parameters."), "{}", answer.error());
    }
    assert_eq!(client.post_json("/v2/repository/models/steps/load", &json!({})).await.status, 200);
    assert_eq!(client.post("/v2/repository/models/steps/load", "{").await.status, 400);
}
