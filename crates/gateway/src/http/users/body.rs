//! Bodies of requests and responses about users.

use policy::{Role, Roles};
use problem::{Kind, Problem};
use secrets::Secret;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    app::App,
    error::StoreError,
    grant::GrantError,
    http::payload::present,
    password, random_secrets,
    store::NewUser,
    user::{Tenant, User, UserChange, UserKind, UserName},
};

/// A user to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUserRequest {
    /// 1 to 64 of `A-Z a-z 0-9 . _ @ + -`, beginning with a letter or digit.
    name: String,
    /// `person` or `machine`.
    kind: String,
    /// 1 to 63 of `a-z 0-9 -`; `default` unless told.
    #[serde(default, deserialize_with = "present")]
    tenant: Option<String>,
    /// Any of viewer, analyst, engineer, operator, auditor, privacy_officer, admin.
    roles: Vec<String>,
    /// Of a person, at least 15 characters; a machine gets a client secret instead.
    #[serde(default, deserialize_with = "present_secret")]
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<Secret>,
}

/// What is to be altered of a user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeUserRequest {
    /// The new tenant.
    #[serde(default, deserialize_with = "present")]
    tenant: Option<String>,
    /// All roles that the user shall have.
    #[serde(default, deserialize_with = "present")]
    roles: Option<Vec<String>>,
    /// Whether the user may not sign in.
    #[serde(default, deserialize_with = "present")]
    disabled: Option<bool>,
    /// The new password of a person.
    #[serde(default, deserialize_with = "present_secret")]
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<Secret>,
    /// `true` makes a new client secret for a machine.
    #[serde(default, deserialize_with = "present")]
    new_client_secret: Option<bool>,
}

/// A user as administrators see it.
#[derive(Serialize, ToSchema)]
pub struct ShownUser {
    id: Uuid,
    name: String,
    /// `person` or `machine`.
    kind: &'static str,
    tenant: String,
    #[schema(value_type = Vec<String>)]
    roles: Roles,
    disabled: bool,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

/// A user, with the secret that is shown once.
#[derive(Serialize, ToSchema)]
pub struct UserWithSecret {
    /// The user.
    #[serde(flatten)]
    pub user: ShownUser,
    /// Only when it was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
}

/// A page of users.
#[derive(Serialize, ToSchema)]
pub struct UsersPage {
    /// By name.
    pub users: Vec<ShownUser>,
    /// The `cursor` of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

// === impl CreateUserRequest ===

impl CreateUserRequest {
    /// Checks every field; the second value is a machine's secret, to be shown.
    pub(super) async fn into_new_user(self, app: &App) -> Result<(NewUser, Option<String>), Problem> {
        let name: UserName = parse(&self.name, "name")?;
        let kind: UserKind = parse(&self.kind, "kind")?;
        let tenant = self.tenant.as_deref().map(|tenant| parse(tenant, "tenant")).transpose()?.unwrap_or_default();
        let roles = roles(&self.roles)?;
        let (credential, client_secret) = match (kind, self.password) {
            (UserKind::Person, Some(password)) => (hash(app, password, &name).await?, None),
            (UserKind::Person, None) => return Err(wrong("password", "a person needs one")),
            (UserKind::Machine, None) => {
                let (secret, credential) = client_secret()?;
                (credential, Some(secret))
            }
            (UserKind::Machine, Some(_)) => return Err(wrong("password", "a machine gets a client secret instead")),
        };
        Ok((NewUser { name, kind, tenant, roles, credential }, client_secret))
    }
}

// === impl ChangeUserRequest ===

impl ChangeUserRequest {
    /// Checks every field against the user as it is; the second value is a machine's new secret, to be shown.
    pub(super) async fn into_change(self, app: &App, user: &User) -> Result<(UserChange, Option<String>), Problem> {
        let tenant: Option<Tenant> = self.tenant.as_deref().map(|tenant| parse(tenant, "tenant")).transpose()?;
        let roles = self.roles.as_deref().map(roles).transpose()?;
        let wants_secret = self.new_client_secret == Some(true);
        let (credential, client_secret) = match (user.kind, self.password) {
            (UserKind::Person, Some(_)) | (UserKind::Person, None) if wants_secret => {
                return Err(wrong("new_client_secret", "a person has a password instead"));
            }
            (UserKind::Machine, Some(_)) => return Err(wrong("password", "a machine has a client secret instead")),
            (UserKind::Person, Some(password)) => (Some(hash(app, password, &user.name).await?), None),
            (UserKind::Machine, None) if wants_secret => {
                let (secret, credential) = client_secret()?;
                (Some(credential), Some(secret))
            }
            (_, None) => (None, None),
        };
        let change = UserChange { tenant, roles, disabled: self.disabled, credential };
        if change.is_empty() {
            let fields = "tenant, roles, disabled, password or new_client_secret";
            return Err(Problem::new(Kind::InvalidArgument, format!("nothing to change: give {fields}")));
        }
        Ok((change, client_secret))
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str, field: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: T::Err| wrong(field, error.to_string()))
}

fn roles(names: &[String]) -> Result<Roles, Problem> {
    let parse = |(index, name): (usize, &String)| parse::<Role>(name, &format!("roles[{index}]"));
    names.iter().enumerate().map(parse).collect()
}

async fn hash(app: &App, password: Secret, name: &UserName) -> Result<String, Problem> {
    let password = password::accept(&password, name).map_err(|weak| wrong("password", weak.to_string()))?;
    app.hasher.hash(password).await.map_err(|error| *GrantError::from(error).problem)
}

/// A new client secret, and what is stored of it.
fn client_secret() -> Result<(String, String), Problem> {
    let secret = random_secrets::generate(random_secrets::CLIENT_SECRET_PREFIX)
        .map_err(|_| Problem::from(StoreError::Random))?;
    let credential = random_secrets::credential(&secret);
    Ok((secret, credential))
}

fn wrong(field: &str, why: impl Into<String>) -> Problem {
    Problem::new(Kind::InvalidArgument, why).field(field)
}

fn present_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Ok(present::<D, String>(deserializer)?.map(Secret::new))
}

// === impl ShownUser ===

impl From<User> for ShownUser {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            name: user.name.as_str().to_owned(),
            kind: user.kind.into(),
            tenant: user.tenant.as_str().to_owned(),
            roles: user.roles,
            disabled: user.disabled,
            created_at: user.created_at,
            updated_at: user.updated_at,
        }
    }
}
