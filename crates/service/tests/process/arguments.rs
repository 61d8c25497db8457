//! What is refused before anything is started, and how it is told.

use std::fs;
use std::process::Output;

use crate::world::World;

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn write(world: &World, toml: &str) -> String {
    let path = world.path("smallest.toml");
    fs::write(&path, toml).unwrap();
    path.display().to_string()
}

#[test]
fn a_good_configuration_is_good() {
    let world = World::new();
    let file = write(&world, "[work]\nsize = 3");
    let output = world.output(&["check-config", "--config", &file]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn an_unknown_key_is_named_and_exit_is_2() {
    let world = World::new();
    let file = write(&world, "[work]\nsiez = 3");
    for subcommand in ["serve", "check-config"] {
        let output = world.output(&[subcommand, "--config", &file]);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            stderr(&output).contains("work.siez") && stderr(&output).contains("smallest.toml"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let world = World::new();
    let file = write(&world, "[work]\nsize = 101\n[telemetry]\nlog_filter = \"=,\"\notlp_endpoint = \"http://c:1\"");
    let output = world.output(&["check-config", "--config", &file]);
    assert_eq!(output.status.code(), Some(2));
    for path in ["work.size", "telemetry.log_filter", "telemetry.otlp_endpoint"] {
        assert!(stderr(&output).contains(path), "{path} in {}", stderr(&output));
    }
}

#[test]
fn a_peer_list_without_names_is_refused() {
    let world = World::new();
    for peers in ["[listen.peers]\n\"/\" = []", "[admin]\npeers = 3"] {
        let output = world.output(&["check-config", "--config", &write(&world, peers)]);
        assert_eq!(output.status.code(), Some(2), "{peers}");
        assert!(stderr(&output).contains("peers"), "{}", stderr(&output));
    }
}

#[test]
fn the_environment_is_checked_like_a_file() {
    let world = World::new().with("RAMPART_SMALLEST__WORK__SIEZ", "3");
    let output = world.output(&["check-config"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("work.siez"), "{}", stderr(&output));
}

/// The environment beats the file, and the variables of another service mean nothing.
#[tokio::test]
async fn the_environment_overrides_the_file() {
    let world = World::new().with("RAMPART_SMALLEST__WORK__SIZE", "7").with("RAMPART_GATEWAY__WORK__SIZE", "9");
    let file = write(&world, "[work]\nsize = 3");
    let process = world.start_with(&["serve", "--config", &file]);
    assert_eq!(process.until_logged("the size of the work").await["size"], 7);
}

#[test]
fn without_an_identity_nothing_starts() {
    let world = World::new();
    fs::remove_dir_all(world.path("identity")).unwrap();
    let output = world.output(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("identity"), "{}", stderr(&output));
}

#[test]
fn the_identity_of_another_service_is_refused() {
    let world = World::new();
    world.ca.issue("gateway", "gateway-1", &world.path("identity"));
    let output = world.output(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("service gateway, not of smallest"), "{}", stderr(&output));
}
