//! `rampart users`: lists, makes, revokes and removes users. Needs the role admin.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use bootstrap::say;
use http::Method;
use serde_json::{Value, json};

use crate::connection::{Connection, list, text};

const PATH: &str = "/api/admin/users";
/// The longest page that the gateway gives.
const PAGE: &str = "limit=1000";

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// All users: name, kind, tenant, roles.
    List(Connection),
    /// A new user. A machine's client secret is printed, once.
    Create {
        #[command(flatten)]
        connection: Connection,
        /// The name.
        name: String,
        /// A role; may be given more than once.
        #[arg(long = "role", required = true)]
        roles: Vec<String>,
        /// The tenant.
        #[arg(long, default_value = "default")]
        tenant: String,
        /// A file with the password of a person; without it the user is a machine.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
    /// End every login and token of a user.
    Revoke(User),
    /// Remove a user.
    Delete(User),
}

#[derive(clap::Args)]
pub(crate) struct User {
    #[command(flatten)]
    connection: Connection,
    /// The name.
    name: String,
}

/// Runs the command.
pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(connection) => {
            for user in all(&connection).await? {
                say(&line(&user));
            }
            Ok(())
        }
        Command::Create { connection, name, roles, tenant, password_file } => {
            let mut user = json!({ "name": name, "kind": "machine", "tenant": tenant, "roles": roles });
            if let (Some(file), Some(members)) = (password_file, user.as_object_mut()) {
                let password =
                    std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
                members.insert("kind".to_owned(), "person".into());
                members.insert("password".to_owned(), password.trim_end_matches(['\r', '\n']).into());
            }
            let made = connection.call(Method::POST, PATH, Some(&user), &format!("making the user {name}")).await?;
            match made.get("client_secret").and_then(Value::as_str) {
                Some(secret) => say(secret),
                None => say(&line(&made)),
            }
            Ok(())
        }
        Command::Revoke(User { connection, name }) => {
            let path = format!("{PATH}/{}/revoke", id(&connection, &name).await?);
            connection.call(Method::POST, &path, None, "the revocation").await?;
            say(&format!("every token of {name} is revoked"));
            Ok(())
        }
        Command::Delete(User { connection, name }) => {
            let path = format!("{PATH}/{}", id(&connection, &name).await?);
            connection.call(Method::DELETE, &path, None, "the removal").await?;
            say(&format!("{name} is removed"));
            Ok(())
        }
    }
}

async fn all(connection: &Connection) -> anyhow::Result<Vec<Value>> {
    let mut users = Vec::new();
    let mut path = format!("{PATH}?{PAGE}");
    loop {
        let page = connection.call(Method::GET, &path, None, "listing the users").await?;
        users.extend(list(&page, "users").cloned());
        match page.get("next_cursor").and_then(Value::as_str) {
            Some(cursor) => path = format!("{PATH}?{PAGE}&cursor={cursor}"),
            None => return Ok(users),
        }
    }
}

async fn id(connection: &Connection, name: &str) -> anyhow::Result<String> {
    let users = all(connection).await?;
    match users.iter().find(|user| text(user, "name") == name) {
        Some(user) => Ok(text(user, "id").to_owned()),
        None => bail!("there is no user {name}"),
    }
}

fn line(user: &Value) -> String {
    let roles: Vec<&str> = list(user, "roles").filter_map(Value::as_str).collect();
    let disabled = if user.get("disabled").and_then(Value::as_bool) == Some(true) { "  disabled" } else { "" };
    format!(
        "{:<32} {:<8} {:<12} {}{disabled}",
        text(user, "name"),
        text(user, "kind"),
        text(user, "tenant"),
        roles.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_one_line() {
        let user = json!({ "name": "ann", "kind": "person", "tenant": "default", "roles": ["viewer", "auditor"], "disabled": true });
        let words: Vec<String> = line(&user).split_whitespace().map(ToOwned::to_owned).collect();
        assert_eq!(words, ["ann", "person", "default", "viewer,auditor", "disabled"]);
    }
}
