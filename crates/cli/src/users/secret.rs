//! Client secrets are shown once. One that did not arrive is of no use to its owner, and must be of none to others.

use anyhow::{Context as _, bail};
use bootstrap::{api_path::ApiPath, show};
use http::Method;
use serde_json::{Value, json};

use super::PATH;
use crate::{
    connection::{Platform, text},
    output::Output,
};

/// Prints the secret of an account that was just made, or removes the account.
pub(super) async fn show_of_new(platform: &Platform, output: Output, made: &Value) -> anyhow::Result<()> {
    let Err(error) = print(output, made) else { return Ok(()) };
    let (name, path) = (text(made, "name"), ApiPath::from(PATH).segment(text(made, "id"))?);
    let removed = platform.call(Method::DELETE, path, None, "the removal").await;
    removed.with_context(|| {
        format!("the client secret of {name} could not be shown ({error}); remove it: rampart users delete {name}")
    })?;
    bail!("the client secret could not be shown ({error}), so the user {name} was removed again")
}

/// Prints the new secret of an account, or makes it useless by another that is not shown.
pub(super) async fn show_of_changed(
    platform: &Platform,
    output: Output,
    changed: &Value,
    path: &ApiPath,
) -> anyhow::Result<()> {
    let Err(error) = print(output, changed) else { return Ok(()) };
    let (name, body) = (text(changed, "name"), json!({ "new_client_secret": true }));
    let revoked = platform.call(Method::PATCH, path, Some(&body), "the revocation").await;
    revoked.with_context(|| {
        format!("the new client secret of {name} could not be shown ({error}) and is good; make another: rampart users change {name} --new-secret")
    })?;
    bail!("the new client secret could not be shown ({error}), so it was revoked: {name} has none that is known")
}

/// A closed pipe is a failure here: its reader has not seen the secret.
fn print(output: Output, user: &Value) -> std::io::Result<()> {
    if output.is_json() { show(&user.to_string()) } else { show(text(user, "client_secret")) }
}
