//! The smallest service: one listener, one latch, one task. The tests of this crate run it as a process and tell it what to
//! do by files, whose names are the latch to open (`open`), the answer to give (`answer`) and the way to fail (`panic`,
//! `fail`).

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use serde::Deserialize;
use service::{BoxError, Configuration, Fault, Lifecycle};
use transport::{Limits, ListenConfig, Server};

const DEFAULTS: &str = r#"
[listen]
address = "127.0.0.1:0"
peers = { "/" = ["balancer"] }
[work]
directory = "work"
size = 1
"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    listen: ListenConfig,
    work: Work,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Work {
    directory: PathBuf,
    size: NonZeroU32,
}

fn main() -> ExitCode {
    service::run::<Config>("smallest", DEFAULTS, start)
}

#[expect(clippy::panic, reason = "what a panic does is what is tested")]
async fn start(config: Config, lifecycle: Lifecycle) -> Result<(), BoxError> {
    let work = config.work;
    tracing::info!(size = work.size, "the size of the work");
    if work.directory.join("fail").exists() {
        return Err("there was a file that says so".into());
    }
    let server = Server::bind(&config.listen, lifecycle.identity(), Limits::default()).await?;
    lifecycle.listening("smallest", server.local_addr());
    lifecycle.spawn_critical("listener", server.serve(router(work.clone()), lifecycle.soft_stop()));

    let latch = lifecycle.latch("work");
    let stop = lifecycle.soft_stop();
    lifecycle.spawn("work", async move {
        let opened = stop.run_until_cancelled(work.wait_for("open")).await;
        if opened.is_some() {
            latch.open();
        }
        let _stopped =
            stop.run_until_cancelled(work.wait_for("panic")).await.map(|()| panic!("there was a file that says so"));
    });
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "an example of this crate alone; a service uses `authz::Routes`")]
fn router(work: Work) -> Router {
    let slow = move || async move {
        tracing::info!("the slow answer is waited for");
        work.wait_for("answer").await;
        "answered"
    };
    Router::new().route("/slow", get(slow)).route("/fast", get(async || "OK")).layer(telemetry::http_layer())
}

// === impl Configuration for Config ===

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let is_too_large = self.work.size.get() > 100;
        if is_too_large { vec![Fault::new("work.size", "must not be more than 100")] } else { Vec::new() }
    }
}

// === impl Work ===

impl Work {
    async fn wait_for(&self, file: &str) {
        while !self.directory.join(file).exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
