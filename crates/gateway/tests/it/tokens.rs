//! Grants, the tokens they give, and the passports those give.

use authz::{AccessTokenKeys, Clock, PassportKeys};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use policy::{Role, Roles};
use serde_json::json;

use crate::{
    client::password_of,
    world::{ADMIN_PASSWORD, World},
};

/// Every grant gives a token that the published keys verify; a token gives a passport that the services' keys verify.
#[tokio::test]
async fn every_grant_gives_a_token_that_gives_a_passport() {
    let (_world, _gateway, client, admin) = World::begin().await;
    let jwks = client.call(Method::GET, "/.well-known/jwks.json", None, None).await.expect_status(StatusCode::OK);
    assert_eq!(jwks.headers[header::CACHE_CONTROL], "public, max-age=60");
    let keys = AccessTokenKeys::default();
    keys.replace(std::str::from_utf8(&jwks.body).unwrap()).unwrap();
    let now = Clock::system().now();

    let password = client.sign_in("ADMIN", ADMIN_PASSWORD).await.expect_status(StatusCode::OK);
    assert_eq!(password.headers[header::CACHE_CONTROL], "no-store");
    assert_eq!(password.json()["token_type"], "Bearer");
    assert_eq!(password.json()["expires_in"], 600);
    let refresh = json!({ "grant_type": "refresh_token", "refresh_token": password.text("refresh_token") });
    let refreshed = client.token(&refresh).await.expect_status(StatusCode::OK);
    let (machine_id, machine) = client.machine(&admin, "robot", &["analyst"]).await;

    let passports = PassportKeys::default();
    passports.replace(&client.passport_keys().await.unwrap()).unwrap();
    for (token, roles) in [
        (admin, Roles::from(Role::Admin)),
        (password.text("access_token"), Role::Admin.into()),
        (refreshed.text("access_token"), Role::Admin.into()),
        (machine, Role::Analyst.into()),
    ] {
        let claims = keys.verify(&token, now).unwrap();
        assert_eq!(claims.exp - claims.iat, 600);
        let authorized = client.authorize(&token, "serving").await.unwrap();
        let passport = passports.verify(&authorized.passport, "serving", now).unwrap();
        assert!(passport.exp - passport.iat <= 60 && passport.exp <= claims.exp);
        assert_eq!((passport.roles, &passport.sub, &passport.sid), (roles, &claims.sub, &claims.sid));
        assert_eq!(
            (authorized.subject, authorized.session_id, authorized.token_id),
            (claims.sub, claims.sid, claims.jti)
        );
        assert_eq!(authorized.passport_expires_at.unwrap().seconds.unsigned_abs(), passport.exp);
        assert_eq!(authorized.token_expires_at.unwrap().seconds.unsigned_abs(), claims.exp);
        assert!(passports.verify(&authorized.passport, "gateway", now).is_err(), "for one audience only");
    }
    let found =
        client.authorize(&client.sign_in("admin", ADMIN_PASSWORD).await.text("access_token"), "unknown-service").await;
    assert_eq!(found.unwrap_err().code(), tonic::Code::InvalidArgument);
    assert!(!machine_id.is_empty());
}

/// A form, as RFC 6749 has it, is the same as JSON; errors have the code of the RFC inside problem+json.
#[tokio::test]
async fn the_token_endpoint_speaks_rfc_6749_and_rfc_9457() {
    let (_world, _gateway, client, _admin) = World::begin().await;
    let form = |text: String| {
        let body = Bytes::from(text);
        client.send(Method::POST, "/api/auth/token", None, "application/x-www-form-urlencoded", body)
    };
    let password = ADMIN_PASSWORD.replace(' ', "+");
    let good = format!("grant_type=password&username=admin&password={password}&client_id=notebook&scope=ignored");
    form(good).await.expect_status(StatusCode::OK);

    let cases = [
        ("", StatusCode::BAD_REQUEST, "invalid_request", Some("grant_type")),
        ("grant_type=password&username=a", StatusCode::BAD_REQUEST, "invalid_request", Some("password")),
        ("grant_type=password&grant_type=password", StatusCode::BAD_REQUEST, "invalid_request", Some("grant_type")),
        ("grant_type=implicit", StatusCode::BAD_REQUEST, "unsupported_grant_type", Some("grant_type")),
        (
            "grant_type=password&username=a&password=b&client_id=+",
            StatusCode::BAD_REQUEST,
            "invalid_request",
            Some("client_id"),
        ),
        ("grant_type=password&username=admin&password=b", StatusCode::UNAUTHORIZED, "invalid_grant", None),
        ("grant_type=refresh_token&refresh_token=b", StatusCode::UNAUTHORIZED, "invalid_grant", None),
        ("grant_type=client_credentials&client_id=a&client_secret=b", StatusCode::UNAUTHORIZED, "invalid_client", None),
    ];
    for (text, status, code, field) in cases {
        let answer = form(text.to_owned()).await.expect_status(status);
        let body = answer.json();
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
        assert_eq!((body["error"].as_str(), body["field"].as_str()), (Some(code), field), "{text}: {body}");
        assert_eq!(body["status"], status.as_u16());
        assert_eq!(answer.headers.contains_key(header::WWW_AUTHENTICATE), status == StatusCode::UNAUTHORIZED);
    }
}

/// A parameter without a value, or `null` in JSON, is as if it were left out; one that is given twice is refused (RFC 6749 §3.1).
#[tokio::test]
async fn an_empty_parameter_is_absent_and_a_repeated_one_is_refused() {
    let (_world, _gateway, client, _admin) = World::begin().await;
    let send = |content_type: &'static str, text: String| {
        let client = &client;
        async move { client.send(Method::POST, "/api/auth/token", None, content_type, Bytes::from(text)).await }
    };
    let form = |text: String| send("application/x-www-form-urlencoded", text);
    let json = |text: String| send("application/json", text);
    let login = format!("grant_type=password&username=admin&password={}", ADMIN_PASSWORD.replace(' ', "+"));
    form(format!("{login}&client_id=&client_secret=&refresh_token=&scope=")).await.expect_status(StatusCode::OK);
    for absent in ["null", "\"\""] {
        let text = format!(
            r#"{{"grant_type":"password","username":"admin","password":"{ADMIN_PASSWORD}","client_id":{absent},
                "client_secret":{absent},"refresh_token":{absent},"scope":{absent}}}"#
        );
        json(text).await.expect_status(StatusCode::OK);
    }
    let invalid = [
        (form("grant_type=&username=a&password=b".into()).await, "grant_type"),
        (form("grant_type=password&username=admin&password=".into()).await, "password"),
        (form("grant_type=refresh_token&refresh_token=".into()).await, "refresh_token"),
        (form("grant_type=client_credentials&client_id=&client_secret=x".into()).await, "client_id"),
        (json(r#"{"grant_type":null}"#.into()).await, "grant_type"),
        (json(r#"{"grant_type":"refresh_token","refresh_token":""}"#.into()).await, "refresh_token"),
        (form(format!("{login}&client_id=a&client_id=b")).await, "client_id"),
        (form(format!("{login}&client_id=&client_id=")).await, "client_id"),
        (form(format!("{login}&scope=a&scope=a")).await, "scope"),
        (json(r#"{"grant_type":"password","client_id":"a","client_id":"a"}"#.into()).await, "client_id"),
        (json(r#"{"grant_type":"password","client_id":["a"]}"#.into()).await, "client_id"),
    ];
    for (answer, field) in invalid {
        let answer = answer.expect_status(StatusCode::BAD_REQUEST).expect_field(field);
        assert_eq!(answer.text("error"), "invalid_request", "{answer:?}");
    }
}

/// A machine proves itself by `Basic` as by the body, however its client encodes name and secret; what fails has its challenge.
#[tokio::test]
async fn a_client_signs_in_by_basic() {
    const GRANT: &str = "grant_type=client_credentials";
    let (world, _gateway, client, admin) = World::begin().await;
    let user = json!({ "name": "robot+1@x", "kind": "machine", "roles": ["viewer"] });
    let made = client.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await;
    let secret = made.expect_status(StatusCode::CREATED).text("client_secret");
    let basic = |text: String| format!("Basic {}", STANDARD.encode(text));

    for name in ["robot+1@x", "robot%2B1%40x", "ROBOT%2b1@X"] {
        let answer = client.token_with(&basic(format!("{name}:{secret}")), GRANT).await.expect_status(StatusCode::OK);
        assert!(client.is_valid(&answer.text("access_token")).await, "{name}");
    }
    let good = basic(format!("robot+1@x:{secret}"));
    let named = format!("{GRANT}&client_id=robot%2B1%40x");
    for form in [format!("{named}&client_secret={secret}"), named, format!("{GRANT}&client_id=&client_secret=")] {
        client.token_with(&good, &form).await.expect_status(StatusCode::OK);
    }
    for (field, form) in [
        ("client_id", format!("{GRANT}&client_id=another")),
        ("client_secret", format!("{GRANT}&client_secret=another")),
        ("authorization", String::new()),
    ] {
        let header = if field == "authorization" { "Basic !" } else { &good };
        let answer = client.token_with(header, &form).await.expect_status(StatusCode::BAD_REQUEST).expect_field(field);
        assert_eq!(answer.text("error"), "invalid_request");
    }
    for text in ["robot+1@x:wrong", "robot+1@x:", "unknown:wrong", "admin:wrong", "no name at all\n:x"] {
        let answer = client.token_with(&basic(text.to_owned()), GRANT).await.expect_status(StatusCode::UNAUTHORIZED);
        assert_eq!(answer.text("error"), "invalid_client", "{text}");
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Basic realm=\"rampart\", charset=\"UTF-8\"");
    }
    world.wait_for_record("token.client_credentials", "failure", Some("wrong_credential")).await;

    // For the other grants the header only names the client that asks.
    let login = format!("grant_type=password&username=admin&password={}", ADMIN_PASSWORD.replace(' ', "+"));
    let answer = client.token_with(&basic("notebook:".into()), &login).await.expect_status(StatusCode::OK);
    let refresh = format!("grant_type=refresh_token&refresh_token={}", answer.text("refresh_token"));
    let answer = client.token_with(&basic("notebook:".into()), &refresh).await.expect_status(StatusCode::OK);
    let claims = URL_SAFE_NO_PAD.decode(answer.text("access_token").split('.').nth(1).unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&claims).unwrap()["client_id"], "notebook");
    client.token_with("Bearer expired", &login).await.expect_status(StatusCode::OK);
    let wrong = client.token_with("Bearer expired", "grant_type=refresh_token&refresh_token=x").await;
    let challenge = wrong.expect_status(StatusCode::UNAUTHORIZED).headers[header::WWW_AUTHENTICATE].clone();
    assert!(challenge.to_str().unwrap().starts_with("Bearer"), "browsers ask for a password on Basic: {challenge:?}");
}

/// Whatever is wrong with name or password, the response is the same to the byte; the audit log has the reason.
#[tokio::test]
async fn every_failed_proof_gets_the_same_response() {
    let (world, _gateway, client, admin) = World::begin().await;
    let disabled = client.person(&admin, "disabled", &["viewer"]).await;
    let path = format!("/api/admin/users/{disabled}");
    client
        .call(Method::PATCH, &path, Some(&admin), Some(&json!({ "disabled": true })))
        .await
        .expect_status(StatusCode::OK);
    client.machine(&admin, "robot", &["viewer"]).await;

    let mut bodies = std::collections::BTreeSet::new();
    for (name, password) in [
        ("admin", "not the password of admin"),
        ("unknown-name", "not the password of any user"),
        ("no name at all \0", "not the password of any user"),
        ("disabled", &password_of("disabled")),
        ("robot", "robots have no passwords"),
    ] {
        let answer = client.sign_in(name, password).await.expect_status(StatusCode::UNAUTHORIZED);
        bodies.insert(answer.body);
    }
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    for reason in ["wrong_credential", "unknown_user", "disabled_or_changed", "wrong_kind_of_user"] {
        world.wait_for_record("token.password", "failure", Some(reason)).await;
    }
}
