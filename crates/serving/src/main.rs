//! `rampart-serving`: one replica of the inference service, and the process that computes a model of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: an engine that speaks to its maker must never be loaded.
    if !engine::onnxruntime_telemetry::is_disabled() {
        return engine::onnxruntime_telemetry::restart_without_telemetry();
    }
    if std::env::args().nth(1).as_deref() == Some(engine::WORKER_SUBCOMMAND) {
        return engine::run_worker();
    }
    if std::env::args().nth(1).as_deref() == Some(serving::inspect::SUBCOMMAND) {
        return serving::inspect::run();
    }
    if std::env::args().nth(1).as_deref() == Some(serving::check_model::SUBCOMMAND) {
        return serving::check_model::run();
    }
    service::run(serving::NAME, serving::DEFAULTS, serving::start)
}
