//! What a caller learns about itself, and a client about where to sign in.

use http::{Method, StatusCode, header};
use policy::Role;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{client::password_of, world::World};

const ME: &str = "/api/auth/me";

/// Everyone, with every role and with none, learns name, kind, tenant, roles and the token's end; as they are now, and also while
/// the database hangs.
#[tokio::test]
async fn everyone_reads_their_own_account() {
    let (world, _gateway, client, admin) = World::begin().await;
    let mut tokens = Vec::new();
    for role in Role::ALL {
        let name = format!("machine-{}", role.as_str().replace('_', "-"));
        let (id, token) = client.machine(&admin, &name, &[role.as_str()]).await;
        tokens.push((token, json!({ "id": id, "name": name, "kind": "machine", "tenant": "default", "roles": [role.as_str()], "client_id": name })));
    }
    let person =
        json!({ "name": "Ada", "kind": "person", "tenant": "else", "roles": [], "password": password_of("Ada") });
    let made = client.call(Method::POST, "/api/admin/users", Some(&admin), Some(&person)).await;
    let id = made.expect_status(StatusCode::CREATED).text("id");
    let grant =
        json!({ "grant_type": "password", "username": "ada", "password": password_of("Ada"), "client_id": "notebook" });
    let token = client.token(&grant).await.expect_status(StatusCode::OK).text("access_token");
    let account =
        json!({ "id": id, "name": "Ada", "kind": "person", "tenant": "else", "roles": [], "client_id": "notebook" });
    tokens.push((token.clone(), account));

    let lock = world.lock("gateway.users");
    for (token, expected) in &tokens {
        let answer = client.call(Method::GET, ME, Some(token), None).await.expect_status(StatusCode::OK);
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
        let mut account = answer.json();
        let end = account.as_object_mut().unwrap().remove("token_expires_at").unwrap();
        let end = OffsetDateTime::parse(end.as_str().unwrap(), &Rfc3339).unwrap() - OffsetDateTime::now_utc();
        assert!((540..=600).contains(&end.whole_seconds()), "{end}");
        assert_eq!(account, *expected);
    }
    drop(lock);

    let change = json!({ "roles": ["viewer"] });
    client.call(Method::PATCH, &format!("/api/admin/users/{id}"), Some(&admin), Some(&change)).await;
    let answer = client.call(Method::GET, ME, Some(&token), None).await.expect_status(StatusCode::OK);
    assert_eq!(answer.json()["roles"], json!(["viewer"]), "not what they were when the token was issued");
    client.call(Method::GET, ME, None, None).await.expect_status(StatusCode::UNAUTHORIZED);
    client.call(Method::GET, ME, Some("wrong"), None).await.expect_status(StatusCode::UNAUTHORIZED);
}

/// RFC 8414: what the metadata names is there, under the name that the client has called.
#[tokio::test]
async fn a_client_finds_the_token_endpoint() {
    let (_world, _gateway, client, _admin) = World::begin().await;
    let answer = client.call(Method::GET, "/.well-known/oauth-authorization-server", None, None).await;
    let metadata = answer.expect_status(StatusCode::OK).json();
    let issuer = metadata["issuer"].as_str().unwrap();
    let authority = issuer.strip_prefix("https://").unwrap();
    assert!(!authority.is_empty() && !authority.contains(['/', '?', '#']), "{issuer}");
    let path = |member: &str| metadata[member].as_str().unwrap().strip_prefix(issuer).unwrap();
    client.call(Method::GET, path("jwks_uri"), None, None).await.expect_status(StatusCode::OK);
    for grant_type in metadata["grant_types_supported"].as_array().unwrap() {
        let grant = json!({ "grant_type": grant_type });
        let answer = client.call(Method::POST, path("token_endpoint"), None, Some(&grant)).await;
        assert_eq!(answer.expect_status(StatusCode::BAD_REQUEST).text("error"), "invalid_request", "{grant_type}");
    }
    assert!(metadata.as_object().unwrap().values().all(|value| *value != json!([])), "RFC 8414, 3.2: {metadata}");
    assert_eq!(metadata["response_types_supported"], json!(["none"]));
    let methods = json!(["client_secret_basic", "client_secret_post", "none"]);
    assert_eq!(metadata["token_endpoint_auth_methods_supported"], methods);
}
