//! Grants, the tokens they give, and the passports those give.

use authz::{AccessTokenKeys, Clock, PassportKeys};
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
