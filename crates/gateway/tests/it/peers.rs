//! Which peers may call what, and which tokens are valid.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Method, StatusCode};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tonic::Code;

use crate::{client::Client, world::World};

/// Each service reaches exactly what the gateway's peer list and the policies allow.
#[tokio::test]
async fn a_service_reaches_only_what_it_needs() {
    let (world, gateway, _balancer, admin) = World::begin().await;
    for service in ["serving", "sla", "backup"] {
        let client = Client::new(&world.identity(service), gateway.main);
        assert!(client.passport_keys().await.is_ok(), "{service}");
        assert_eq!(client.authorize(&admin, "serving").await.unwrap_err().code(), Code::PermissionDenied, "{service}");
        client.call(Method::GET, "/.well-known/jwks.json", None, None).await.expect_status(StatusCode::FORBIDDEN);
        assert!(!client.is_serving().await);
    }
    let operator = Client::new(&world.identity("operator"), gateway.main);
    assert!(operator.is_serving().await);
    assert_eq!(operator.passport_keys().await.unwrap_err().code(), Code::PermissionDenied);
    operator.call(Method::POST, "/api/auth/token", None, None).await.expect_status(StatusCode::FORBIDDEN);

    let scrape = Client::new(&world.identity("operator"), gateway.admin);
    let metrics = scrape.call(Method::GET, "/metrics", None, None).await.expect_status(StatusCode::OK);
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    for series in [
        "ml_auth_attempts_total{method=\"refresh_token\",outcome=\"throttled\"} 0",
        "ml_auth_lockouts_total{reason=\"account\"} 0",
        "ml_audit_events_total{kind=\"token.bootstrap\"} 1",
        "ml_audit_write_failures_total 0",
        "ml_audit_chain_verification_failures_total 0",
        "ml_gateway_users 1",
        "ml_auth_duration_seconds_bucket{method=\"password\",le=\"0.1\"}",
        "ml_gateway_memory_age_seconds",
    ] {
        assert!(metrics.contains(series), "no {series} in\n{metrics}");
    }
}

struct Forger {
    key: EncodingKey,
    header: Value,
    claims: Value,
}

impl Forger {
    /// A token like the valid one, with another header and other claims, signed with the gateway's own key.
    fn forge(&self, header: Value, claims: Value) -> String {
        let merged = |base: &Value, over: Value| {
            let mut merged = base.as_object().unwrap().clone();
            merged.extend(over.as_object().unwrap().clone());
            merged.retain(|_, value| !value.is_null());
            Value::from(merged).to_string()
        };
        self.sign(&merged(&self.header, header), &merged(&self.claims, claims))
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, Algorithm::EdDSA).unwrap();
        format!("{message}.{signature}")
    }
}

fn part(token: &str, index: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
}

/// No altered token is exchanged for a passport; the same token built correctly is.
#[tokio::test]
async fn only_a_valid_token_gets_a_passport() {
    let (world, _gateway, client, good) = World::begin().await;
    let key = EncodingKey::from_ed_pem(world.secret("access.pem").as_bytes()).unwrap();
    let forger = Forger { key, header: part(&good, 0), claims: part(&good, 1) };
    assert!(client.is_valid(&forger.forge(json!({}), json!({}))).await, "a correctly built token is valid");

    let now = forger.claims["iat"].as_u64().unwrap();
    let mut tokens: Vec<(&str, String)> = vec![
        ("empty", String::new()),
        ("no jwt", "abc".into()),
        ("two parts", "a.b".into()),
        ("four parts", format!("{good}.x")),
        ("unicode", "ä.ö.ü".into()),
        ("over 4 KiB", format!("{good}{}", "A".repeat(4_096))),
        ("truncated", good[..good.len() - 4].to_owned()),
        ("padded", format!("{good}==")),
        ("expired", forger.forge(json!({}), json!({ "iat": now - 601, "nbf": now - 601, "exp": now - 1 }))),
        ("without exp", forger.forge(json!({}), json!({ "exp": null }))),
        ("for ever", forger.forge(json!({}), json!({ "exp": now + 86_400 }))),
        ("not yet", forger.forge(json!({}), json!({ "nbf": now + 300 }))),
        ("from the future", forger.forge(json!({}), json!({ "iat": now + 300, "exp": now + 600 }))),
        ("another issuer", forger.forge(json!({}), json!({ "iss": "another" }))),
        ("another audience", forger.forge(json!({}), json!({ "aud": "serving" }))),
        ("many audiences", forger.forge(json!({}), json!({ "aud": ["rampart", "serving"] }))),
        ("another type", forger.forge(json!({ "typ": "JWT" }), json!({}))),
        ("a passport's type", forger.forge(json!({ "typ": "passport+jwt" }), json!({}))),
        ("no type", forger.forge(json!({ "typ": null }), json!({}))),
        ("no kid", forger.forge(json!({ "kid": null }), json!({}))),
        ("traversal in the kid", forger.forge(json!({ "kid": "../../etc/passwd" }), json!({}))),
        ("sql in the kid", forger.forge(json!({ "kid": "' OR 1=1 --" }), json!({}))),
        ("critical extension", forger.forge(json!({ "crit": ["b64"], "b64": false }), json!({}))),
        ("the id of no user", forger.forge(json!({}), json!({ "sub": uuid::Uuid::new_v4() }))),
        ("no id", forger.forge(json!({}), json!({ "sub": "admin" }))),
        ("a version to come", forger.forge(json!({}), json!({ "ver": 999 }))),
        ("a version before the first", forger.forge(json!({}), json!({ "ver": 0 }))),
        ("the passport itself", client.authorize(&good, "gateway").await.unwrap().passport),
    ];
    tokens.extend(other_algorithms(&world, &forger));
    tokens.push(("other claims under the signature", {
        let mut claims = forger.claims.clone();
        claims["roles"] = json!(["admin", "engineer"]);
        let parts: Vec<&str> = good.split('.').collect();
        format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2])
    }));
    let twice = forger.claims.to_string().replacen('{', &format!("{{\"sub\":\"{}\",", uuid::Uuid::new_v4()), 1);
    tokens.push(("a claim twice", forger.sign(&forger.header.to_string(), &twice)));
    for (what, token) in &tokens {
        let status = client.authorize(token, "gateway").await.expect_err(what);
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status}");
        assert_eq!(status.message(), "the token is not valid, or no longer", "{what}");
    }
    assert!(client.is_valid(&good).await);
    let record = world.wait_for_record("token.authorize", "failure", Some("bad_signature")).await;
    assert_eq!(record["actor"], json!({ "type": "anonymous" }), "a foreign token says nothing about a user");
    let record = world.wait_for_record("token.authorize", "failure", Some("expired")).await;
    assert_eq!((&record["actor"]["id"], &record["actor"]["session"]), (&forger.claims["sub"], &forger.claims["sid"]));
}

/// Other keys and other algorithms, the gateway's own keys misused among them.
fn other_algorithms(world: &World, forger: &Forger) -> Vec<(&'static str, String)> {
    let foreign = authz::generate_pkcs8_pem().unwrap();
    let foreign = Forger {
        key: EncodingKey::from_ed_pem(foreign.as_bytes()).unwrap(),
        header: forger.header.clone(),
        claims: forger.claims.clone(),
    };
    let passport_key = EncodingKey::from_ed_pem(world.secret("passport.pem").as_bytes()).unwrap();
    let passport = Forger { key: passport_key, header: forger.header.clone(), claims: forger.claims.clone() };
    let unsigned = |algorithm: &str| {
        let mut header = forger.header.clone();
        header["alg"] = json!(algorithm);
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", encode(&header), encode(&forger.claims))
    };
    let mut header = Header::new(Algorithm::HS256);
    header.typ = Some("at+jwt".into());
    header.kid = forger.header["kid"].as_str().map(str::to_owned);
    let public = authz::SigningKey::from_pkcs8_pem(&world.secret("access.pem")).unwrap();
    let jwks = authz::jwks_json(&[public.public().clone()]);
    let x = serde_json::from_str::<Value>(&jwks).unwrap()["keys"][0]["x"].as_str().unwrap().to_owned();
    let hmac =
        |secret: &[u8]| jsonwebtoken::encode(&header, &forger.claims, &EncodingKey::from_secret(secret)).unwrap();
    let jku = json!({ "kid": "mine", "jku": "https://evil.example/jwks.json", "jwk": { "kty": "OKP" } });
    vec![
        ("none", unsigned("none")),
        ("None", unsigned("None")),
        ("EdDSA without signature", unsigned("EdDSA")),
        ("HS256 with the public key", hmac(&URL_SAFE_NO_PAD.decode(&x).unwrap())),
        ("HS256 with the public key's text", hmac(x.as_bytes())),
        ("HS256 with nothing", hmac(b"")),
        ("RS256 by name", unsigned("RS256")),
        ("ES256 by name", unsigned("ES256")),
        ("a foreign key under the gateway's kid", foreign.forge(json!({}), json!({}))),
        ("a foreign key under its own name", foreign.forge(jku, json!({}))),
        ("the key of passports", passport.forge(json!({}), json!({}))),
    ]
}
