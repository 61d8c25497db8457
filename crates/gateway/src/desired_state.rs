//! Which models should serve: kept once, for every replica of serving.
//!
//! It is read from the database for each answer and never from memory: two gateways must not tell a replica two things.

use problem::{Kind, Problem};
use proto::models::v1::{self, DesiredModels};
use uuid::Uuid;

/// How many models the state knows at most.
pub const MODELS_MAX: i64 = 1_024;

/// How many a replica can name at once: as many as it can serve.
pub const SERVING_MAX: usize = 256;

const NAME_LENGTH_MAX: usize = 64;

/// The name of a model: 1 to 64 letters, digits, `.`, `_` or `-`, the first a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName(String);

/// One model of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredModel {
    /// Its name.
    pub name: String,
    /// Whether it should serve.
    pub loaded: bool,
    /// When that was last changed, in generations of the state.
    pub generation: i64,
}

/// What a client wants of a model.
#[derive(Clone, Debug)]
pub struct ModelChange {
    /// Of which.
    pub model: ModelName,
    /// Loaded, or unloaded.
    pub loaded: bool,
    /// The client, as the replica knows it by its passport.
    pub user: Uuid,
    /// Its login.
    pub session: Option<Uuid>,
}

// === impl ModelName ===

impl ModelName {
    /// A name, if the text can be one.
    ///
    /// # Errors
    /// It cannot.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let is_name = text.len() <= NAME_LENGTH_MAX
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        let wrong = || Problem::new(Kind::InvalidArgument, "must be the name of a model").field("model");
        is_name.then(|| Self(text.to_owned())).ok_or_else(wrong)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl ModelChange ===

impl ModelChange {
    /// As it is asked for.
    ///
    /// # Errors
    /// A name or an id is none.
    pub fn parse(request: &v1::ChangeModelRequest) -> Result<Self, Problem> {
        let user = request.subject.parse();
        let user =
            user.map_err(|_| Problem::new(Kind::InvalidArgument, "must be the id of a user").field("subject"))?;
        let model = ModelName::parse(&request.model)?;
        Ok(Self { model, loaded: request.loaded, user, session: request.session_id.parse().ok() })
    }
}

/// The state as it is sent.
pub fn message(models: Vec<DesiredModel>) -> DesiredModels {
    let generation = models.iter().map(|model| model.generation).max().unwrap_or(0);
    let models = models.into_iter().map(|model| v1::DesiredModel { name: model.name, loaded: model.loaded });
    DesiredModels { generation: u64::try_from(generation).unwrap_or(0), models: models.collect() }
}
