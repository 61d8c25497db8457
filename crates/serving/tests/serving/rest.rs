//! The REST protocol as its clients use it.

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::Method;
use serde_json::{Value, json};
use std::io::Write;

use crate::support::{
    Client, Serving,
    models::{copy_example, example_golden, isolate, tensor, write_root, write_steps, write_steps_as},
};

const FOREST: &str = "breast-cancer-forest";

async fn replica() -> (Serving, Client) {
    let serving = Serving::start_with("[inference]\nbody_bytes_max = 65536\n", |models| {
        copy_example(models, FOREST);
        write_steps(models, 2);
        write_root(models);
    })
    .await;
    let client = serving.client("balancer").await;
    (serving, client)
}

fn steps(data: &[f32]) -> Value {
    json!({ "inputs": [tensor("x", "FP32", &[i64::try_from(data.len()).unwrap()], json!(data))] })
}

/// Metadata, readiness, index and statistics have the protocol's shapes.
#[tokio::test]
async fn everything_but_inference() {
    let (_serving, client) = replica().await;
    assert_eq!(client.get("/v2/health/live").await.json(), json!({ "live": true }));
    assert_eq!(client.get("/v2/health/ready").await.json(), json!({ "ready": true }));
    let server = client.get("/v2").await.json();
    assert_eq!(server["name"], "rampart");
    // As the protocol's own description writes it.
    assert_eq!(client.get("/v2/").await.json(), server);
    assert_eq!(client.get("/v2/models/steps/").await.status, 404);
    assert!(server["extensions"].as_array().unwrap().contains(&json!("binary_tensor_data")));

    for path in ["", "/versions/2", "/versions/champion"] {
        let metadata = client.get(&format!("/v2/models/{FOREST}{path}")).await.json();
        assert_eq!(metadata["name"], FOREST);
        assert_eq!(metadata["versions"], json!(["1", "2"]));
        assert_eq!(metadata["platform"], "onnx_onnxv1");
        assert_eq!(metadata["inputs"], json!([{ "name": "input", "datatype": "FP32", "shape": [-1, 30] }]));
        assert_eq!(metadata["outputs"][1], json!({ "name": "probabilities", "datatype": "FP32", "shape": [-1, 2] }));
        assert_eq!(metadata["properties"]["aliases"], "champion");
        assert_eq!(
            client.get(&format!("/v2/models/{FOREST}{path}/ready")).await.json(),
            json!({ "name": FOREST, "ready": true })
        );
    }

    // tritonclient sends an empty body and no Content-Type.
    for body in ["", "{}", "{\"ready\": true}"] {
        let index = client.post("/v2/repository/index", body).await.json();
        let row = json!({ "name": FOREST, "version": "1", "state": "READY", "reason": "" });
        assert!(index.as_array().unwrap().contains(&row), "{index}");
        assert_eq!(index.as_array().unwrap().len(), 5);
    }

    assert_eq!(client.infer("steps", &steps(&[1.0, 2.0])).await.status, 200);
    for path in ["/v2/models/stats", "/v2/models/steps/stats", "/v2/models/steps/versions/2/stats"] {
        let all = client.get(path).await.json();
        let stats = all["model_stats"]
            .as_array()
            .unwrap()
            .iter()
            .find(|stats| stats["name"] == "steps" && stats["version"] == "2")
            .unwrap();
        assert_eq!((&stats["inference_count"], &stats["execution_count"]), (&json!(2), &json!(1)));
        assert_eq!(stats["inference_stats"]["success"]["count"], 1);
        assert!(
            stats["inference_stats"]["compute_infer"]["ns"].as_u64().unwrap() > 0
                && stats["last_inference"].as_u64().unwrap() > 0
        );
    }
}

/// The example model gives what scikit-learn gave, flat and nested, by alias and by number.
#[tokio::test]
async fn the_forest_gives_its_golden_answers() {
    let (_serving, client) = replica().await;
    for version in ["1", "2", "champion"] {
        let number = if version == "champion" { "2" } else { version };
        let golden = example_golden(FOREST, number);
        let flat: Vec<f64> =
            golden["inputs"][0]["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let nested: Vec<&[f64]> = flat.chunks(30).collect();
        for data in [json!(flat), json!(nested)] {
            let rows = i64::try_from(nested.len()).unwrap();
            let body = json!({ "id": "n-1", "inputs": [tensor("input", "FP32", &[rows, 30], data)] });
            let answer = client.post_json(&format!("/v2/models/{FOREST}/versions/{version}/infer"), &body).await.json();
            assert_eq!(
                (&answer["model_name"], &answer["model_version"], &answer["id"]),
                (&json!(FOREST), &json!(number), &json!("n-1"))
            );
            for wanted in golden["outputs"].as_array().unwrap() {
                let got = answer["outputs"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|output| output["name"] == wanted["name"])
                    .unwrap();
                let pairs = wanted["data"].as_array().unwrap().iter().zip(got["data"].as_array().unwrap());
                assert_eq!(wanted["shape"], got["shape"]);
                pairs.for_each(|(wanted, got)| {
                    assert!((wanted.as_f64().unwrap() - got.as_f64().unwrap()).abs() <= 1e-5)
                });
            }
        }
    }
}

/// Outputs are chosen by name, each in the form it was asked for, in the caller's order.
#[tokio::test]
async fn outputs_are_chosen_one_by_one() {
    let (_serving, client) = replica().await;
    let input = example_golden(FOREST, "2")["inputs"][0].clone();
    let body = json!({
        "inputs": [input], "parameters": { "binary_data_output": true },
        "outputs": [{ "name": "probabilities" }, { "name": "label", "parameters": { "binary_data": false } }],
    });
    let answer = client.infer(FOREST, &body).await;
    let length: usize = answer.headers["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let head: Value = serde_json::from_slice(&answer.body[..length]).unwrap();
    assert_eq!((&head["outputs"][0]["name"], &head["outputs"][1]["name"]), (&json!("probabilities"), &json!("label")));
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], answer.body.len() - length);
    assert!(head["outputs"][0].get("data").is_none() && head["outputs"][1]["data"].is_array());

    let one = json!({ "inputs": body["inputs"], "outputs": [{ "name": "label" }] });
    assert_eq!(client.infer(FOREST, &one).await.json()["outputs"].as_array().unwrap().len(), 1);
}

/// JSON cannot carry NaN: the error names the output and the remedy, and binary carries it.
#[tokio::test]
async fn an_output_with_nan_is_for_binary_only() {
    let (_serving, client) = replica().await;
    let mut body = json!({ "inputs": [tensor("x", "FP32", &[2], json!([4, -1]))] });
    let answer = client.infer("root", &body).await;
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("\"y\"") && answer.error().contains("binary"), "{}", answer.error());
    body["parameters"] = json!({ "binary_data_output": true });
    let answer = client.infer("root", &body).await;
    let tail = &answer.body[answer.body.len() - 8..];
    assert_eq!(&tail[..4], 2_f32.to_le_bytes());
    assert!(f32::from_le_bytes(tail[4..].try_into().unwrap()).is_nan());
}

/// A model may be called like a part of a path: each of its paths answers for it, and those that are not its own for the rest.
#[tokio::test]
async fn a_model_may_be_called_like_a_part_of_a_path() {
    const NAMES: [&str; 5] = ["infer", "models", "ready", "stats", "versions"];
    let serving = Serving::start_with("", |models| {
        for name in NAMES {
            write_steps_as(models, name, 3);
            isolate(models, name, "none");
        }
    })
    .await;
    let client = serving.client("balancer").await;
    for name in NAMES {
        for model in [format!("/v2/models/{name}"), format!("/v2/models/{name}/versions/1")] {
            let metadata = client.get(&model).await.json();
            assert_eq!((&metadata["name"], &metadata["versions"]), (&json!(name), &json!(["1"])), "{model}");
            let ready = client.get(&format!("{model}/ready")).await.json();
            assert_eq!(ready, json!({ "name": name, "ready": true }), "{model}");
            let stats = client.get(&format!("{model}/stats")).await.json();
            let stats = stats["model_stats"].as_array().unwrap();
            assert_eq!((stats.len(), &stats[0]["name"]), (1, &json!(name)), "{model}");
            let answer = client.post_json(&format!("{model}/infer"), &steps(&[1.0])).await;
            assert_eq!((answer.status, &answer.json()["outputs"][0]["data"]), (200, &json!([3.0])), "{model}");
        }
        let predict = [("content-type", "application/json")];
        let answer = client
            .call(Method::POST, &format!("/api/models/{name}/predict"), &predict, Bytes::from_static(br#"[{"x":2}]"#))
            .await;
        assert_eq!(answer.status, 200, "{name}: {:?}", answer.body);
        assert_eq!(client.get(&format!("/api/models/{name}/schema")).await.status, 200, "{name}");
    }
    assert_eq!(client.post("/v2/repository/models/models/load", "").await.status, 200);
    // The metadata of a model `stats` and the statistics of all have one path, and so one answer.
    let both = client.get("/v2/models/stats").await.json();
    assert_eq!((&both["inputs"][0]["name"], both["model_stats"].as_array().unwrap().len()), (&json!("x"), NAMES.len()));
    // What has a second meaning nowhere: the metadata of the model alone.
    assert!(client.get("/v2/models/ready").await.json()["model_stats"].is_null());
}

/// Packed bodies are read, and the limit holds for what is in them.
#[tokio::test]
async fn gzip_bodies_are_read_within_the_limit() {
    let (_serving, client) = replica().await;
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        Bytes::from(encoder.finish().unwrap())
    };
    let call = async |coding, body| {
        client.call(Method::POST, "/v2/models/steps/infer", &[("content-encoding", coding)], body).await
    };
    for coding in ["gzip", "GZIP", "identity, x-gzip"] {
        let answer = call(coding, gzip(steps(&[1.0]).to_string().as_bytes())).await;
        assert_eq!((answer.status, &answer.json()["outputs"][0]["data"]), (200, &json!([2.0])), "{coding}");
    }
    let bomb = gzip(&vec![b' '; 10 << 20]);
    assert!(bomb.len() < 65536);
    assert_eq!(call("gzip", bomb).await.status, 413);
    assert_eq!(call("gzip", Bytes::from_static(b"not gzip")).await.status, 400);
    for coding in ["br", "zstd", "gzip, gzip"] {
        let answer = call(coding, gzip(b"{}")).await;
        assert_eq!(
            (answer.status, &answer.headers["accept-encoding"]),
            (415, &"gzip, deflate".parse().unwrap()),
            "{coding}"
        );
        assert!(answer.error().starts_with("content-encoding: "), "{}", answer.error());
    }
}

/// The header that says where the JSON ends is a number in digits, and one: the text says what was sent instead.
#[tokio::test]
async fn the_length_of_the_json_is_one_number_in_digits() {
    const HEADER: &str = "inference-header-content-length";
    let (_serving, client) = replica().await;
    let body = Bytes::from(steps(&[1.0]).to_string());
    let call = async |headers: &[(&str, &str)]| {
        client.call(Method::POST, "/v2/models/steps/infer", headers, body.clone()).await
    };
    let length = body.len().to_string();
    assert_eq!(call(&[(HEADER, &length)]).await.status, 200);
    assert_eq!(call(&[(HEADER, &length), (HEADER, &length)]).await.status, 200, "twice the same is the same");
    let zero = format!("0{length}");
    for (values, text) in [
        (&[&*length, "0"][..], format!("is given twice, as {length:?} and as \"0\"")),
        (&[&*length, &*zero], format!("is given twice, as {length:?} and as {zero:?}")),
        (&["+123"], "must be a number of bytes written in digits, not \"+123\"".to_owned()),
        (&["-1"], "not \"-1\"".to_owned()),
        (&["1e2"], "not \"1e2\"".to_owned()),
        (&[""], "not \"\"".to_owned()),
        (&["99999999999999999999"], "not \"99999999999999999999\"".to_owned()),
    ] {
        let headers: Vec<(&str, &str)> = values.iter().map(|value| (HEADER, *value)).collect();
        let answer = call(&headers).await;
        assert_eq!(answer.status, 400, "{values:?}");
        let error = answer.error();
        assert!(
            error.starts_with("inference-header-content-length: ") && error.ends_with(&text),
            "{values:?}: {error}"
        );
    }
}

/// No rows is a batch too; engine and protocol agree on its shape.
#[tokio::test]
async fn an_empty_batch_has_an_empty_answer() {
    let (_serving, client) = replica().await;
    let answer = client.infer("steps", &steps(&[])).await;
    assert_eq!((answer.status, &answer.json()["outputs"][0]["data"]), (200, &json!([])));
    let body = json!({ "inputs": [tensor("input", "FP32", &[0, 30], json!([]))] });
    let answer = client.infer(FOREST, &body).await;
    assert!(answer.status == 200 || answer.status == 400, "{} {:?}", answer.status, answer.body);
}
