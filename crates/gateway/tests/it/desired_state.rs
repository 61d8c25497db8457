//! Which models should serve: kept once, changed by replicas of serving only, recorded, and never half.

use std::time::{Duration, Instant};

use proto::models::v1::DesiredModels;
use serde_json::json;
use tonic::Code;

use crate::{client::Client, world::World};

const USER: &str = "0191a5c4-0000-7000-8000-000000000001";

/// Generation, models that are loaded and models that are not.
fn shown(models: &DesiredModels) -> (u64, Vec<&str>, Vec<&str>) {
    let with = |loaded| models.models.iter().filter(|it| it.loaded == loaded).map(|it| &*it.name).collect();
    (models.generation, with(true), with(false))
}

/// Each change makes one generation and one audit record, however many replicas ask for it, and every gateway tells it.
#[tokio::test]
async fn a_change_is_kept_once_for_all_replicas() {
    let world = World::new().await;
    let (first, second) = (world.gateway("gateway-1").await, world.gateway("gateway-2").await);
    let replica = Client::new(&world.identity("serving"), first.main).at("198.51.100.7");
    let other = Client::new(&world.identity("serving"), second.main);
    assert_eq!(shown(&replica.sync_models(&[]).await.unwrap()), (0, vec![], vec![]));
    assert_eq!(shown(&replica.sync_models(&["b", "a"]).await.unwrap()), (1, vec!["a", "b"], vec![]));
    assert_eq!(shown(&other.sync_models(&["a"]).await.unwrap()), (1, vec!["a", "b"], vec![]), "it is known");

    for client in [&replica, &other, &replica] {
        assert_eq!(shown(&client.change_model("a", false, USER).await.unwrap()), (2, vec!["b"], vec!["a"]));
    }
    assert_eq!(shown(&other.sync_models(&["a"]).await.unwrap()), (2, vec!["b"], vec!["a"]), "unloaded it stays");
    assert_eq!(shown(&other.change_model("a", true, USER).await.unwrap()), (3, vec!["a", "b"], vec![]));

    let records = world.audit_records().await;
    let of = |event: &str| records.iter().filter(|record| record["event"] == event).collect::<Vec<_>>();
    assert_eq!((of("model.unload").len(), of("model.load").len()), (1, 1));
    let record = of("model.unload")[0];
    assert_eq!(record["actor"], json!({ "type": "user", "id": USER }));
    assert_eq!((&record["resource"], &record["outcome"]), (&json!("model:a"), &json!("success")));
    assert_eq!(
        (&record["source"]["address"], &record["source"]["peer"]),
        (&json!("198.51.100.7"), &json!("serving-1"))
    );
}

/// Only a replica of serving may ask or change, and what it says is checked.
#[tokio::test]
async fn only_serving_has_the_desired_state() {
    let world = World::new().await;
    let gateway = world.gateway("gateway-1").await;
    for service in ["balancer", "sla", "backup", "operator", "edge", "gateway"] {
        let client = Client::new(&world.identity(service), gateway.main);
        assert_eq!(client.sync_models(&["a"]).await.unwrap_err().code(), Code::PermissionDenied, "{service}");
        assert_eq!(
            client.change_model("a", false, USER).await.unwrap_err().code(),
            Code::PermissionDenied,
            "{service}"
        );
    }
    let replica = Client::new(&world.identity("serving"), gateway.main);
    for name in ["", "../a", ".a", "a b", "ä", &"a".repeat(65)] {
        assert_eq!(replica.sync_models(&["a", name]).await.unwrap_err().code(), Code::InvalidArgument, "{name}");
        assert_eq!(replica.change_model(name, false, USER).await.unwrap_err().code(), Code::InvalidArgument, "{name}");
    }
    assert_eq!(replica.change_model("a", false, "ann").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(replica.sync_models(&["a"; 257]).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(shown(&replica.sync_models(&[]).await.unwrap()), (0, vec![], vec![]));
}

/// The state has a bound. Loaded models make room, since what it does not know is loaded; unloaded ones never do.
#[tokio::test]
async fn the_desired_state_is_bounded() {
    let world = World::new().await;
    let gateway = world.gateway("gateway-1").await;
    let replica = Client::new(&world.identity("serving"), gateway.main);
    let fill = "INSERT INTO gateway.models (name, loaded, generation, changed_at)
        SELECT 'm' || n, n > 1023, n, now() FROM generate_series(1, 1024) AS n";
    world.postgres.sql(&world.database.name, fill).await;
    let models = replica.sync_models(&["new"]).await.unwrap();
    assert_eq!((models.models.len(), shown(&models).1), (1024, vec!["new"]), "the oldest loaded one is forgotten");
    let models = replica.change_model("last", false, USER).await.unwrap();
    assert_eq!((models.models.len(), shown(&models).1), (1024, vec![]));
    let refused = replica.change_model("one-more", false, USER).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(replica.sync_models(&[]).await.unwrap(), models);
    world.wait_for_record("model.unload", "failure", Some("too_many_models")).await;
    assert!(shown(&replica.change_model("m1", true, USER).await.unwrap()).1.contains(&"m1"));
}

/// A database that does not answer is said to be away in time, and changes nothing.
#[tokio::test]
async fn without_its_database_the_desired_state_is_unavailable() {
    let world = World::new().await;
    let gateway = world.gateway("gateway-1").await;
    let replica = Client::new(&world.identity("serving"), gateway.main);
    let before = replica.sync_models(&["a"]).await.unwrap();
    let lock = world.lock("gateway.models");
    let asked = Instant::now();
    assert_eq!(replica.change_model("a", false, USER).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(replica.sync_models(&[]).await.unwrap_err().code(), Code::Unavailable);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    drop(lock);
    assert_eq!(replica.sync_models(&[]).await.unwrap(), before);
}

/// A gateway whose tables may be of another release, or not be there, asks none of them.
#[tokio::test]
async fn before_its_migration_a_gateway_has_no_desired_state() {
    let world = World::new().await;
    let first = world.gateway("gateway-1").await;
    let replica = Client::new(&world.identity("serving"), first.main);
    let before = replica.sync_models(&["a"]).await.unwrap();
    let lock = world.lock("gateway._sqlx_migrations");
    let second = world.start_gateway("gateway-2");
    let early = Client::new(&world.identity("serving"), second.main);
    let answers =
        [early.sync_models(&[]).await, early.sync_models(&["b"]).await, early.change_model("a", false, USER).await];
    for answer in answers {
        let refused = answer.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(refused.message().contains("has not read its database yet"), "{refused}");
    }
    drop(lock);
    world.until_serving(&second).await;
    assert_eq!(early.sync_models(&[]).await.unwrap(), before);
}
