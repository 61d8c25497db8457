//! Passwords in every way in which the same text can be typed.

use gateway::password::Hasher;
use http::{Method, StatusCode};
use secrets::Secret;
use serde_json::{Value, json};

use crate::world::World;

/// Composed, decomposed, and with other spaces.
const FORMS: [&str; 4] = [
    "gr\u{f6}\u{df}er \u{e5}ngstr\u{f6}m jumps",
    "gro\u{308}\u{df}er a\u{30a}ngstro\u{308}m jumps",
    "gr\u{f6}\u{df}er\u{a0}\u{e5}ngstr\u{f6}m\u{3000}jumps",
    "gro\u{308}\u{df}er\u{2003}\u{e5}ngstro\u{308}m jumps",
];

/// Whichever way a password is typed when it is set and when it is checked, it is the same; what cannot be one says so.
#[tokio::test]
async fn a_password_is_the_same_however_it_is_typed() {
    let (_world, _gateway, client, admin) = World::begin().await;
    for (number, set) in FORMS.iter().enumerate() {
        let name = format!("person-{number}");
        let user = json!({ "name": name, "kind": "person", "roles": [], "password": set });
        let made = client.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await;
        made.expect_status(StatusCode::CREATED);
        for typed in FORMS {
            client.sign_in(&name, typed).await.expect_status(StatusCode::OK);
        }
        let other = FORMS[0].replace('\u{f6}', "o");
        client.sign_in(&name, &other).await.expect_status(StatusCode::UNAUTHORIZED);
    }
    for bad in
        ["", "only spoons\0jump", "only spoons\tjump", "only\u{200b}spoons jump", "o\u{308}o\u{308}o\u{308} x1y2z3 a"]
    {
        let user = json!({ "name": "bad", "kind": "person", "roles": [], "password": bad });
        let refused = client.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await;
        refused.expect_status(StatusCode::BAD_REQUEST).expect_field("password");
    }
}

/// A hash of the text as it was typed, of a version before, still verifies. The login replaces it, also several at once, and ends
/// nothing.
#[tokio::test]
async fn an_older_hash_is_replaced_at_a_login() {
    let (world, _gateway, client, admin) = World::begin().await;
    let [normal, typed, ..] = FORMS;
    let user = json!({ "name": "ada", "kind": "person", "roles": ["viewer"], "password": normal });
    let made = client.call(Method::POST, "/api/admin/users", Some(&admin), Some(&user)).await;
    let path = format!("/api/admin/users/{}", made.expect_status(StatusCode::CREATED).text("id"));
    let before = client.sign_in("ada", normal).await.expect_status(StatusCode::OK).text("access_token");

    let older = Hasher::new(1, 1).unwrap().hash(Secret::new(typed)).await.unwrap();
    let credential = "SELECT credential FROM gateway.users WHERE name = 'ada'";
    let set = format!("UPDATE gateway.users SET credential = '{older}' WHERE name = 'ada'");
    world.postgres.sql(&world.database.name, &set).await;
    let state = client.call(Method::GET, &path, Some(&admin), None).await.headers["etag"].clone();
    client.sign_in("ada", normal).await.expect_status(StatusCode::UNAUTHORIZED);

    let logins = futures::future::join_all((0..4).map(|_| client.sign_in("ada", typed))).await;
    for login in logins {
        login.expect_status(StatusCode::OK);
    }
    let replaced = world.postgres.sql(&world.database.name, credential).await;
    assert!(replaced.contains("$argon2id$") && !replaced.contains(&older), "{replaced}");
    for form in FORMS {
        client.sign_in("ada", form).await.expect_status(StatusCode::OK);
    }
    let stays = world.postgres.sql(&world.database.name, credential).await;
    assert_eq!(stays, replaced, "replaced once");
    assert!(client.is_valid(&before).await, "the password is the same");
    assert_eq!(client.call(Method::GET, &path, Some(&admin), None).await.headers["etag"], state);
    let is_replacement = |record: &&Value| record["details"]["credential"] == "normalised";
    assert_eq!(world.audit_records().await.iter().filter(is_replacement).count(), 1);
}
