//! Proves that the tests spare containers of others: `scripts/test platform` starts one before the platform, and compares its
//! id and its start time at the end.

use end_to_end::{containers::Containers, power_cut::PowerCut};

/// The container's name.
const BYSTANDER: &str = "RAMPART_TEST_BYSTANDER";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_container_of_others_a_power_cut_spares_the_daemon() {
    let platform = Containers::from_environment().unwrap();
    let bystander = std::env::var(BYSTANDER).unwrap();
    let bystanders = match PowerCut::allowed_for(&platform).await.unwrap() {
        PowerCut::Project { bystanders } => bystanders,
        PowerCut::Daemon => Vec::new(),
    };
    assert!(bystanders.contains(&bystander), "{bystanders:?}");
    let services = platform.services().await.unwrap();
    let own: Vec<String> = services.iter().map(|service| platform.container(service).name).collect();
    assert!(own.iter().all(|name| !bystanders.contains(name)), "the platform's own are no bystanders: {bystanders:?}");
}
