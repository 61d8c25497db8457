//! `rampart users change`: what is not named stays as it is, and what another has changed meanwhile is not overwritten.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::ensure;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{ADMIN, directory, line, secret};
use crate::{
    connection::{Connection, list},
    output::Output,
    password,
};

/// Options of `rampart users change`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
    /// The name.
    name: String,
    #[command(flatten)]
    changes: Changes,
}

/// What is to be changed.
#[derive(clap::Args)]
#[group(required = true, multiple = true)]
struct Changes {
    /// All the roles that the user shall have; may be given more than once.
    #[arg(long = "role", value_name = "ROLE", conflicts_with_all = ["add_roles", "remove_roles"])]
    roles: Vec<String>,
    /// A role that the user shall have, too.
    #[arg(long = "add-role", value_name = "ROLE")]
    add_roles: Vec<String>,
    /// A role that the user shall no longer have.
    #[arg(long = "remove-role", value_name = "ROLE")]
    remove_roles: Vec<String>,
    /// The new tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// A new password, asked for on a terminal, or read from standard input.
    #[arg(long, conflicts_with = "password_file")]
    password: bool,
    /// A file with the new password.
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// The user may no longer sign in.
    #[arg(long, conflicts_with = "enable")]
    disable: bool,
    /// The user may sign in again.
    #[arg(long)]
    enable: bool,
    /// A new client secret for a machine, printed once; if it cannot be, it is revoked.
    #[arg(long)]
    new_secret: bool,
}

/// Changes the user as it was when it was read, or not at all.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { connection, output, name, changes } = arguments;
    let platform = connection.open(ADMIN)?;
    let path = directory::path_of(&platform, &name).await?;
    let present = platform.send(Method::GET, &path, None, None).await?;
    let (etag, user) = (present.etag.clone(), present.expect_success(&format!("reading the user {name}"))?);
    let body = Value::Object(changes.body(&name, &user)?);
    let answer = platform.send(Method::PATCH, &path, Some(&body), etag.as_ref()).await?;
    ensure!(
        answer.status != StatusCode::PRECONDITION_FAILED,
        "{name} was changed by another meanwhile, and nothing by this command: look, and try again"
    );
    let changed = answer.expect_success(&format!("changing the user {name}"))?;
    if changed.get("client_secret").is_some_and(Value::is_string) {
        return secret::show_of_changed(&platform, output, &changed, &path).await;
    }
    output.fact(&line(&changed), &changed);
    Ok(())
}

// === impl Changes ===

impl Changes {
    /// The body that asks for them.
    fn body(&self, name: &str, user: &Value) -> anyhow::Result<Map<String, Value>> {
        let mut body = Map::new();
        if let Some(roles) = self.roles_of(user) {
            body.insert("roles".to_owned(), json!(roles));
        }
        if let Some(tenant) = &self.tenant {
            body.insert("tenant".to_owned(), json!(tenant));
        }
        if self.password || self.password_file.is_some() {
            let password = password::read_new(self.password_file.as_deref(), name)?;
            body.insert("password".to_owned(), json!(password));
        }
        if self.disable || self.enable {
            body.insert("disabled".to_owned(), json!(self.disable));
        }
        if self.new_secret {
            body.insert("new_client_secret".to_owned(), json!(true));
        }
        Ok(body)
    }

    fn roles_of(&self, user: &Value) -> Option<BTreeSet<String>> {
        if !self.roles.is_empty() {
            return Some(self.roles.iter().cloned().collect());
        }
        if self.add_roles.is_empty() && self.remove_roles.is_empty() {
            return None;
        }
        let mut roles: BTreeSet<String> = list(user, "roles").filter_map(Value::as_str).map(str::to_owned).collect();
        roles.extend(self.add_roles.iter().cloned());
        roles.retain(|role| !self.remove_roles.contains(role));
        Some(roles)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        changes: Changes,
    }

    fn body(options: &[&str]) -> anyhow::Result<Value> {
        let line = Line::try_parse_from([&["change"], options].concat())?;
        Ok(line.changes.body("ann", &json!({ "roles": ["viewer", "analyst"] }))?.into())
    }

    #[test]
    fn only_what_is_named_is_changed() {
        assert_eq!(body(&["--role", "auditor"]).unwrap(), json!({ "roles": ["auditor"] }));
        assert_eq!(
            body(&["--add-role", "auditor", "--remove-role", "viewer"]).unwrap(),
            json!({ "roles": ["analyst", "auditor"] })
        );
        assert_eq!(body(&["--disable", "--tenant", "b"]).unwrap(), json!({ "disabled": true, "tenant": "b" }));
        assert_eq!(body(&["--enable"]).unwrap(), json!({ "disabled": false }));
        assert_eq!(body(&["--new-secret"]).unwrap(), json!({ "new_client_secret": true }));
    }

    #[test]
    fn nothing_to_change_and_contradictions_are_refused() {
        for options in [&[][..], &["--disable", "--enable"], &["--role", "viewer", "--add-role", "auditor"]] {
            assert!(body(options).is_err(), "{options:?}");
        }
    }
}
