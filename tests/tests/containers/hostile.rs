//! Proves that callers who do what they can to the platform, from a container of their own, take nothing from another caller.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use end_to_end::{
    attackers::{self, Target},
    checkout::binary,
    containers::{Containers, say},
    docker::{Container, docker},
    front_door::FrontDoor,
};
use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{
    load::{LATEST, Load, is_whole_matrix},
    models::{Engineer, text},
};

/// How long it goes on, and when everything is wanted: in rounds, since tokens live for ten minutes.
const HOSTILITIES: Duration = Duration::from_secs(30);
const LONG_ROUND: Duration = Duration::from_secs(150);
const LONG_ROUNDS: u32 = 4;
/// None may be later: attackers and the machine's host take what they get of two cores, so every run asks for twice of what the whole
/// matrix does.
const LATEST_IN_EVERY_RUN: Duration = Duration::from_secs(2);
/// To start, or to end, a container with one program.
const CONTAINER_LIMIT: Duration = Duration::from_secs(30);
const CA_FILE: &str = "/ca.pem";
/// Where the front listens in the network `edge`.
const FRONT_PORT: u16 = 8095;

/// Attackers in a container in the clients' network.
struct Attackers {
    container: Container,
    running: Child,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_neighbours_in_a_container_take_nothing_from_another_caller() {
    let platform = Containers::from_environment().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let engineer = Engineer::new(&platform, folder.path()).await.unwrap();
    attackers::models::write(folder.path()).unwrap();
    for name in attackers::models::NAMES {
        let [file, sample] = ["model.onnx", "sample.json"].map(|file| folder.path().join(name).join("1").join(file));
        let (file, sample) = (file.to_str().unwrap(), sample.to_str().unwrap());
        let printed = text(&engineer.models(&["register", file, "--name", name, "--sample", sample]).await.unwrap());
        assert!(printed.contains("version 1 serves"), "{printed}");
    }
    let load = Load::predictions(&platform).await;
    let (rounds, duration) = if is_whole_matrix() { (LONG_ROUNDS, LONG_ROUND) } else { (1, HOSTILITIES) };
    for round in 0..rounds {
        let attackers = Attackers::start(&platform, round).await.unwrap();
        load.steady.go_on(duration).await.unwrap();
        attackers.stop().await.unwrap();
    }
    let figures = load.steady.figures(Duration::ZERO, load.steady.now()).await.unwrap();
    say(&format!("hostile neighbours in a container: {}", figures.line()));
    drop(load);
    for name in attackers::models::NAMES {
        engineer.delete(name).await.unwrap();
    }
    assert_eq!(figures.failed + figures.retried, 0, "{}: {:?}", figures.line(), figures.failures);
    let latest = if is_whole_matrix() { LATEST } else { LATEST_IN_EVERY_RUN };
    assert!(figures.slowest <= latest, "{}", figures.line());
    assert_eq!(platform.front.healthy_backends().await.unwrap(), 3, "every replica lives");
}

// === impl Attackers ===

impl Attackers {
    /// Starts them with accounts of their own.
    async fn start(platform: &Containers, round: u32) -> anyhow::Result<Self> {
        let (program, ca) = (binary("rampart-attack")?, &platform.front.ca_file);
        let container = Container { name: format!("{}attackers", platform.prefix) };
        let _none_of_an_earlier_run = docker(&["rm", "--force", &container.name]).await;
        let bystander = Container { name: env::var("RAMPART_TEST_BYSTANDER")? };
        let network = format!("{}_edge", platform.project);
        let mut command = Command::new("docker");
        command.args(["run", "--rm", "--interactive", "--name", &container.name, "--network", &network]);
        command.args(["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=65534:65534"]);
        command.arg(format!("--volume={}:/rampart-attack:ro", program.canonicalize()?.display()));
        command.arg(format!("--volume={}:{CA_FILE}:ro", ca.canonicalize()?.display()));
        command.args([bystander.image().await?.as_str(), "/rampart-attack"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let target = target(platform, round).await?;
        let mut running = command.spawn().context("cannot run docker")?;
        let input = running.stdin.as_mut().context("docker takes no input")?;
        input.write_all(format!("{}\n", serde_json::to_string(&target)?).as_bytes()).await?;
        let output = running.stdout.as_mut().context("docker has no output")?;
        let mut begun = String::new();
        timeout(CONTAINER_LIMIT, BufReader::new(output).read_line(&mut begun)).await??;
        ensure!(begun.trim() == "attacking", "the attackers did not begin: {begun}");
        Ok(Self { container, running })
    }

    /// Ends them. It is an error if one was answered as a fault of the platform.
    async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.running.stdin.take());
        let said = timeout(CONTAINER_LIMIT, self.running.wait_with_output()).await.context(self.container.name)??;
        ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
        Ok(())
    }
}

async fn target(platform: &Containers, round: u32) -> anyhow::Result<Target> {
    let address: Ipv4Addr = env::var("RAMPART_FRONT_ADDRESS").context("RAMPART_FRONT_ADDRESS")?.parse()?;
    let front = FrontDoor {
        address: SocketAddr::from((address, FRONT_PORT)),
        ca_file: CA_FILE.into(),
        example_file: platform.front.example_file.clone(),
    };
    let admin = platform.admin().await?;
    let account = async |name: &str| {
        let name = format!("{name}-{round}");
        let user = json!({ "name": name, "kind": "machine", "tenant": "default", "roles": ["analyst"] });
        let (status, made) = platform.front.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await?;
        ensure!(status.is_success(), "making {name}: {status} {made}");
        let secret = made.get("client_secret").and_then(Value::as_str).context("no client_secret")?;
        platform.front.login(&name, secret).await
    };
    let (crasher, hog, sluggard) = (account("crasher").await?, account("hog").await?, account("sluggard").await?);
    Ok(Target { front, source: Ipv4Addr::UNSPECIFIED, crasher, hog, sluggard, guessed: "example-analyst".to_owned() })
}
