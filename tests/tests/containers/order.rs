//! Proves that the containers may start in any order.

use end_to_end::{
    checkout::repository,
    containers::{Containers, START_LIMIT, say},
    docker::docker,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn started_in_reverse_order_all_end_healthy() {
    let platform = Containers::from_environment().unwrap();
    let running = platform.services().await.unwrap();
    let mut names: Vec<String> = services_in_order().into_iter().filter(|name| running.contains(name)).collect();
    assert_eq!(names.len(), running.len(), "the compose file names every container");
    names.reverse();
    let names: Vec<String> = names.iter().map(|name| platform.container(name).name).collect();

    let words: Vec<&str> = ["stop"].into_iter().chain(names.iter().map(String::as_str)).collect();
    docker(&words).await.unwrap();
    for name in &names {
        docker(&["start", name]).await.unwrap();
    }
    let healthy = platform.wait_healthy(START_LIMIT).await.unwrap();
    platform.wait_prediction(START_LIMIT).await.unwrap();
    say(&format!("{} containers started in reverse order: healthy after {:.1} s", names.len(), healthy.as_secs_f64()));
}

/// The services of the compose file, as they stand there.
fn services_in_order() -> Vec<String> {
    let text = std::fs::read_to_string(repository().join("docker-compose.yml")).unwrap();
    let services = text.lines().skip_while(|line| *line != "services:").skip(1).take_while(|line| {
        let is_next_part = line.starts_with(|character: char| character.is_ascii_alphabetic());
        !is_next_part
    });
    let name = |line: &str| Some(line.strip_prefix("  ")?.strip_suffix(':')?.to_owned());
    services.filter_map(name).filter(|name| !name.starts_with([' ', '#'])).collect()
}
