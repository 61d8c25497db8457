//! Proves that callers who do what they can to a platform take nothing from another caller.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use end_to_end::{
    attackers::{self, Target},
    checkout::repository,
    platform::{Platform, Setup},
    recorded_load::{CallKind, RecordedLoad},
    request::Protocol,
};

/// Half of what the test of the containers sends: this build is not optimised, and shares two cores with what it measures.
const RATE: u32 = 100;
/// For the same reason: in the containers it is one second.
const LATEST: Duration = Duration::from_secs(3);
/// How long it goes on, and with `scripts/test --all`: in rounds, since tokens live for ten minutes.
const HOSTILITIES: Duration = Duration::from_secs(30);
const LONG_ROUND: Duration = Duration::from_secs(150);
const LONG_ROUNDS: u32 = 4;
/// Where attackers are who hold, give up and guess: another address of this host than the caller's.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Warnings about what the attackers do.
const EXPECTED_WARNINGS: &[&str] = &["calls of this user end processes of the model"];

/// While one principal predicts at a steady rate, others crash models, ask for more memory than there is, begin uploads and do not finish
/// them, read no answers, give calls up, and guess passwords.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_neighbours_take_nothing_from_another_caller() {
    let models = tempfile::tempdir().unwrap();
    copy(&repository().join("examples/models"), models.path());
    attackers::models::write(models.path()).unwrap();
    let platform = Setup { models: Some(models.path()), ..Setup::default() }.start().unwrap();
    let template = platform.front.golden_prediction(&platform.token("analyst").unwrap()).await.unwrap();
    let prediction = CallKind { server: platform.front.server(Protocol::Http1).unwrap(), template };
    let load = RecordedLoad::start(vec![prediction], RATE).await.unwrap();
    let is_long = std::env::var("RAMPART_TEST_MATRIX").is_ok_and(|matrix| matrix == "all");
    let (rounds, duration) = if is_long { (LONG_ROUNDS, LONG_ROUND) } else { (1, HOSTILITIES) };
    for round in 0..rounds {
        let (_, token) = platform.account(&format!("caller-{round}"), &["analyst"]).await.unwrap();
        load.use_token(&token).unwrap();
        let mut attackers = attackers::attack(&target(&platform, round).await);
        load.go_on(duration).await.unwrap();
        if let Some(fault) = attackers::fault(&mut attackers) {
            panic!("{fault:#}");
        }
        attackers.shutdown().await;
    }
    let figures = load.figures(Duration::ZERO, load.now()).await.unwrap();
    eprintln!("    hostile neighbours: {}", figures.line());
    assert_eq!(figures.failed + figures.retried, 0, "{}: {:?}", figures.line(), figures.failures);
    assert!(figures.slowest <= LATEST, "{}", figures.line());
    assert_eq!(platform.front.healthy_backends().await.unwrap(), 3, "every replica lives");
    drop(load);
    platform.stop(EXPECTED_WARNINGS).unwrap();
}

/// Attackers of this round have accounts of their own.
async fn target(platform: &Platform, round: u32) -> Target {
    let account = async |name: &str| platform.account(&format!("{name}-{round}"), &["analyst"]).await.unwrap().1;
    let (crasher, hog, sluggard) = (account("crasher").await, account("hog").await, account("sluggard").await);
    let guessed = "example-analyst".to_owned();
    Target { front: platform.front.clone(), source: ELSEWHERE, crasher, hog, sluggard, guessed }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
