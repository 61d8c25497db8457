//! Pages of other origins: let in by name, and only if the configuration has a name.

use http::{HeaderMap, Method, StatusCode};
use policy::Role;
use reqwest::RequestBuilder;
use serde_json::Value;

use crate::world::Platform;

const PAGE: &str = "https://notebook.example";
const STRANGER: &str = "https://evil.example";

fn preflight(platform: &Platform, origin: &str, path: &str) -> RequestBuilder {
    platform
        .client
        .request(Method::OPTIONS, platform.url(path))
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type")
}

fn allowed(headers: &HeaderMap) -> Option<&str> {
    assert!(!headers.contains_key("access-control-allow-credentials"));
    headers.get("access-control-allow-origin").map(|origin| origin.to_str().unwrap())
}

fn vary(headers: &HeaderMap) -> String {
    headers.get_all("vary").iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(", ")
}

/// A preflight is answered without a token and without a replica; answers to the page are readable for it, good and bad ones.
#[tokio::test]
async fn a_page_of_an_allowed_origin_may_call() {
    let platform = Platform::start_with(1, &format!("cors.allowed_origins = [{PAGE:?}]")).await;
    platform.gateway.grant("good", Role::Analyst);

    let response = preflight(&platform, PAGE, "/v2/models/m/infer").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let headers = response.headers();
    assert_eq!(allowed(headers), Some(PAGE));
    assert_eq!(headers["access-control-max-age"], "600");
    assert!(headers["access-control-allow-methods"].to_str().unwrap().contains("POST"));
    assert!(headers["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
    assert!(vary(headers).contains("Origin") && vary(headers).contains("Access-Control-Request-Headers"));
    assert!(!headers.contains_key("content-length"), "RFC 9110, 8.6");
    assert_eq!(platform.serving[0].seen.count(), 0);

    // What the replica says of origins is not for browsers, and the origin is not for the replica.
    let call = platform.client.post(platform.url("/v2/cors/echo")).bearer_auth("good").header("origin", PAGE).body("x");
    let response = call.send().await.unwrap();
    assert_eq!((response.status(), allowed(response.headers())), (StatusCode::OK, Some(PAGE)));
    assert_eq!(response.headers().get_all("access-control-allow-origin").iter().count(), 1);
    assert!(response.headers()["access-control-expose-headers"].to_str().unwrap().contains("retry-after"));
    assert_eq!(vary(response.headers()), "Origin");
    let echo: Value = response.json().await.unwrap();
    assert_eq!((&echo["body"], &echo["headers"]["origin"]), (&"x".into(), &Value::Null));

    for (path, token, status) in [
        ("/v2/models/m/infer", "unknown", StatusCode::UNAUTHORIZED),
        ("/nothing", "good", StatusCode::NOT_FOUND),
        ("/health", "good", StatusCode::OK),
    ] {
        let response = platform.client.get(platform.url(path)).bearer_auth(token).header("origin", PAGE);
        let response = response.send().await.unwrap();
        assert_eq!((response.status(), allowed(response.headers())), (status, Some(PAGE)), "{path}");
    }
    let unknown = preflight(&platform, PAGE, "/nothing").send().await.unwrap();
    assert_eq!((unknown.status(), allowed(unknown.headers())), (StatusCode::NOT_FOUND, Some(PAGE)));
}

/// Others get what they got without CORS, and caches are told that the origin matters.
#[tokio::test]
async fn a_page_of_another_origin_may_not() {
    let platform = Platform::start_with(1, &format!("cors.allowed_origins = [{PAGE:?}]")).await;
    for origin in
        [STRANGER, "null", "https://notebook.example:8443", "http://notebook.example", "HTTPS://NOTEBOOK.EXAMPLE"]
    {
        let before = platform.serving[0].seen.count();
        let response = preflight(&platform, origin, "/v2/echo").send().await.unwrap();
        assert_eq!(platform.serving[0].seen.count(), before + 1, "{origin}: a request like any other");
        assert_eq!((allowed(response.headers()), vary(response.headers())), (None, "Origin".to_owned()), "{origin}");
        let get = platform.client.get(platform.url("/v2/cors/echo")).header("origin", origin).send().await.unwrap();
        assert_eq!((allowed(get.headers()), vary(get.headers())), (None, "Origin".to_owned()), "{origin}");
    }
    let twice = platform.client.get(platform.url("/v2/echo")).header("origin", PAGE).header("origin", STRANGER);
    assert_eq!(allowed(twice.send().await.unwrap().headers()), None);
    let none = platform.get("/v2/echo").await;
    assert_eq!((allowed(none.headers()), vary(none.headers())), (None, "Origin".to_owned()));
}

/// Off as delivered: nothing is said of origins, whatever a replica says.
#[tokio::test]
async fn without_a_named_origin_no_page_may_call() {
    let platform = Platform::start(1).await;
    let response = preflight(&platform, PAGE, "/v2/cors/echo").send().await.unwrap();
    assert_eq!(platform.serving[0].seen.count(), 1);
    assert_eq!((allowed(response.headers()), vary(response.headers())), (None, String::new()));
    let health = platform.client.get(platform.url("/health")).header("origin", PAGE).send().await.unwrap();
    assert_eq!((allowed(health.headers()), vary(health.headers())), (None, String::new()));
}
