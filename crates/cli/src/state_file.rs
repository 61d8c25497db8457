//! The platform that `rampart dev` runs, as its state file tells of it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use bootstrap::client::{Client, Proxies};
use serde::Deserialize;

use crate::{library::Library, token_file::TokenFile};

/// Which platform is meant.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The state file of a running `rampart dev`, whose folder of models is meant. A platform that takes its models from MLflow has none.
    #[arg(long, env = "RAMPART_STATE", hide_env_values = true)]
    state: PathBuf,
}

/// What the state file says that is needed here.
#[derive(Deserialize)]
pub(crate) struct Running {
    /// The front door's URL.
    pub(crate) front: String,
    pub(crate) ca_file: PathBuf,
    tokens: BTreeMap<String, PathBuf>,
    /// The folder of everything.
    pub(crate) data: PathBuf,
    /// The folder of models.
    pub(crate) models: PathBuf,
    pub(crate) onnxruntime: Library,
}

// === impl Options ===

impl Options {
    pub(crate) fn read(&self) -> anyhow::Result<Running> {
        Running::read(&self.state)
    }
}

// === impl Running ===

impl Running {
    pub(crate) fn read(state: &Path) -> anyhow::Result<Self> {
        let path = state.display();
        let text = fs::read_to_string(state)
            .with_context(|| format!("cannot read {path}: is `rampart dev` running (--state, RAMPART_STATE)?"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{path} is not the state of a `rampart dev` of this version"))
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.front, &self.ca_file, Proxies::Never)
    }

    /// The file with the access token of a role.
    pub(crate) fn token_file(&self, role: &str) -> anyhow::Result<&PathBuf> {
        self.tokens.get(role).with_context(|| format!("the platform has no token for the role {role}"))
    }

    pub(crate) fn token(&self, role: &str) -> anyhow::Result<String> {
        TokenFile::new(self.token_file(role)?).read()
    }
}
