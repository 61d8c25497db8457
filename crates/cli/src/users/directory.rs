//! Users by name, page for page.

use anyhow::{Context as _, bail};
use bootstrap::api_path::ApiPath;
use http::Method;
use serde_json::Value;

use super::PATH;
use crate::connection::{Platform, list, text};

/// The longest page that the gateway gives.
const PAGE: &str = "1000";
/// A million users. A front door that always gives a next page must not be followed for ever.
const PAGES_MAX: usize = 1000;

/// Every user.
pub(super) async fn all(platform: &Platform) -> anyhow::Result<Vec<Value>> {
    let mut users = Vec::new();
    let mut path = ApiPath::from(PATH).query("limit", PAGE);
    for _ in 0..PAGES_MAX {
        let page = platform.call(Method::GET, &path, None, "listing the users").await?;
        users.extend(list(&page, "users").cloned());
        match page.get("next_cursor").and_then(Value::as_str) {
            Some(cursor) => path = ApiPath::from(PATH).query("limit", PAGE).query("cursor", cursor),
            None => return Ok(users),
        }
    }
    bail!("there are more users than {PAGES_MAX} pages of {PAGE}")
}

/// The id of a user, if there is one of this name. Upper and lower case are the same, as for the gateway.
pub(crate) async fn id_of(platform: &Platform, name: &str) -> anyhow::Result<Option<String>> {
    let users = all(platform).await?;
    let found = users.iter().find(|user| text(user, "name").eq_ignore_ascii_case(name));
    Ok(found.map(|user| text(user, "id").to_owned()))
}

/// The path of a user that must be there.
pub(super) async fn path_of(platform: &Platform, name: &str) -> anyhow::Result<ApiPath> {
    let id = id_of(platform, name).await?.with_context(|| format!("there is no user {name}"))?;
    ApiPath::from(PATH).segment(&id)
}
