//! The platform that `rampart dev` runs, as its state file tells of it.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::Context as _;
use bootstrap::client::Client;
use serde::Deserialize;

use super::{call_lines::Callee, library::Library};

/// Which platform is meant.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The state file of a running `rampart dev`, whose folder of models is meant. A platform that takes its models from MLflow has none.
    #[arg(long, env = "RAMPART_STATE")]
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

// === impl Running ===

impl Running {
    pub(crate) fn read(options: &Options) -> anyhow::Result<Self> {
        let path = options.state.display();
        let text = fs::read_to_string(&options.state)
            .with_context(|| format!("cannot read {path}: is `rampart dev` running (--state, RAMPART_STATE)?"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{path} is not the state of a `rampart dev` of this version"))
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.front, &self.ca_file)
    }

    /// Where models are called, with a token that may predict and not more.
    pub(crate) fn callee(&self) -> anyhow::Result<Callee<'_>> {
        let (front, ca_file) = (&*self.front, &*self.ca_file);
        Ok(Callee { front, ca_file, token_file: self.token_file("analyst")?, folder: Some(&self.data) })
    }

    /// The file with the access token of a role.
    pub(crate) fn token_file(&self, role: &str) -> anyhow::Result<&PathBuf> {
        self.tokens.get(role).with_context(|| format!("the platform has no token for the role {role}"))
    }

    pub(crate) fn token(&self, role: &str) -> anyhow::Result<String> {
        let file = self.token_file(role)?;
        let token = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(token.trim().to_owned())
    }
}
