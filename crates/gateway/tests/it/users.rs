//! Users: created, listed, altered, deleted, and the effect on their tokens.

use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    client::{Client, TestResponse, password_of},
    world::World,
};

async fn patch(client: &Client, admin: &str, id: &str, change: Value) -> TestResponse {
    client.call(Method::PATCH, &format!("/api/admin/users/{id}"), Some(admin), Some(&change)).await
}

/// A user is what it was made as, and what is absent from a change stays.
#[tokio::test]
async fn a_user_is_made_read_altered_and_removed() {
    let (_world, _gateway, client, admin) = World::begin().await;
    let user = json!({ "name": "Ada.L", "kind": "person", "tenant": "research", "roles": ["analyst", "auditor"], "password": password_of("ada") });
    let made = client.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await;
    let made = made.expect_status(StatusCode::CREATED);
    let (id, body) = (made.text("id"), made.json());
    let path = format!("/api/admin/users/{id}");
    assert_eq!(made.headers[header::LOCATION], path.as_str());
    assert_eq!(body["roles"], json!(["analyst", "auditor"]));
    assert!(body.get("client_secret").is_none() && body.get("password").is_none() && body.get("credential").is_none());

    let changed =
        patch(&client, &admin, &id, json!({ "roles": ["viewer"] })).await.expect_status(StatusCode::OK).json();
    assert_eq!(
        (&changed["roles"], &changed["tenant"], &changed["name"]),
        (&json!(["viewer"]), &json!("research"), &json!("Ada.L"))
    );
    let read = client.call(Method::GET, &path, Some(&admin), None).await.expect_status(StatusCode::OK);
    assert_eq!(read.json(), changed);

    let same = json!({ "name": "ada.l", "kind": "machine", "roles": [] });
    let taken = client.call(Method::POST, "/api/admin/users", Some(&admin), Some(&same)).await;
    taken.expect_status(StatusCode::CONFLICT).expect_field("name");

    client.call(Method::DELETE, &path, Some(&admin), None).await.expect_status(StatusCode::NO_CONTENT);
    for method in [Method::GET, Method::DELETE] {
        client.call(method, &path, Some(&admin), None).await.expect_status(StatusCode::NOT_FOUND);
    }
    patch(&client, &admin, &id, json!({ "disabled": true })).await.expect_status(StatusCode::NOT_FOUND);
}

/// Who has read a user changes that state of it and no other: every change gives it another `ETag`, and one that no longer fits
/// changes nothing and is recorded.
#[tokio::test]
async fn a_user_is_changed_only_as_it_was_read() {
    let (world, _gateway, client, admin) = World::begin().await;
    let (id, _) = client.machine(&admin, "robot", &["viewer"]).await;
    let path = format!("/api/admin/users/{id}");
    let tag = |answer: &TestResponse| answer.headers[header::ETAG].to_str().unwrap().to_owned();
    let read = async || client.call(Method::GET, &path, Some(&admin), None).await.expect_status(StatusCode::OK);
    let mut tags = vec![tag(&read().await)];
    assert_eq!(tag(&read().await), tags[0], "reading changes nothing");

    // The last two say what is so already.
    let changes = [
        json!({ "roles": ["analyst"] }),
        json!({ "tenant": "research" }),
        json!({ "new_client_secret": true }),
        json!({ "disabled": true }),
        json!({ "disabled": false }),
        json!({ "disabled": false }),
        json!({ "roles": ["analyst"] }),
    ];
    for change in &changes {
        let fitting = client.if_match(&format!("\"other\", {}", tags.last().unwrap()));
        let changed = patch(&fitting, &admin, &id, change.clone()).await.expect_status(StatusCode::OK);
        assert_eq!(tag(&changed), tag(&read().await), "{change}");
        assert!(!tags.contains(&tag(&changed)), "{change}");
        tags.push(tag(&changed));
    }
    let revoke = format!("{path}/revoke");
    client.call(Method::POST, &revoke, Some(&admin), None).await.expect_status(StatusCode::NO_CONTENT);
    let before = read().await;
    assert!(!tags.contains(&tag(&before)));

    for outdated in [tags.last().unwrap(), &format!("W/{}", tag(&before))] {
        let late = client.if_match(outdated);
        let refused = patch(&late, &admin, &id, json!({ "roles": ["admin"] })).await;
        let refused = refused.expect_status(StatusCode::PRECONDITION_FAILED);
        assert_eq!(refused.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(refused.json()["type"], "urn:rampart:problem:precondition-failed");
        let refused = late.call(Method::DELETE, &path, Some(&admin), None).await;
        refused.expect_status(StatusCode::PRECONDITION_FAILED);
        let refused = late.call(Method::POST, &revoke, Some(&admin), None).await;
        refused.expect_status(StatusCode::PRECONDITION_FAILED);
    }
    assert_eq!((read().await.json(), tag(&read().await)), (before.json(), tag(&before)), "nothing was changed");
    world.wait_for_record("user.change", "failure", Some("user_changed")).await;

    let wrong = patch(&client.if_match("no quotes"), &admin, &id, json!({ "disabled": true })).await;
    wrong.expect_status(StatusCode::BAD_REQUEST).expect_field("If-Match");
    let any = client.if_match("*");
    patch(&any, &admin, &id, json!({ "disabled": true })).await.expect_status(StatusCode::OK);
    let gone = client.if_match(&tag(&read().await)).call(Method::DELETE, &path, Some(&admin), None).await;
    gone.expect_status(StatusCode::NO_CONTENT);
    patch(&any, &admin, &id, json!({ "disabled": true })).await.expect_status(StatusCode::NOT_FOUND);
}

/// Two who have read the same state: the change of one of them is made.
#[tokio::test]
async fn of_two_changes_of_one_state_one_is_made() {
    let (_world, _gateway, client, admin) = World::begin().await;
    let (id, _) = client.machine(&admin, "robot", &["viewer"]).await;
    let read = client.call(Method::GET, &format!("/api/admin/users/{id}"), Some(&admin), None).await;
    let client = client.if_match(read.headers[header::ETAG].to_str().unwrap());
    let (one, other) = tokio::join!(
        patch(&client, &admin, &id, json!({ "roles": ["analyst"] })),
        patch(&client, &admin, &id, json!({ "roles": ["engineer"] })),
    );
    let mut statuses = [one.status, other.status];
    statuses.sort();
    assert_eq!(statuses, [StatusCode::OK, StatusCode::PRECONDITION_FAILED]);
}

/// A list goes through all users by name, whatever the page size.
#[tokio::test]
async fn a_list_is_read_page_by_page() {
    let (_world, _gateway, client, admin) = World::begin().await;
    for name in ["Zoe", "bob", "Carl", "alice"] {
        client.machine(&admin, name, &[]).await;
    }
    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/admin/users?limit=2{cursor}");
        let page = client.call(Method::GET, &path, Some(&admin), None).await.expect_status(StatusCode::OK).json();
        let users = page["users"].as_array().unwrap();
        assert!(users.len() <= 2);
        names.extend(users.iter().map(|user| user["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(names, ["admin", "alice", "bob", "Carl", "Zoe"]);
}

/// Other roles count at once for a token that was given before, and a new proof ends the old one's tokens and logins.
#[tokio::test]
async fn a_change_reaches_the_tokens_that_were_given_before() {
    let (_world, _gateway, client, admin) = World::begin().await;
    let (id, token) = client.machine(&admin, "robot", &["admin"]).await;
    client.call(Method::GET, "/api/admin/users", Some(&token), None).await.expect_status(StatusCode::OK);
    patch(&client, &admin, &id, json!({ "roles": ["viewer"] })).await.expect_status(StatusCode::OK);
    client.call(Method::GET, "/api/admin/users", Some(&token), None).await.expect_status(StatusCode::FORBIDDEN);

    let secret = patch(&client, &admin, &id, json!({ "new_client_secret": true })).await;
    let secret = secret.expect_status(StatusCode::OK).text("client_secret");
    assert!(!client.is_valid(&token).await, "a token of the old secret");
    let grant = json!({ "grant_type": "client_credentials", "client_id": "robot", "client_secret": secret });
    let token = client.token(&grant).await.expect_status(StatusCode::OK).text("access_token");
    assert!(client.is_valid(&token).await);

    let ada = client.person(&admin, "ada", &["viewer"]).await;
    for change in [json!({ "password": "another long password" }), json!({ "disabled": true })] {
        let password =
            if change.get("password").is_some() { password_of("ada") } else { "another long password".into() };
        let login = client.sign_in("ada", &password).await.expect_status(StatusCode::OK);
        patch(&client, &admin, &ada, change).await.expect_status(StatusCode::OK);
        assert!(!client.is_valid(&login.text("access_token")).await);
        let refresh = json!({ "grant_type": "refresh_token", "refresh_token": login.text("refresh_token") });
        client.token(&refresh).await.expect_status(StatusCode::UNAUTHORIZED);
        client.sign_in("ada", &password).await.expect_status(StatusCode::UNAUTHORIZED);
    }
    patch(&client, &admin, &ada, json!({ "disabled": false })).await.expect_status(StatusCode::OK);
    client.sign_in("ada", "another long password").await.expect_status(StatusCode::OK);
}

/// A machine that signs in again and again is told to keep its token; another machine signs in as before.
#[tokio::test]
async fn a_machine_signs_in_only_so_often() {
    let (_world, _gateway, client, admin) = World::begin().await;
    let (id, _) = client.machine(&admin, "robot", &["viewer"]).await;
    let secret = patch(&client, &admin, &id, json!({ "new_client_secret": true })).await;
    let secret = secret.expect_status(StatusCode::OK).text("client_secret");
    let grant = json!({ "grant_type": "client_credentials", "client_id": "robot", "client_secret": secret });
    // As fast as it can, one after the other: more at once wait for another reason.
    let mut issued = 0;
    let refused = loop {
        let answer = client.token(&grant).await;
        if answer.status != StatusCode::OK {
            break answer;
        }
        issued += 1;
        assert!(issued < 2_000, "no rate in sight");
    };
    assert!(issued >= 50, "{issued} were issued");
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(
        refused.headers.contains_key("retry-after") && String::from_utf8_lossy(&refused.body).contains("too often")
    );
    client.machine(&admin, "other", &["viewer"]).await;
}

/// With other roles the session goes on: the refresh token works and the next token has the new roles.
#[tokio::test]
async fn other_roles_do_not_end_the_session() {
    let (_world, _gateway, client, admin) = World::begin().await;
    let id = client.person(&admin, "ada", &["viewer"]).await;
    let login = client.sign_in("ada", &password_of("ada")).await;
    patch(&client, &admin, &id, json!({ "roles": ["admin"] })).await.expect_status(StatusCode::OK);
    let refresh = json!({ "grant_type": "refresh_token", "refresh_token": login.text("refresh_token") });
    let token = client.token(&refresh).await.expect_status(StatusCode::OK).text("access_token");
    client.call(Method::GET, "/api/admin/users", Some(&token), None).await.expect_status(StatusCode::OK);
}

/// The last administrator can be neither removed, nor disabled, nor made something else; with another one, it can.
#[tokio::test]
async fn there_is_always_an_administrator() {
    let (_world, _gateway, client, admin) = World::begin().await;
    let page = client.call(Method::GET, "/api/admin/users", Some(&admin), None).await.json();
    let id = page["users"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/admin/users/{id}");
    let (second, _) = client.machine(&admin, "second", &["admin"]).await;
    patch(&client, &admin, &second, json!({ "disabled": true })).await.expect_status(StatusCode::OK);
    for change in [json!({ "disabled": true }), json!({ "roles": ["viewer"] }), json!({ "roles": [] })] {
        patch(&client, &admin, &id, change).await.expect_status(StatusCode::CONFLICT);
    }
    client.call(Method::DELETE, &path, Some(&admin), None).await.expect_status(StatusCode::CONFLICT);
    assert!(client.is_valid(&admin).await);

    patch(&client, &admin, &second, json!({ "disabled": false })).await.expect_status(StatusCode::OK);
    client.call(Method::DELETE, &path, Some(&admin), None).await.expect_status(StatusCode::NO_CONTENT);
    assert!(!client.is_valid(&admin).await);
}

/// Two administrators who remove each other at once: one of them stays.
#[tokio::test]
async fn two_administrators_cannot_remove_each_other() {
    let (_world, _gateway, client, first) = World::begin().await;
    let page = client.call(Method::GET, "/api/admin/users", Some(&first), None).await.json();
    let first_id = page["users"][0]["id"].as_str().unwrap().to_owned();
    let (second_id, second) = client.machine(&first, "second", &["admin"]).await;
    let demote = json!({ "roles": [] });
    let (one, other) = tokio::join!(
        patch(&client, &first, &second_id, demote.clone()),
        patch(&client, &second, &first_id, demote.clone()),
    );
    let done = [&one, &other].iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!(done, 1, "{one:?} {other:?}");
}

/// A user without the role is refused on every route of users, and recorded.
#[tokio::test]
async fn denied_requests_are_refused_and_recorded() {
    let (world, _gateway, client, admin) = World::begin().await;
    let (id, viewer) =
        client.machine(&admin, "viewer", &["viewer", "analyst", "engineer", "operator", "privacy_officer"]).await;
    let path = format!("/api/admin/users/{id}");
    let revoke = format!("{path}/revoke");
    for (method, path) in [
        (Method::GET, "/api/admin/users"),
        (Method::POST, "/api/admin/users"),
        (Method::GET, &path),
        (Method::PATCH, &path),
        (Method::DELETE, &path),
        (Method::POST, &revoke),
        (Method::GET, "/api/admin/audit"),
    ] {
        let body = json!({});
        client.call(method.clone(), path, Some(&viewer), Some(&body)).await.expect_status(StatusCode::FORBIDDEN);
        client.call(method, path, None, Some(&body)).await.expect_status(StatusCode::UNAUTHORIZED);
    }
    let denied = world.wait_for_record("access", "denied", Some("not_permitted")).await;
    assert_eq!(denied["actor"]["id"], id);
    assert_eq!(denied["source"]["address"], "192.0.2.1");
    assert!(denied["resource"].as_str().unwrap().contains("/api/admin/"), "{denied}");
    world.wait_for_record("access", "failure", Some("not_authenticated")).await;
}
