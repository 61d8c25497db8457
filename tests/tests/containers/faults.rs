//! Proves that beside predictions any container may be killed, stopped or frozen, and none of them fails or is late.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use end_to_end::{
    containers::{Containers, say},
    docker::{Fault, docker},
    poll::until,
    recorded_load::{CONNECTION_AGE_MAX, Figures},
    request::{Connection, Protocol, Template},
};
use http::{Method, StatusCode, header};

use crate::load::{LATEST, Load, RETURN, is_whole_matrix};

const FAULTS: [Fault; 3] = [Fault::Kill, Fault::Stop, Fault::Pause];
/// One of each kind.
const EACH_KIND: &[&str] = &["gateway-a", "ml-serving-primary", "vault", "mlflow", "minio", "prometheus"];
/// Not here: the front is one for each host; the balancers and PostgreSQL have tests of their own.
const APART: &[&str] = &["front", "balancer-a", "balancer-b", "detektor-postgres-master", "detektor-postgres-slave"];
/// How long a container is stopped or frozen.
const AWAY: Duration = Duration::from_secs(3);
/// How long other programs take every core, how many of them for each, and beside how many predictions a second.
const BUSY: Duration = Duration::from_secs(60);
const BUSY_THREADS_PER_CORE: usize = 2;
const BUSY_RATE: u32 = 100;
const BUSY_NAME: &str = "busy-beside-rampart-test";
/// It ends by itself when the test is cut off.
const BUSY_MAX: Duration = Duration::from_secs(120);
/// How soon the second edge answers when both balancers are gone.
const EDGE_ANSWERS: Duration = Duration::from_secs(2);
/// How soon a client that keeps its connection to the second edge is led back when a balancer returns.
const LED_BACK: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_prediction_fails_or_is_late_whichever_container_is_lost() {
    let platform = Containers::from_environment().unwrap();
    let load = Load::predictions(&platform).await;
    let mut services: Vec<String> = EACH_KIND.iter().map(ToString::to_string).collect();
    if is_whole_matrix() {
        services = platform.services().await.unwrap();
        services.retain(|service| !APART.contains(&service.as_str()));
    }
    let mut faults = Vec::new();
    for service in &services {
        for fault in FAULTS {
            let outcome = strike(&platform, &load, service, fault).await;
            let outcome = outcome.and_then(|figures| is_unnoticed(&figures));
            faults.extend(outcome.err().map(|error| format!("{service} {fault:?}: {error:#}")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_balancer_costs_a_client_one_retry() {
    let platform = Containers::from_environment().unwrap();
    let load = Load::predictions(&platform).await;
    let balancers = if is_whole_matrix() { &["balancer-a", "balancer-b"][..] } else { &["balancer-a"] };
    let mut faults = Vec::new();
    for balancer in balancers {
        for fault in FAULTS {
            // After the fault before, connections are on the other balancer until each has been replaced.
            load.steady.go_on(CONNECTION_AGE_MAX).await.unwrap();
            let outcome = strike(&platform, &load, balancer, fault).await;
            let outcome = outcome.and_then(|figures| is_in_time(&figures));
            faults.extend(outcome.err().map(|error| format!("{balancer} {fault:?}: {error:#}")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Health checks are late then, too, and no server is lost for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_server_is_taken_for_lost_while_the_machine_is_busy() {
    let platform = Containers::from_environment().unwrap();
    let leader = platform.patroni().await.unwrap().leader;
    let load = Load::predictions_at(&platform, BUSY_RATE).await;
    let image = platform.container("front").image().await.unwrap();
    let from = load.steady.now();
    let busy = BusyCores::start(&image).await.unwrap();
    load.steady.go_on(BUSY).await.unwrap();
    busy.end().await.unwrap();
    let figures = load.steady.figures(from, load.steady.now()).await.unwrap();
    say(&format!("every core busy for {} s: {}", BUSY.as_secs(), figures.line()));
    assert_eq!((figures.failed, figures.retried), (0, 0), "{:?}", figures.failures);
    assert_eq!(platform.patroni().await.unwrap().leader, leader, "the database failed over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_edge_answers_when_both_balancers_are_stopped() {
    let platform = Containers::from_environment().unwrap();
    let load = Load::predictions(&platform).await;
    load.steady.go_on(AWAY).await.unwrap();

    let names = ["balancer-a", "balancer-b"].map(|service| platform.container(service).name);
    let [first, second] = &names;
    let from = load.steady.now();
    docker(&["stop", first, second]).await.unwrap();
    load.steady.go_on(AWAY).await.unwrap();
    let (status, _) = platform.front.call(Method::GET, "/api/loadbalancer/status", None, None).await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "only the edge does not know the balancers' own page");
    platform.front.golden_prediction(&platform.analyst().await.unwrap()).await.unwrap();
    let figures = load.steady.figures(from, load.steady.now()).await.unwrap();
    say(&format!("both balancers stopped: {}; outage {} ms", figures.line(), figures.outage.as_millis()));
    assert!(figures.outage <= EDGE_ANSWERS, "{:?} without an answer: {:?}", figures.outage, figures.failures);

    // All gateways late at once is how a busy machine looks, too: from the moment that they answer again, so does the edge.
    let gateways = ["gateway-a", "gateway-b"].map(|service| platform.container(service).name);
    let [first_gateway, second_gateway] = &gateways;
    docker(&["pause", first_gateway, second_gateway]).await.unwrap();
    load.steady.go_on(AWAY).await.unwrap();
    docker(&["unpause", first_gateway, second_gateway]).await.unwrap();
    let from = load.steady.now();
    load.steady.go_on(AWAY).await.unwrap();
    let figures = load.steady.figures(from, load.steady.now()).await.unwrap();
    say(&format!("gateways frozen and back: {}; outage {} ms", figures.line(), figures.outage.as_millis()));
    assert_eq!(figures.failed, 0, "{:?}", figures.failures);

    // Back again, and not a call is lost by that; also of clients that keep their connections.
    let template = platform.front.golden_prediction(&platform.analyst().await.unwrap()).await.unwrap();
    let mut kept = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        kept.push(platform.front.server(protocol).unwrap().connect().await.unwrap());
    }
    kept = call_kept(kept, &template).await;
    let from = load.steady.now();
    docker(&["start", first, second]).await.unwrap();
    let mut returned = None;
    until("the balancers are used again, by every client", RETURN, async || {
        kept = call_kept(std::mem::take(&mut kept), &template).await;
        if returned.is_none() {
            let (status, _) = platform.front.call(Method::GET, "/api/loadbalancer/status", None, None).await?;
            ensure!(status == StatusCode::OK, "{status}");
            returned = Some(Instant::now());
        }
        ensure!(kept.is_empty(), "{} connections are kept by the edge", kept.len());
        Ok(())
    })
    .await
    .unwrap();
    let led_back = returned.unwrap().elapsed();
    assert!(led_back <= LED_BACK, "{led_back:?}");
    let back = platform.wait_healthy(RETURN).await.unwrap();
    let figures = load.steady.figures(from, load.steady.now()).await.unwrap();
    say(&format!(
        "both balancers started: kept connections ended {:.1} s after, healthy after {:.1} s more, {}",
        led_back.as_secs_f64(),
        back.as_secs_f64(),
        figures.line()
    ));
    is_in_time(&figures).unwrap();
}

/// Calls once on each connection, and returns those that the server did not ask to end.
async fn call_kept(kept: Vec<Connection>, template: &Template) -> Vec<Connection> {
    let mut still_kept = Vec::new();
    for mut connection in kept {
        // One of HTTP/2 is ended by a frame, which may cross a call; one of HTTP/1.1 by a header.
        let is_http2 = connection.share().is_some();
        if is_http2 && !connection.is_usable() {
            continue;
        }
        match connection.call(template).await {
            Ok(answer) => {
                template.check(&answer).expect("a prediction");
                if answer.headers.get(header::CONNECTION).is_none_or(|value| value != "close") {
                    still_kept.push(connection);
                }
            }
            Err(error) => assert!(is_http2 && !connection.is_usable(), "{error:#}"),
        }
    }
    still_kept
}

/// Strikes it, heals it, waits until all is well again: what became of the calls meanwhile.
async fn strike(platform: &Containers, load: &Load, service: &str, fault: Fault) -> anyhow::Result<Figures> {
    let from = load.steady.now();
    let struck = platform.container(service).strike(fault).await?;
    if fault != Fault::Kill {
        load.steady.go_on(AWAY).await?;
    }
    let healthy = struck.heal(RETURN).await?;
    platform.wait_healthy(RETURN).await?;
    let figures = load.steady.figures(from, load.steady.now()).await?;
    say(&format!("{service} {fault:?}: {}; healthy after {:.1} s", figures.line(), healthy.as_secs_f64()));
    Ok(figures)
}

fn is_unnoticed(figures: &Figures) -> anyhow::Result<()> {
    is_in_time(figures)?;
    ensure!(figures.retried == 0, "{} calls had to be sent again", figures.retried);
    Ok(())
}

fn is_in_time(figures: &Figures) -> anyhow::Result<()> {
    ensure!(figures.failed == 0, "{} of {} calls failed: {:?}", figures.failed, figures.calls, figures.failures);
    ensure!(figures.slowest <= LATEST, "the latest answer took {:?}", figures.slowest);
    Ok(())
}

/// A container of another project that takes as much of every core as Docker gives it: its weight is four times that of one of the platform's own
/// foremost containers. Threads of this process would not do, since Docker's containers together weigh as much as it does.
struct BusyCores;

// === impl BusyCores ===

impl BusyCores {
    async fn start(image: &str) -> anyhow::Result<Self> {
        Self.end().await?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let script = format!(
            "for _ in $(seq {}); do while :; do :; done & done; exec sleep {}",
            cores * BUSY_THREADS_PER_CORE,
            BUSY_MAX.as_secs()
        );
        let arguments =
            ["run", "--detach", "--rm", "--init", "--network", "none", "--cpu-shares", "16384", "--name", BUSY_NAME];
        docker(&[&arguments[..], &["--entrypoint", "bash", image, "-c", &script]].concat()).await?;
        Ok(Self)
    }

    /// Also that of a test that was cut off.
    async fn end(self) -> anyhow::Result<()> {
        docker(&["rm", "--force", BUSY_NAME]).await.map(drop)
    }
}
