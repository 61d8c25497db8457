//! The routes of MLflow, each with its action.
//!
//! MLflow checks no passports, so the gateway decides about every request by this table and the policies; a request that is
//! not in it is denied to all. Left out on purpose, with all that MLflow adds to them: webhooks, traces, prompts, jobs, the
//! gateway to language models, and signed addresses of the bucket.

use http::Method;

use crate::{
    Action::{self, ReadRegistry, WriteRegistry},
    Caller, DeclaredRoute,
};

/// MLflow's name where a service has its own: as an audience, and as a pool.
pub const AUDIENCE: &str = topology::name::MLFLOW;

/// A longer path is no route.
pub const PATH_BYTES_MAX: usize = 4096;

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct MlflowRoute {
    /// The HTTP method; `HEAD` is `GET`.
    pub method: Method,
    /// The path. `{name}` is one segment, `{*name}` at the end one or more.
    pub path: &'static str,
    /// The action that the policies decide about.
    pub action: Action,
}

const ROUTES: &[MlflowRoute] = &[
    // --- models and their versions ---
    get("/api/2.0/mlflow/registered-models/get"),
    get("/api/2.0/mlflow/registered-models/search"),
    get("/api/2.0/mlflow/registered-models/get-latest-versions"),
    search("/api/2.0/mlflow/registered-models/get-latest-versions"),
    get("/api/2.0/mlflow/registered-models/alias"),
    write(Method::POST, "/api/2.0/mlflow/registered-models/alias"),
    write(Method::DELETE, "/api/2.0/mlflow/registered-models/alias"),
    write(Method::POST, "/api/2.0/mlflow/registered-models/create"),
    write(Method::POST, "/api/2.0/mlflow/registered-models/rename"),
    write(Method::PATCH, "/api/2.0/mlflow/registered-models/update"),
    write(Method::DELETE, "/api/2.0/mlflow/registered-models/delete"),
    write(Method::POST, "/api/2.0/mlflow/registered-models/set-tag"),
    write(Method::DELETE, "/api/2.0/mlflow/registered-models/delete-tag"),
    get("/api/2.0/mlflow/model-versions/get"),
    get("/api/2.0/mlflow/model-versions/search"),
    get("/api/2.0/mlflow/model-versions/get-download-uri"),
    write(Method::POST, "/api/2.0/mlflow/model-versions/create"),
    write(Method::PATCH, "/api/2.0/mlflow/model-versions/update"),
    write(Method::POST, "/api/2.0/mlflow/model-versions/transition-stage"),
    write(Method::DELETE, "/api/2.0/mlflow/model-versions/delete"),
    write(Method::POST, "/api/2.0/mlflow/model-versions/set-tag"),
    write(Method::DELETE, "/api/2.0/mlflow/model-versions/delete-tag"),
    // --- models as runs log them ---
    get("/api/2.0/mlflow/logged-models/{model}"),
    get("/api/2.0/mlflow/logged-models/{model}/artifacts/directories"),
    search("/api/2.0/mlflow/logged-models/search"),
    write(Method::POST, "/api/2.0/mlflow/logged-models"),
    write(Method::PATCH, "/api/2.0/mlflow/logged-models/{model}"),
    write(Method::DELETE, "/api/2.0/mlflow/logged-models/{model}"),
    write(Method::POST, "/api/2.0/mlflow/logged-models/{model}/params"),
    write(Method::PATCH, "/api/2.0/mlflow/logged-models/{model}/tags"),
    write(Method::DELETE, "/api/2.0/mlflow/logged-models/{model}/tags/{tag}"),
    // --- experiments and runs, which artifacts and versions come from ---
    get("/api/2.0/mlflow/experiments/get"),
    get("/api/2.0/mlflow/experiments/get-by-name"),
    get("/api/2.0/mlflow/experiments/search"),
    search("/api/2.0/mlflow/experiments/search"),
    write(Method::POST, "/api/2.0/mlflow/experiments/create"),
    write(Method::POST, "/api/2.0/mlflow/experiments/update"),
    write(Method::POST, "/api/2.0/mlflow/experiments/delete"),
    write(Method::POST, "/api/2.0/mlflow/experiments/restore"),
    write(Method::POST, "/api/2.0/mlflow/experiments/set-experiment-tag"),
    write(Method::POST, "/api/2.0/mlflow/experiments/delete-experiment-tag"),
    get("/api/2.0/mlflow/runs/get"),
    search("/api/2.0/mlflow/runs/search"),
    write(Method::POST, "/api/2.0/mlflow/runs/create"),
    write(Method::POST, "/api/2.0/mlflow/runs/update"),
    write(Method::POST, "/api/2.0/mlflow/runs/delete"),
    write(Method::POST, "/api/2.0/mlflow/runs/restore"),
    write(Method::POST, "/api/2.0/mlflow/runs/log-batch"),
    write(Method::POST, "/api/2.0/mlflow/runs/log-inputs"),
    write(Method::POST, "/api/2.0/mlflow/runs/log-metric"),
    write(Method::POST, "/api/2.0/mlflow/runs/log-model"),
    write(Method::POST, "/api/2.0/mlflow/runs/log-parameter"),
    write(Method::POST, "/api/2.0/mlflow/runs/outputs"),
    write(Method::POST, "/api/2.0/mlflow/runs/set-tag"),
    write(Method::POST, "/api/2.0/mlflow/runs/delete-tag"),
    get("/api/2.0/mlflow/metrics/get-history"),
    get("/api/2.0/mlflow/metrics/get-history-bulk-interval"),
    // --- files ---
    get("/api/2.0/mlflow/artifacts/list"),
    get("/api/2.0/mlflow-artifacts/artifacts"),
    get("/api/2.0/mlflow-artifacts/artifacts/{*path}"),
    write(Method::PUT, "/api/2.0/mlflow-artifacts/artifacts/{*path}"),
    write(Method::DELETE, "/api/2.0/mlflow-artifacts/artifacts/{*path}"),
];

/// The route of a request, if there is one. A path that MLflow could read differently is no route.
pub fn find(method: &Method, path: &str) -> Option<&'static MlflowRoute> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    if path.len() > PATH_BYTES_MAX || !is_plain(path) {
        return None;
    }
    ROUTES.iter().find(|route| route.method == *method && matches(route.path, path))
}

/// The table, for the matrix.
pub fn declared_routes() -> Vec<DeclaredRoute> {
    let declare = |route: &MlflowRoute| DeclaredRoute {
        method: route.method.clone(),
        path: route.path.to_owned(),
        action: route.action,
        caller: Caller::User,
    };
    ROUTES.iter().map(declare).collect()
}

const fn get(path: &'static str) -> MlflowRoute {
    MlflowRoute { method: Method::GET, path, action: ReadRegistry }
}

/// A search: its query is in the body, and it changes nothing.
const fn search(path: &'static str) -> MlflowRoute {
    MlflowRoute { method: Method::POST, path, action: ReadRegistry }
}

const fn write(method: Method, path: &'static str) -> MlflowRoute {
    MlflowRoute { method, path, action: WriteRegistry }
}

fn matches(pattern: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    for wanted in pattern.split('/') {
        if wanted.starts_with("{*") {
            let mut rest = segments.peekable();
            return rest.peek().is_some() && rest.all(|segment| !segment.is_empty());
        }
        let Some(given) = segments.next() else { return false };
        let is_wanted = if wanted.starts_with('{') { !given.is_empty() } else { given == wanted };
        if !is_wanted {
            return false;
        }
    }
    segments.next().is_none()
}

/// No dot segments and no backslash, and no escape of what has a meaning in a path, or of another escape: MLflow decodes
/// what this table does not.
fn is_plain(path: &str) -> bool {
    let is_harmless = |hex: &str| {
        u8::from_str_radix(hex, 16)
            .is_ok_and(|byte| !byte.is_ascii_control() && !matches!(byte, b'/' | b'\\' | b'.' | b'%'))
    };
    let mut escapes = path.match_indices('%');
    escapes.all(|(at, _)| path.get(at + 1..at + 3).is_some_and(is_harmless))
        && !path.contains('\\')
        && !path.split('/').any(|segment| matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(method: Method, path: &str) -> Option<Action> {
        find(&method, path).map(|route| route.action)
    }

    #[test]
    fn a_method_makes_the_difference() {
        let alias = "/api/2.0/mlflow/registered-models/alias";
        assert_eq!(action(Method::GET, alias), Some(ReadRegistry));
        assert_eq!(action(Method::HEAD, alias), Some(ReadRegistry));
        assert_eq!(action(Method::POST, alias), Some(WriteRegistry));
        assert_eq!(action(Method::DELETE, alias), Some(WriteRegistry));
        assert_eq!(action(Method::PUT, alias), None);
        assert_eq!(action(Method::POST, "/api/2.0/mlflow/runs/search"), Some(ReadRegistry));
        assert_eq!(action(Method::GET, "/api/2.0/mlflow/runs/create"), None);
    }

    #[test]
    fn a_parameter_is_one_segment_and_a_file_is_any_number() {
        assert_eq!(action(Method::GET, "/api/2.0/mlflow/logged-models/m-1"), Some(ReadRegistry));
        assert_eq!(action(Method::GET, "/api/2.0/mlflow/logged-models/"), None);
        assert_eq!(action(Method::GET, "/api/2.0/mlflow/logged-models/m-1/more"), None);
        let files = "/api/2.0/mlflow-artifacts/artifacts";
        assert_eq!(action(Method::PUT, &format!("{files}/1/run/model%20two.onnx")), Some(WriteRegistry));
        assert_eq!(action(Method::GET, &format!("{files}/a")), Some(ReadRegistry));
        for path in [files.to_owned(), format!("{files}/"), format!("{files}/a/"), format!("{files}//a")] {
            assert_eq!(action(Method::PUT, &path), None, "{path}");
        }
    }

    #[test]
    fn what_is_not_declared_or_could_be_read_differently_is_no_route() {
        for path in [
            "",
            "/",
            "/health",
            "/version",
            "/api/2.0/mlflow",
            "/api/2.0/mlflow/webhooks",
            "/api/2.0/mlflow/runs/search/",
            "/api/2.0/mlflow/runs%2Fsearch",
            "/api/2.0/mlflow/runs/searc%68",
            "/api/2.0/mlflow-artifacts/mpu/create/a",
            "/api/2.0/mlflow-artifacts/artifacts/../x",
            "/api/2.0/mlflow-artifacts/artifacts/.",
            "/api/2.0/mlflow-artifacts/artifacts/a/%2e%2E/b",
            "/api/2.0/mlflow-artifacts/artifacts/..%2f..%2fx",
            "/api/2.0/mlflow-artifacts/artifacts/a%5cb",
            "/api/2.0/mlflow-artifacts/artifacts/a\\b",
            "/api/2.0/mlflow-artifacts/artifacts/a%00",
            "/api/2.0/mlflow-artifacts/artifacts/a%252e",
            "/api/2.0/mlflow-artifacts/artifacts/a%",
            "/api/2.0/mlflow-artifacts/artifacts/a%+1",
            "/api/2.0/mlflow-artifacts/artifacts/a%zz",
            "/ajax-api/2.0/mlflow/runs/search",
            "/api/3.0/mlflow/server-info",
        ] {
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
                assert_eq!(action(method.clone(), path), None, "{method} {path}");
            }
        }
        let long = format!("/api/2.0/mlflow-artifacts/artifacts/{}", "a".repeat(PATH_BYTES_MAX));
        assert_eq!(action(Method::GET, &long), None);
    }

    #[test]
    fn no_line_hides_another() {
        for (at, route) in ROUTES.iter().enumerate() {
            let example = route.path.replace("{*path}", "a/b").replace(['{', '}'], "");
            let found = ROUTES.iter().position(|other| find(&route.method, &example) == Some(other));
            assert_eq!(found, Some(at), "{} {}", route.method, route.path);
        }
    }
}
