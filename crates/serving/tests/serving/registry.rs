//! A replica that follows a model registry: what is there serves, what goes away there goes, and a registry that is away
//! or broken changes nothing.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    Client, Serving,
    models::{sha256, steps, tensor},
    registry::{Registry, Shelf, Version},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A replica and its registry, which is not open yet.
async fn replica() -> (Serving, Registry) {
    let mut made = None;
    let serving = Serving::start_configured(|ca, directory| {
        let (registry, config) = Registry::new(ca, directory);
        made = Some(registry);
        config
    })
    .await;
    (serving, made.unwrap())
}

/// The same with an open registry that has one version, and ready.
async fn replica_of_one_version() -> (Serving, Registry, Client) {
    let (serving, mut registry) = replica().await;
    registry.shelf.publish(1, |_| {});
    registry.shelf.promote(1);
    registry.open().await;
    let serving = serving.ready().await;
    let client = serving.client("balancer").await;
    (serving, registry, client)
}

/// What a version (or alias, or the default) answers to 3, or the status where it does not.
async fn answer(client: &Client, version: &str) -> Result<f64, u16> {
    let body = json!({ "inputs": [tensor("x", "FP32", &[1], json!([3]))] });
    let answer = client.post_json(&format!("/v2/models/steps{version}/infer"), &body).await;
    if answer.status != 200 {
        return Err(answer.status);
    }
    Ok(answer.json()["outputs"][0]["data"][0].as_f64().unwrap())
}

async fn until_champion_is(client: &Client, number: f64) {
    testkit::poll_until("the champion changes", PATIENCE, async || answer(client, "").await == Ok(3.0 * number)).await;
}

/// Waits until the index says of a version that it does not serve, and returns why.
async fn refusal(client: &Client, version: &str) -> String {
    let mut reason = String::new();
    testkit::poll_until("the version is refused", PATIENCE, async || {
        let index = client.post("/v2/repository/index", "").await.json();
        let row: Value =
            index.as_array().unwrap().iter().find(|row| row["version"] == version).cloned().unwrap_or_default();
        reason = row["reason"].as_str().unwrap_or_default().to_owned();
        row["state"] == "UNAVAILABLE"
    })
    .await;
    reason
}

/// Waits until some more looks at the registry have ended so.
async fn until_looked_at_again(serving: &Serving, outcome: &str) {
    let series = format!("ml_model_registry_refreshes_total{{outcome=\"{outcome}\"}} ");
    let looks = async || -> u64 {
        let metrics = serving.metrics().await;
        metrics.lines().find_map(|line| line.strip_prefix(&*series)?.parse().ok()).unwrap()
    };
    let before = looks().await;
    testkit::poll_until("further looks at the registry", PATIENCE, async || looks().await >= before + 3).await;
}

fn mirrored(models: &Path, path: &str) -> bool {
    models.join("steps").join(path).exists()
}

/// New versions, a moved alias, a deleted version and a deleted model take effect by themselves; an old version serves as
/// long as an alias means it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_has_serves_and_what_it_deletes_goes() {
    let (serving, registry, client) = replica_of_one_version().await;
    assert_eq!(answer(&client, "/versions/1").await, Ok(3.0));
    assert_eq!(answer(&client, "/versions/2").await, Err(404));
    for number in [2, 3, 4] {
        registry.shelf.publish(number, |_| {});
    }
    testkit::poll_until("the new versions", PATIENCE, async || answer(&client, "/versions/4").await == Ok(12.0)).await;
    assert_eq!(answer(&client, "").await, Ok(3.0), "the champion is who it was");
    // Unless a look came between, when it was one of them.
    let is_left_out = async || answer(&client, "/versions/2").await == Err(404);
    testkit::poll_until("only the two newest and the champion are mirrored", PATIENCE, is_left_out).await;
    registry.shelf.promote(4);
    until_champion_is(&client, 4.0).await;
    // Its files go a moment before it stops to serve.
    testkit::poll_until("no alias means 1", PATIENCE, async || answer(&client, "/versions/1").await == Err(404)).await;
    assert!(!mirrored(&serving.models, "1"));

    registry.shelf.delete_version(3);
    testkit::poll_until("3 is gone", PATIENCE, async || answer(&client, "/versions/3").await == Err(404)).await;
    assert!(!mirrored(&serving.models, "3/model.onnx"));
    assert!(!versions_of_index(&client).await.contains(&"3".to_owned()));
    assert!(!serving.metrics().await.contains("model=\"steps\",version=\"3\""));
    registry.shelf.register("another");
    until_looked_at_again(&serving, "ok").await;
    registry.shelf.delete_model();
    testkit::poll_until("all is gone", PATIENCE, async || {
        answer(&client, "").await == Err(404) && !mirrored(&serving.models, "")
    })
    .await;
    assert!(versions_of_index(&client).await.is_empty());
    let metrics = serving.metrics().await;
    assert!(!metrics.contains("\"steps\""), "{metrics}");
    assert_eq!(client.post("/v2/repository/models/steps/load", "").await.status, 404);
}

async fn versions_of_index(client: &Client) -> Vec<String> {
    let index = client.post("/v2/repository/index", "").await.json();
    index.as_array().unwrap().iter().map(|row| row["version"].as_str().unwrap().to_owned()).collect()
}

/// Who has nothing any more has lost it, and does not mean that nothing shall be served.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_was_emptied_takes_nothing_out_of_service() {
    let (mut serving, registry, client) = replica_of_one_version().await;
    serving.until_measured("ml_model_registry_up 1").await;
    registry.shelf.delete_model();
    serving.until_measured("ml_model_registry_up 0").await;
    until_looked_at_again(&serving, "registry_away").await;
    assert_eq!(answer(&client, "").await, Ok(3.0));
    serving.restart();
    let serving = serving.ready().await;
    let client = serving.client("balancer").await;
    assert_eq!(answer(&client, "").await, Ok(3.0), "nor after a restart");
    let loaded = client.post("/v2/repository/models/steps/load", "").await;
    assert_eq!((loaded.status, loaded.error().contains("what serves is unchanged")), (503, true), "nor by a load");
    assert_eq!(answer(&client, "").await, Ok(3.0));
    assert_eq!(client.post("/v2/repository/models/steps/unload", "").await.status, 200);
    assert_eq!(answer(&client, "").await, Err(404), "unless an operator unloads it");
}

/// Whatever is wrong with the new champion, the old one answers for it, after a restart too; the index says what is wrong,
/// nothing is fetched a second time, and a load gives it another chance.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_version_takes_nothing_out_of_service() {
    let (mut serving, registry, client) = replica_of_one_version().await;
    let pickle = b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix".to_vec();
    let shelf = &registry.shelf;
    shelf.publish(2, |version| version.tag = None);
    shelf.promote(2);
    assert!(refusal(&client, "2").await.contains("no tag sha256"));
    shelf.publish(3, |version| drop(version.files.insert("model.onnx", steps(7))));
    shelf.promote(3);
    assert!(refusal(&client, "3").await.contains("but the tag sha256 in the registry is"));
    shelf.publish(4, |version| drop(version.files.remove("golden.json")));
    shelf.promote(4);
    assert!(refusal(&client, "4").await.contains("golden.json: there is no such file"));
    shelf.publish(5, |version| {
        version.tag = Some(sha256(&pickle));
        version.files.insert("model.onnx", pickle.clone());
    });
    shelf.promote(5);
    assert!(refusal(&client, "5").await.contains("pickle"));
    until_looked_at_again(&serving, "ok").await;
    for number in [3, 4, 5] {
        assert_eq!(shelf.fetched(number, "MLmodel"), 1, "{number}");
    }
    assert_eq!(answer(&client, "").await, Ok(3.0));
    assert_eq!(answer(&client, "/versions/champion").await, Ok(3.0));

    serving.restart();
    let serving = serving.ready().await;
    let client = serving.client("balancer").await;
    assert_eq!(answer(&client, "").await, Ok(3.0), "the next process knows who served last");

    // Mended without a new number: it is not fetched until a load asks for it.
    shelf.mend(4, |version| {
        let golden = crate::support::models::steps_golden(4).to_string();
        version.files.insert("golden.json", golden.into_bytes());
    });
    shelf.promote(4);
    shelf.delete_version(5);
    until_looked_at_again(&serving, "ok").await;
    assert_eq!(answer(&client, "").await, Ok(3.0));
    let loaded = client.post("/v2/repository/models/steps/load", "").await;
    assert_eq!(loaded.status, 409, "3 stays refused: {:?}", loaded.body);
    assert_eq!(answer(&client, "").await, Ok(12.0));
}

/// A registry that goes away, and one that is away when a replica starts, change nothing; what happened meanwhile is
/// caught up with. A load says that the registry does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_changes_nothing() {
    let (mut serving, mut registry, client) = replica_of_one_version().await;
    serving.until_measured("ml_model_registry_up 1").await;
    registry.close().await;
    serving.until_measured("ml_model_registry_up 0").await;
    assert_eq!(answer(&client, "").await, Ok(3.0));
    let refused = client.post("/v2/repository/models/steps/load", "").await;
    assert_eq!((refused.status, refused.error().contains("what serves is unchanged")), (503, true));
    assert_eq!(client.post("/v2/repository/models/steps/unload", "").await.status, 200);
    assert_eq!(client.post("/v2/repository/models/steps/load", "").await.status, 200, "as it was");

    serving.restart();
    let serving = serving.ready().await;
    let client = serving.client("balancer").await;
    assert_eq!(answer(&client, "").await, Ok(3.0));
    registry.shelf.publish(2, |_| {});
    registry.shelf.promote(2);
    registry.open().await;
    until_champion_is(&client, 2.0).await;
}

/// Without a mirror and without a registry there is nothing to be ready with.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_mirror_waits_for_its_registry() {
    let (serving, mut registry) = replica().await;
    until_looked_at_again(&serving, "registry_away").await;
    let ready = serving.admin("/ready").await;
    assert_eq!(ready.status, 503);
    assert!(String::from_utf8_lossy(&ready.body).contains("model registry"), "{ready:?}");
    registry.shelf.publish(1, |_| {});
    registry.open().await;
    let serving = serving.ready().await;
    assert_eq!(answer(&serving.client("balancer").await, "").await, Ok(3.0));
}

/// What has no end is not read to its end: of a version it is that one's fault, of the registry an outage.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_bounded() {
    let (serving, registry, client) = replica_of_one_version().await;
    registry.shelf.publish(2, |version| drop(version.files.insert("MLmodel", vec![b'#'; (256 << 10) + 1])));
    assert!(refusal(&client, "2").await.contains("MLmodel: more than the 262144 bytes"));
    registry.shelf.set_endless(true);
    serving.until_measured("ml_model_registry_up 0").await;
    assert_eq!(answer(&client, "").await, Ok(3.0));
    registry.shelf.set_endless(false);
    serving.until_measured("ml_model_registry_up 1").await;
}

/// A model that was unloaded stays so, whatever the registry does, until a caller loads it. A damaged mirror is mended by
/// a load.
#[tokio::test(flavor = "multi_thread")]
async fn unloaded_stays_unloaded_and_damage_is_mended() {
    let (serving, registry, client) = replica_of_one_version().await;
    assert_eq!(client.post("/v2/repository/models/steps/unload", "").await.status, 200);
    registry.shelf.publish(2, |_| {});
    registry.shelf.promote(2);
    testkit::poll_until("2 is mirrored", PATIENCE, async || mirrored(&serving.models, "2/model.onnx")).await;
    until_looked_at_again(&serving, "ok").await;
    assert_eq!(answer(&client, "").await, Err(404));
    fs::write(serving.models.join("steps/2/model.onnx"), b"damaged").unwrap();
    assert_eq!(client.post("/v2/repository/models/steps/load", "").await.status, 200);
    assert_eq!(answer(&client, "").await, Ok(6.0));
}

/// A version as a plain `mlflow.onnx.log_model` leaves it, with weights beside the model and no signature, and what `rampart.toml` adds.
fn publish_with_weights(shelf: &Shelf, number: u32, change: impl FnOnce(&mut Version)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/external-data");
    let read = |name: &str| fs::read(folder.join("1").join(name)).unwrap();
    let (model, weights) = (read("model.onnx"), read("ext.onnx.data"));
    let declared = fs::read_to_string(folder.join("model.toml")).unwrap();
    let tensors = declared.split_once("[[inputs]]").unwrap().1;
    let declared = format!("[data]\n\"ext.onnx.data\" = \"{}\"\n[[inputs]]{tensors}", sha256(&weights));
    let list = format!("{}  ext.onnx.data\n{}  model.onnx\n", sha256(&weights), sha256(&model));
    shelf.publish(number, |version| {
        version.tag = Some(sha256(list.as_bytes()));
        version.files = BTreeMap::from([
            ("MLmodel", b"flavors:\n  onnx:\n    data: model.onnx\n".to_vec()),
            ("rampart.toml", declared.into_bytes()),
            ("golden.json", read("golden.json")),
            ("ext.onnx.data", weights),
            ("model.onnx", model),
        ]);
        change(version);
    });
}

/// The tag is the digest of the list of files, which `sha256sum` writes: weights beside a model come and are judged with it.
#[tokio::test(flavor = "multi_thread")]
async fn weights_beside_a_model_come_with_it() {
    let (mut serving, registry, client) = replica_of_one_version().await;
    let shelf = &registry.shelf;
    publish_with_weights(shelf, 2, |_| {});
    let is_ready = async |client: &Client| client.get("/v2/models/steps/versions/2/ready").await.status == 200;
    testkit::poll_until("2 serves", PATIENCE, async || is_ready(&client).await).await;
    until_looked_at_again(&serving, "ok").await;
    assert_eq!(shelf.fetched(2, "ext.onnx.data"), 1);
    serving.restart();
    let serving = serving.ready().await;
    let client = serving.client("balancer").await;
    assert!(is_ready(&client).await, "the mirror has all of it");

    publish_with_weights(shelf, 3, |version| version.files.get_mut("ext.onnx.data").unwrap()[100] ^= 1);
    assert!(refusal(&client, "3").await.contains("ext.onnx.data: its SHA-256 is not"));
    publish_with_weights(shelf, 4, |version| drop(version.files.remove("ext.onnx.data")));
    assert!(refusal(&client, "4").await.contains("ext.onnx.data: there is no such file"));
    publish_with_weights(shelf, 5, |version| drop(version.files.remove("rampart.toml")));
    assert!(refusal(&client, "5").await.contains("`rampart models adopt`"));
    publish_with_weights(shelf, 6, |version| version.tag = Some(sha256(version.files.get("model.onnx").unwrap())));
    assert!(refusal(&client, "6").await.contains("model.onnx with ext.onnx.data: its SHA-256 is"));
}
