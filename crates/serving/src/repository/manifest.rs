//! `model.toml`: what a model folder declares, and the rules that make the declaration sound.

use std::{collections::BTreeMap, fmt, num::NonZeroU64, path::Path};

use serde::{Deserialize, Deserializer};

use super::{LoadFault, Reason};
use crate::{
    digest::Digest,
    signature::{Signature, TensorSpec},
};

/// The alias that a call without a version means.
pub(crate) const CHAMPION: &str = "champion";

/// The longest name of a model, alias or tensor that is accepted.
const NAME_LENGTH_MAX: usize = 64;
/// The most versions of one model: each holds sessions and threads.
const VERSIONS_MAX: usize = 16;
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
const RANK_MAX: usize = 16;

/// The name of a model: letters, digits, `.`, `_`, `-`, so that it is one harmless folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ModelName(String);

/// The number of a model version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Version(NonZeroU64);

/// A checked `model.toml`.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) name: ModelName,
    pub(crate) description: String,
    pub(crate) aliases: BTreeMap<String, Version>,
    pub(crate) versions: BTreeMap<Version, Digest>,
    pub(crate) signature: Signature,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    aliases: BTreeMap<String, Version>,
    versions: BTreeMap<Version, FileVersion>,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileVersion {
    sha256: Digest,
}

// === impl Manifest ===

impl Manifest {
    /// Reads and checks the `model.toml` of a model folder, whose name must be the model's.
    pub(crate) fn read(folder: &Path) -> Result<Self, LoadFault> {
        let path = folder.join("model.toml");
        let fault = |detail: String| LoadFault::new(Reason::Manifest, format!("model.toml: {detail}"));
        let length = std::fs::metadata(&path).map_err(|error| fault(error.to_string()))?.len();
        if length > MANIFEST_BYTES_MAX {
            return Err(fault(format!("{length} bytes, more than {MANIFEST_BYTES_MAX}")));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| fault(error.to_string()))?;
        let manifest = Self::parse(&text).map_err(fault)?;
        if folder.file_name().and_then(|name| name.to_str()) != Some(manifest.name.as_str()) {
            return Err(fault(format!("name: {:?} is not the name of its folder", manifest.name.as_str())));
        }
        Ok(manifest)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let manifest = Self {
            name: ModelName::parse(&file.name)
                .ok_or("name: 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit")?,
            description: file.description,
            aliases: file.aliases,
            versions: file.versions.into_iter().map(|(version, file)| (version, file.sha256)).collect(),
            signature: Signature { inputs: file.inputs, outputs: file.outputs },
        };
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.versions.is_empty() || self.versions.len() > VERSIONS_MAX {
            return Err(format!("versions: {}, but there must be 1 to {VERSIONS_MAX}", self.versions.len()));
        }
        for (alias, version) in &self.aliases {
            if ModelName::parse(alias).is_none() || Version::parse(alias).is_some() {
                return Err(format!(
                    "aliases.{alias}: an alias is a name of letters, digits, '.', '_' or '-', and not a number"
                ));
            }
            if !self.versions.contains_key(version) {
                return Err(format!("aliases.{alias}: there is no version {version}"));
            }
        }
        check_specs("inputs", &self.signature.inputs)?;
        check_specs("outputs", &self.signature.outputs)
    }
}

fn check_specs(field: &str, specs: &[TensorSpec]) -> Result<(), String> {
    if specs.is_empty() {
        return Err(format!("{field}: a model has at least one"));
    }
    for (index, spec) in specs.iter().enumerate() {
        if spec.name.is_empty() || spec.name.len() > NAME_LENGTH_MAX * 4 {
            return Err(format!("{field}[{index}].name: 1 to {} bytes", NAME_LENGTH_MAX * 4));
        }
        if specs.iter().take(index).any(|other| other.name == spec.name) {
            return Err(format!("{field}[{index}].name: {:?} is declared twice", spec.name));
        }
        if spec.shape.len() > RANK_MAX || spec.shape.iter().any(|dimension| *dimension < -1) {
            return Err(format!(
                "{field}[{index}].shape: at most {RANK_MAX} dimensions, each -1 (any length) or not negative"
            ));
        }
    }
    Ok(())
}

// === impl ModelName ===

impl ModelName {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let first = text.chars().next()?;
        let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        (text.len() <= NAME_LENGTH_MAX && first.is_ascii_alphanumeric() && text.chars().all(harmless))
            .then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ModelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Version ===

impl Version {
    /// A version from its number as callers and folders write it: no sign, no leading zero.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        plain.then(|| text.parse().ok().map(Self)).flatten()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("{text:?} is not a version: a whole number from 1, in quotes"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"
        name = "m"
        [aliases]
        champion = "2"
        [versions.1]
        sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        [versions.2]
        sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        [[inputs]]
        name = "x"
        datatype = "FP32"
        shape = [-1, 3]
        [[outputs]]
        name = "y"
        datatype = "INT64"
        shape = [-1]
    "#;

    #[test]
    fn a_sound_manifest_is_read() {
        let manifest = Manifest::parse(SOUND).unwrap();
        assert_eq!(manifest.versions.len(), 2);
        assert_eq!(manifest.aliases[CHAMPION], Version::parse("2").unwrap());
        assert_eq!(manifest.signature.inputs[0].shape, [-1, 3]);
    }

    #[test]
    fn each_unsound_line_is_named() {
        let fault = |from: &str, to: &str| Manifest::parse(&SOUND.replacen(from, to, 1)).unwrap_err();
        assert!(fault("name = \"m\"", "name = \"../m\"").contains("name"));
        assert!(fault("champion = \"2\"", "champion = \"3\"").contains("aliases.champion"));
        assert!(fault("champion = \"2\"", "1 = \"2\"").contains("aliases.1"));
        assert!(fault("[versions.1]", "[versions.01]").contains("01"));
        assert!(fault("[versions.1]", "[versions.zero]").contains("zero"));
        assert!(fault("e3b0", "e3").contains("64 hex digits"));
        assert!(fault("FP32", "FLOAT").contains("FLOAT"));
        assert!(fault("[-1, 3]", "[-2, 3]").contains("inputs[0].shape"));
        assert!(fault("shape = [-1, 3]", "shape = [-1, 3]\nunits = \"m\"").contains("units"));
    }
}
