//! The gRPC protocol: same models, same rules, same words.

use bytes::Bytes;
use prost::Message;
use proto::inference::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest,
    ModelRepositoryParameter, ModelStatisticsRequest, RepositoryIndexRequest, RepositoryModelLoadRequest,
    ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest,
    infer_parameter::ParameterChoice,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    model_repository_parameter,
};
use tonic::{Code, codec::CompressionEncoding};

use crate::support::{
    Client, Serving,
    models::{copy_example, write_steps},
};

async fn replica() -> (Serving, Client) {
    let serving = Serving::start_with("[inference]\nbody_bytes_max = 65536\n", |models| {
        copy_example(models, "digits-mlp");
        write_steps(models, 2);
    })
    .await;
    let client = serving.client("balancer").await;
    (serving, client)
}

fn sound() -> ModelInferRequest {
    let contents = InferTensorContents { fp32_contents: vec![1.0, 2.0], ..Default::default() };
    let input = InferInputTensor {
        name: "x".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![2],
        contents: Some(contents),
        ..Default::default()
    };
    ModelInferRequest { model_name: "steps".to_owned(), inputs: vec![input], ..Default::default() }
}

/// Every method that is not an inference.
#[tokio::test]
async fn everything_but_inference() {
    let (_serving, client) = replica().await;
    let mut grpc = client.grpc();
    assert!(grpc.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(grpc.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    assert_eq!(grpc.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner().name, "rampart");
    for version in ["", "1", "champion"] {
        let request = ModelReadyRequest { name: "steps".to_owned(), version: version.to_owned() };
        assert!(grpc.model_ready(request).await.unwrap().into_inner().ready);
    }
    for (name, version) in [("no-such-model", ""), ("steps", "99"), ("steps", "no-such-alias")] {
        let request = ModelReadyRequest { name: name.to_owned(), version: version.to_owned() };
        assert!(!grpc.model_ready(request).await.unwrap().into_inner().ready, "{name} {version}");
    }
    let request = ModelMetadataRequest { name: "digits-mlp".to_owned(), version: String::new() };
    let metadata = grpc.model_metadata(request).await.unwrap().into_inner();
    assert_eq!(
        (&*metadata.platform, &*metadata.inputs[0].datatype, &*metadata.inputs[0].shape),
        ("onnx_onnxv1", "FP32", &[-1, 64][..])
    );
    assert_eq!(metadata.properties["sha256"].len(), 64);
    let index = grpc.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
    assert!(index.models.iter().all(|row| row.state == "READY") && index.models.len() == 4);
    grpc.model_infer(sound()).await.unwrap();
    let request = ModelStatisticsRequest { name: "steps".to_owned(), version: "2".to_owned() };
    let statistics = grpc.model_statistics(request).await.unwrap().into_inner();
    assert_eq!((statistics.model_stats[0].inference_count, statistics.model_stats[0].execution_count), (2, 1));
}

/// The version is a number or an alias; without one it is the champion. The id is echoed.
#[tokio::test]
async fn versions_by_number_and_alias() {
    let (_serving, client) = replica().await;
    for (version, factor) in [("1", 1.0), ("2", 2.0), ("champion", 2.0), ("", 2.0)] {
        let request = ModelInferRequest { model_version: version.to_owned(), id: "i".to_owned(), ..sound() };
        let answer = client.grpc().model_infer(request).await.unwrap().into_inner();
        assert_eq!((&*answer.id, &*answer.model_name), ("i", "steps"));
        assert_eq!(answer.outputs[0].contents.as_ref().unwrap().fp32_contents, [factor, 2.0 * factor]);
    }
}

/// Each wrong request has the fitting code and names its field.
#[tokio::test]
async fn wrong_requests_have_code_and_field() {
    let (_serving, client) = replica().await;
    let input = |change: fn(&mut InferInputTensor)| {
        let mut request = sound();
        change(&mut request.inputs[0]);
        request
    };
    let output = |name: &str| InferRequestedOutputTensor { name: name.to_owned(), ..Default::default() };
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    let timeout = [("timeout".to_owned(), parameter(ParameterChoice::StringParam("soon".to_owned())))];
    let cases = [
        (Code::NotFound, "there is no model", ModelInferRequest { model_name: "unknown".to_owned(), ..sound() }),
        (Code::NotFound, "has no version or alias", ModelInferRequest { model_version: "7".to_owned(), ..sound() }),
        (Code::InvalidArgument, "inputs[0].name:", input(|input| input.name = "z".to_owned())),
        (Code::InvalidArgument, "inputs[0].datatype:", input(|input| input.datatype = "FLOAT".to_owned())),
        (Code::InvalidArgument, "inputs[0].contents:", input(|input| input.datatype = "FP64".to_owned())),
        (Code::InvalidArgument, "inputs[0].contents:", input(|input| input.shape = vec![3])),
        (Code::InvalidArgument, "inputs[0].contents:", input(|input| input.shape = vec![-2])),
        (Code::InvalidArgument, "inputs[0].contents:", input(|input| input.shape = vec![i64::MAX, i64::MAX])),
        (Code::InvalidArgument, "inputs[0].shape:", input(|input| input.shape = vec![2, 1])),
        (Code::InvalidArgument, "inputs[0].shape: more than 32", input(|input| input.shape = vec![1; 5000])),
        (
            Code::InvalidArgument,
            "inputs[0].contents:",
            input(|input| input.contents.as_mut().unwrap().bool_contents.push(true)),
        ),
        (Code::InvalidArgument, "inputs:", ModelInferRequest { inputs: vec![], ..sound() }),
        (Code::InvalidArgument, "outputs[0].name:", ModelInferRequest { outputs: vec![output("z")], ..sound() }),
        (
            Code::InvalidArgument,
            "raw_input_contents:",
            ModelInferRequest { raw_input_contents: vec![Bytes::new(), Bytes::new()], ..sound() },
        ),
        (
            Code::InvalidArgument,
            "inputs[0].contents:",
            ModelInferRequest { raw_input_contents: vec![Bytes::from_static(&[0; 8])], ..sound() },
        ),
        (
            Code::InvalidArgument,
            "inputs[0]: 7 bytes",
            ModelInferRequest {
                raw_input_contents: vec![Bytes::from_static(&[0; 7])],
                ..input(|input| input.contents = None)
            },
        ),
        (Code::InvalidArgument, "parameters.timeout:", ModelInferRequest { parameters: timeout.into(), ..sound() }),
    ];
    for (code, words, request) in cases {
        let status = client.grpc().model_infer(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(words), "{words} not in {}", status.message());
    }
}

/// Narrow integers travel in wider fields and are checked on arrival; overrides of a load are refused; long messages too.
#[tokio::test]
async fn limits_hold() {
    let (_serving, client) = replica().await;
    let value = ModelRepositoryParameter {
        parameter_choice: Some(model_repository_parameter::ParameterChoice::StringParam("{}".to_owned())),
    };
    let request = RepositoryModelLoadRequest {
        model_name: "steps".to_owned(),
        parameters: [("config".to_owned(), value)].into(),
        ..Default::default()
    };
    assert_eq!(client.grpc().repository_model_load(request).await.unwrap_err().code(), Code::InvalidArgument);
    let contents = InferTensorContents { fp32_contents: vec![0.0; 20_000], ..Default::default() };
    let long = ModelInferRequest {
        inputs: vec![InferInputTensor { contents: Some(contents), ..sound().inputs[0].clone() }],
        ..sound()
    };
    assert_eq!(client.grpc().model_infer(long).await.unwrap_err().code(), Code::ResourceExhausted);
}

/// Packed requests are read as they are, within the same limit once they are unpacked.
#[tokio::test]
async fn packed_messages_are_read() {
    let (_serving, client) = replica().await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        let mut grpc = client.grpc().send_compressed(encoding);
        let answer = grpc.model_infer(sound()).await.unwrap().into_inner();
        assert_eq!(answer.outputs[0].contents.as_ref().unwrap().fp32_contents, [2.0, 4.0]);
        let contents = InferTensorContents { fp32_contents: vec![0.0; 20_000], ..Default::default() };
        let mut bomb = sound();
        bomb.inputs[0].contents = Some(contents);
        assert_eq!(grpc.model_infer(bomb).await.unwrap_err().code(), Code::ResourceExhausted, "{encoding}");
    }
}

/// Whatever cannot be read is the caller's fault by its code: no message, no protobuf, a wrong frame, a wrong packing.
#[tokio::test]
async fn unreadable_messages_are_never_our_fault() {
    let (_serving, client) = replica().await;
    let framed = |flag: u8, message: &[u8]| {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[flag][..], &length, message].concat()
    };
    let sound = sound().encode_to_vec();
    let mut cut = framed(0, &sound);
    cut.truncate(cut.len() - 1);
    let cases: [(&str, Vec<u8>, &str, &str); 9] = [
        ("sound", framed(0, &sound), "identity", "0"),
        ("no message", Vec::new(), "identity", "3"),
        ("half a frame", vec![0, 0], "identity", "3"),
        ("cut off", cut, "identity", "3"),
        ("no protobuf", framed(0, b"no protobuf"), "identity", "3"),
        ("unknown flag", framed(2, &sound), "identity", "3"),
        ("packed, but how", framed(1, &sound), "identity", "3"),
        ("not gzip", framed(1, &sound), "gzip", "3"),
        ("unknown packing", framed(1, &sound), "br", "12"),
    ];
    for (what, body, encoding, code) in cases {
        let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-encoding", encoding)];
        let path = "/inference.GRPCInferenceService/ModelInfer";
        let answer = client.call(http::Method::POST, path, &headers, Bytes::from(body)).await;
        let status = answer.headers.get("grpc-status").map_or("0", |status| status.to_str().unwrap());
        assert_eq!(status, code, "{what}: {:?}", answer.headers);
    }
}

/// A message of the allowed length that would become gigabytes in memory is refused before it does.
#[tokio::test]
async fn a_message_takes_no_more_memory_than_it_has_bytes() {
    let serving = Serving::start(|models| write_steps(models, 1)).await;
    let client = serving.client("balancer").await;
    let message = [0x2a, 0].repeat((16 << 20) / 2 - 64);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0][..], &length, &message].concat();
    let before = peak_memory_kib(&serving);
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let path = "/inference.GRPCInferenceService/ModelInfer";
    let answer = client.call(http::Method::POST, path, &headers, Bytes::from(body)).await;
    assert_eq!(answer.headers["grpc-status"], "3", "{:?}", answer.headers);
    let grown = peak_memory_kib(&serving) - before;
    assert!(grown < 128 << 10, "16 MiB took {grown} KiB");
}

fn peak_memory_kib(serving: &Serving) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", serving.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What is not offered is UNIMPLEMENTED, not open: shared memory, tracing, log settings.
#[tokio::test]
async fn methods_that_are_not_offered_are_unimplemented() {
    let (_serving, client) = replica().await;
    for method in
        ["SystemSharedMemoryRegister", "CudaSharedMemoryStatus", "TraceSetting", "LogSettings", "ModelStreamInfer"]
    {
        let path = format!("/inference.GRPCInferenceService/{method}");
        let answer = client
            .call(
                http::Method::POST,
                &path,
                &[("content-type", "application/grpc"), ("te", "trailers")],
                Bytes::from_static(&[0; 5]),
            )
            .await;
        assert_eq!(answer.headers["grpc-status"], "12", "{method}");
    }
}
