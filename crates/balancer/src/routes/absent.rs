//! What clients of other servers look for, and what they are told: what is not here, and what is in its place.

use super::path::is_below;

const UNKNOWN: &str = "there is nothing at this path";
/// KServe v1 and MLflow's scoring server.
const PREDICTIONS: &str = "there is nothing at this path: /api/models/{model}/predict takes records by feature name, and \
    /v2/models/{model}/infer tensors";
const WEB_INTERFACE: &str = "MLflow's web interface is not offered here: its clients, `rampart models` and GET /v2/repository/index \
    show the models";
const TRACES: &str = "MLflow's traces are not offered here; runs, models and artifacts are";
const WEBHOOKS: &str = "MLflow's webhooks are not offered here: POST /v2/repository/index says what serves";
const PROMPTS: &str =
    "MLflow's prompts and its gateway to language models are not offered here; runs, models and artifacts are";

const ABSENT: &[(&str, &str)] = &[
    ("/v1/models", PREDICTIONS),
    ("/invocations", PREDICTIONS),
    ("/ajax-api", WEB_INTERFACE),
    ("/static-files", WEB_INTERFACE),
    ("/get-artifact", WEB_INTERFACE),
    ("/graphql", WEB_INTERFACE),
    ("/api/2.0/mlflow/webhooks", WEBHOOKS),
    ("/api/2.0/mlflow/traces", TRACES),
    ("/api/3.0/mlflow/traces", TRACES),
    ("/v1/traces", TRACES),
    ("/api/2.0/mlflow/prompts", PROMPTS),
    ("/api/2.0/mlflow/gateway-proxy", PROMPTS),
];

/// All of them, with what is said there.
pub(super) fn all() -> &'static [(&'static str, &'static str)] {
    ABSENT
}

/// What is said of a path that has no route.
pub(super) fn message(path: &str) -> &'static str {
    find(path).unwrap_or(UNKNOWN)
}

/// Whether the path is one of these, whatever route it is below.
pub(super) fn is_absent(path: &str) -> bool {
    find(path).is_some()
}

fn find(path: &str) -> Option<&'static str> {
    let prefix = |(prefix, _): &&(&str, &str)| is_below(path, prefix);
    ABSENT.iter().find(prefix).map(|(_, message)| *message)
}
