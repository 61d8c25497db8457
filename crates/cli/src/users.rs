//! `rampart users`: lists, makes, changes, revokes and removes users. Needs the role admin.

mod change;
mod directory;
mod secret;

use std::path::PathBuf;

use http::Method;
use serde_json::{Value, json};

use crate::{
    connection::{Connection, list, text},
    output::{Column, Output, Table},
    password,
};
pub(crate) use directory::id_of;

const PATH: &str = "/api/admin/users";
const ADMIN: &str = "admin";
const COLUMNS: [Column; 5] = [
    Column { heading: "NAME", width: 32 },
    Column { heading: "KIND", width: 8 },
    Column { heading: "TENANT", width: 12 },
    Column { heading: "ROLES", width: 0 },
    Column { heading: "DISABLED", width: 0 },
];

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// All users: name, kind, tenant, roles.
    List {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        output: Output,
    },
    /// A new user. A machine's client secret is printed, once; if it cannot be, the user is removed again.
    Create(New),
    /// Change roles, tenant or password of a user, disable it, or give a machine a new client secret.
    Change(change::Arguments),
    /// End every login and token of a user.
    Revoke(User),
    /// Remove a user.
    Delete(User),
}

/// Options of `rampart users create`.
#[derive(clap::Args)]
pub(crate) struct New {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
    /// The name.
    name: String,
    /// A role; may be given more than once.
    #[arg(long = "role", value_name = "ROLE", required = true)]
    roles: Vec<String>,
    /// The tenant.
    #[arg(long, default_value = "default")]
    tenant: String,
    /// A file with the password of a person. Without this or --password the user is a machine.
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// A person, whose password is asked for on a terminal, or read from standard input.
    #[arg(long, conflicts_with = "password_file")]
    password: bool,
}

/// A user that is there.
#[derive(clap::Args)]
pub(crate) struct User {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
    /// The name.
    name: String,
}

/// Runs the command.
pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { connection, output } => {
            let users = directory::all(&connection.open(ADMIN)?).await?;
            output.table(&Table::new(&COLUMNS, users.iter().map(row)), &json!({ "users": users }));
            Ok(())
        }
        Command::Create(new) => create(new).await,
        Command::Change(arguments) => change::run(arguments).await,
        Command::Revoke(User { connection, output, name }) => {
            let platform = connection.open(ADMIN)?;
            let path = directory::path_of(&platform, &name).await?.then("/revoke");
            platform.call(Method::POST, path, None, "the revocation").await?;
            output.fact(&format!("every token of {name} is revoked"), &json!({ "user": name, "revoked": true }));
            Ok(())
        }
        Command::Delete(User { connection, output, name }) => {
            let platform = connection.open(ADMIN)?;
            let path = directory::path_of(&platform, &name).await?;
            platform.call(Method::DELETE, path, None, "the removal").await?;
            output.fact(&format!("{name} is removed"), &json!({ "user": name, "removed": true }));
            Ok(())
        }
    }
}

async fn create(new: New) -> anyhow::Result<()> {
    let New { connection, output, name, roles, tenant, password_file, password } = new;
    let platform = connection.open(ADMIN)?;
    let mut user = json!({ "name": name, "kind": "machine", "tenant": tenant, "roles": roles });
    if let Some(members) = user.as_object_mut().filter(|_| password || password_file.is_some()) {
        members.insert("kind".to_owned(), "person".into());
        members.insert("password".to_owned(), password::read_new(password_file.as_deref(), &name)?.into());
    }
    let made = platform.call(Method::POST, PATH, Some(&user), &format!("making the user {name}")).await?;
    if made.get("client_secret").is_some_and(Value::is_string) {
        return secret::show_of_new(&platform, output, &made).await;
    }
    output.fact(&line(&made), &made);
    Ok(())
}

fn row(user: &Value) -> [String; 5] {
    let roles: Vec<&str> = list(user, "roles").filter_map(Value::as_str).collect();
    let disabled = if user.get("disabled").and_then(Value::as_bool) == Some(true) { "disabled" } else { "" };
    let member = |name| text(user, name).to_owned();
    [member("name"), member("kind"), member("tenant"), roles.join(","), disabled.to_owned()]
}

/// One user in words.
fn line(user: &Value) -> String {
    row(user).join(" ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_one_line() {
        let user = json!({ "name": "ann", "kind": "person", "tenant": "default", "roles": ["viewer", "auditor"], "disabled": true });
        assert_eq!(line(&user), "ann person default viewer,auditor disabled");
    }
}
