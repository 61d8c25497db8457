//! `model.toml`: what a model folder declares, and the rules that make the declaration sound.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use engine::{FileDigests, Isolation, LoadFault, Reason, Signature, TensorSpec, is_data_name, read_text, refuse_link};
use serde::{Deserialize, Serialize};
use sha256::Sha256Digest;

use crate::names::{ModelName, NAME_LENGTH_MAX, NAME_RULE, Version, is_alias};

/// The alias that a call without a version means.
pub(crate) const CHAMPION: &str = "champion";

/// The most versions of one model: each holds sessions and threads.
pub(crate) const VERSIONS_MAX: usize = 16;
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Each is held open while its version serves.
const DATA_FILES_MAX: usize = 64;
const RANK_MAX: usize = 16;
const COLUMNS_MAX: usize = 4096;

/// A checked `model.toml`.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) name: ModelName,
    pub(crate) description: String,
    pub(crate) isolation: Isolation,
    pub(crate) aliases: BTreeMap<String, Version>,
    /// What an alias meant when its version last served; it answers where the one that is meant now does not.
    pub(crate) last_good: BTreeMap<String, Version>,
    pub(crate) versions: BTreeMap<Version, Declared>,
}

/// What is declared of one version.
#[derive(Clone, Debug)]
pub(crate) enum Declared {
    /// Files with these digests, which take and give this.
    Files(FileDigests, Signature),
    /// It was judged before it came here.
    Refused(LoadFault),
}

/// A `model.toml` as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ManifestFile {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: String,
    /// Where its versions compute.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) isolation: Isolation,
    #[serde(default)]
    pub(crate) aliases: BTreeMap<String, Version>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) last_good: BTreeMap<String, Version>,
    pub(crate) versions: BTreeMap<Version, VersionFile>,
    /// Those of every version that has none of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) inputs: Vec<TensorSpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) outputs: Vec<TensorSpec>,
}

/// One version of a [`ManifestFile`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VersionFile {
    #[serde(default, deserialize_with = "sha256::any_case")]
    pub(crate) sha256: Option<Sha256Digest>,
    /// The files beside the model that hold its weights, with their digests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) data: BTreeMap<String, Sha256Digest>,
    /// What the registry calls the origin of its files: another one is another version, whatever its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// Why it is not here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<LoadFault>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) inputs: Vec<TensorSpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) outputs: Vec<TensorSpec>,
}

// === impl Manifest ===

impl Manifest {
    /// Reads and checks the `model.toml` of a model folder, whose name must be the model's.
    pub(crate) fn read(folder: &Path) -> Result<Self, LoadFault> {
        let fault = |detail: String| LoadFault::new(Reason::Manifest, format!("model.toml: {detail}"));
        let file = ManifestFile::read(folder).map_err(fault)?;
        match file.faults(folder).into_iter().next() {
            Some(detail) => Err(fault(detail)),
            None => Self::of(file).map_err(fault),
        }
    }

    fn of(file: ManifestFile) -> Result<Self, String> {
        if let Some(detail) = file.faults_of_content().into_iter().next() {
            return Err(detail);
        }
        let common = Signature { inputs: file.inputs, outputs: file.outputs };
        let declared = |(version, file): (Version, VersionFile)| Ok((version, file.declared(version, &common)?));
        Ok(Self {
            name: ModelName::parse(&file.name).ok_or_else(|| format!("name: {NAME_RULE}"))?,
            description: file.description,
            isolation: file.isolation,
            aliases: file.aliases,
            last_good: file.last_good,
            versions: file.versions.into_iter().map(declared).collect::<Result<_, String>>()?,
        })
    }
}

// === impl ManifestFile, VersionFile ===

impl ManifestFile {
    /// Reads the `model.toml` of a model folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, String> {
        // A backup refuses links, so that what serves is what it has.
        refuse_link(folder).map_err(|error| error.to_string())?;
        let text = read_text(folder, "model.toml", MANIFEST_BYTES_MAX).map_err(|error| error.to_string())?;
        toml::from_str(&text).map_err(|error| error.to_string())
    }

    /// Everything that makes it no declaration of the model in this folder; of each version the first thing.
    pub(crate) fn faults(&self, folder: &Path) -> Vec<String> {
        let mut faults = self.faults_of_content();
        if folder.file_name().and_then(|name| name.to_str()) != Some(&*self.name) {
            faults.push(format!("name: {:?} is not the name of its folder", self.name));
        }
        faults
    }

    fn faults_of_content(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if ModelName::parse(&self.name).is_none() {
            faults.push(format!("name: {NAME_RULE}"));
        }
        if self.versions.is_empty() || self.versions.len() > VERSIONS_MAX {
            faults.push(format!("versions: {}, but there must be 1 to {VERSIONS_MAX}", self.versions.len()));
        }
        faults.extend(self.declared().into_iter().filter_map(|(_, declared)| declared.err()));
        // What all versions share is wrong once.
        faults.dedup();
        for (alias, version) in &self.aliases {
            if !is_alias(alias) {
                faults.push(format!(
                    "aliases.{alias}: an alias is a name of letters, digits, '.', '_' or '-', and not a number"
                ));
            } else if !self.versions.contains_key(version) {
                faults.push(format!("aliases.{alias}: there is no version {version}"));
            }
        }
        faults
    }

    /// What is declared of each version, or why nothing is.
    pub(crate) fn declared(&self) -> Vec<(Version, Result<Declared, String>)> {
        let common = Signature { inputs: self.inputs.clone(), outputs: self.outputs.clone() };
        let declared = |(version, file): (&Version, &VersionFile)| (*version, file.clone().declared(*version, &common));
        self.versions.iter().map(declared).collect()
    }

    /// The text of a `model.toml` that [`Manifest::read`] accepts, or what is wrong with it.
    pub(crate) fn text(&self) -> Result<String, String> {
        Manifest::of(self.clone())?;
        let text = toml::to_string(self).map_err(|error| error.to_string())?;
        if text.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(format!("{} bytes, more than {MANIFEST_BYTES_MAX}", text.len()));
        }
        Ok(text)
    }
}

impl VersionFile {
    /// The digest of all its files, or what was declared of a version that was refused.
    pub(crate) fn digest(&self) -> Option<Sha256Digest> {
        self.sha256.map(|model| FileDigests { model, data: self.data.clone() }.whole())
    }

    fn declared(self, version: Version, common: &Signature) -> Result<Declared, String> {
        if let Some(fault) = self.refused {
            // Cut to what a caller can be told.
            return Ok(Declared::Refused(LoadFault::new(fault.reason, fault.detail)));
        }
        let place = format!("versions.{version}");
        let model = self.sha256.ok_or_else(|| format!("{place}.sha256: is missing"))?;
        check_data(&self.data).map_err(|detail| format!("{place}.{detail}"))?;
        let digests = FileDigests { model, data: self.data };
        if self.inputs.is_empty() && self.outputs.is_empty() {
            check_signature(common)?;
            return Ok(Declared::Files(digests, common.clone()));
        }
        let signature = Signature { inputs: self.inputs, outputs: self.outputs };
        check_signature(&signature).map_err(|detail| format!("{place}.{detail}"))?;
        Ok(Declared::Files(digests, signature))
    }
}

fn is_default(isolation: &Isolation) -> bool {
    *isolation == Isolation::default()
}

/// Whether files with weights can have these names.
pub(crate) fn check_data(data: &BTreeMap<String, Sha256Digest>) -> Result<(), String> {
    if let Some(name) = data.keys().find(|name| !is_data_name(name)) {
        return Err(format!("data: {name:?} cannot be the name of a file beside model.onnx"));
    }
    if data.len() > DATA_FILES_MAX {
        return Err(format!("data: {} files, more than {DATA_FILES_MAX}", data.len()));
    }
    Ok(())
}

/// Whether inputs and outputs can be declared like this.
pub(crate) fn check_signature(signature: &Signature) -> Result<(), String> {
    check_specs("inputs", &signature.inputs)?;
    check_specs("outputs", &signature.outputs)
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
        check_columns(spec).map_err(|detail| format!("{field}[{index}].columns: {detail}"))?;
    }
    Ok(())
}

fn check_columns(spec: &TensorSpec) -> Result<(), String> {
    let Some(first) = spec.columns.first() else { return Ok(()) };
    let mut seen = BTreeSet::from([first]);
    if let Some(twice) = spec.columns.iter().skip(1).find(|column| !seen.insert(column)) {
        return Err(format!("{twice:?} is named twice"));
    }
    if spec.columns.len() > COLUMNS_MAX || spec.columns.iter().any(|column| column.len() > NAME_LENGTH_MAX * 4) {
        return Err(format!("at most {COLUMNS_MAX} names of at most {} bytes", NAME_LENGTH_MAX * 4));
    }
    match spec.shape.last() {
        Some(-1) => Ok(()),
        Some(length) if i64::try_from(spec.columns.len()) == Ok(*length) => Ok(()),
        _ => Err(format!("{} names, but the last dimension is another number", spec.columns.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest, String> {
        toml::from_str(text).map_err(|error| error.to_string()).and_then(Manifest::of)
    }

    fn signature(manifest: &Manifest, version: &str) -> Signature {
        match &manifest.versions[&Version::parse(version).unwrap()] {
            Declared::Files(_, signature) => signature.clone(),
            Declared::Refused(fault) => panic!("{fault}"),
        }
    }

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
        let manifest = parse(SOUND).unwrap();
        assert_eq!(manifest.versions.len(), 2);
        assert_eq!(manifest.aliases[CHAMPION], Version::parse("2").unwrap());
        assert_eq!(signature(&manifest, "1").inputs[0].shape, [-1, 3]);
    }

    #[test]
    fn a_model_says_where_it_computes() {
        let isolation = |line: &str| parse(&format!("{line}\n{SOUND}")).map(|manifest| manifest.isolation);
        for (line, expected) in [
            ("", Isolation::Model),
            ("isolation = \"model\"", Isolation::Model),
            ("isolation = \"group\"", Isolation::Group),
            ("isolation = \"none\"", Isolation::None),
        ] {
            assert_eq!(isolation(line), Ok(expected), "{line}");
        }
        assert!(isolation("isolation = \"Group\"").unwrap_err().contains("isolation"));
    }

    #[test]
    fn all_faults_are_found_at_once() {
        let text = SOUND
            .replacen("name = \"m\"", "name = \"../m\"", 1)
            .replacen("champion = \"2\"", "champion = \"3\"\n1 = \"2\"", 1)
            .replacen("sha256", "source", 1)
            .replacen("[-1, 3]", "[-2, 3]", 1);
        let faults = toml::from_str::<ManifestFile>(&text).unwrap().faults(Path::new("/models/m")).join("\n");
        for place in
            ["name: 1 to", "versions.1.sha256", "inputs[0].shape", "aliases.champion", "aliases.1", "not the name"]
        {
            assert!(faults.contains(place), "{place}: {faults}");
        }
    }

    #[test]
    fn each_unsound_line_is_named() {
        let fault = |from: &str, to: &str| parse(&SOUND.replacen(from, to, 1)).unwrap_err();
        assert!(fault("name = \"m\"", "name = \"../m\"").contains("name"));
        assert!(fault("champion = \"2\"", "champion = \"3\"").contains("aliases.champion"));
        assert!(fault("champion = \"2\"", "1 = \"2\"").contains("aliases.1"));
        assert!(fault("[versions.1]", "[versions.01]").contains("01"));
        assert!(fault("[versions.1]", "[versions.zero]").contains("zero"));
        assert!(fault("e3b0", "e3").contains("64 lower-case hexadecimal digits"));
        assert!(fault("sha256", "source").contains("versions.1.sha256"));
        let sha256 = "sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"";
        let data = format!(
            "{sha256}\ndata = {{ \"../weights\" = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\" }}"
        );
        assert!(fault(sha256, &data).contains("versions.1.data"));
        assert!(fault("FP32", "FLOAT").contains("FLOAT"));
        assert!(fault("[-1, 3]", "[-2, 3]").contains("inputs[0].shape"));
        assert!(fault("shape = [-1, 3]", "shape = [-1, 3]\nunits = \"m\"").contains("units"));
        for columns in [r#"["a", "b"]"#, r#"["a", "b", "a"]"#] {
            let fault = fault("shape = [-1, 3]", &format!("shape = [-1, 3]\ncolumns = {columns}"));
            assert!(fault.contains("inputs[0].columns"), "{fault}");
        }
    }

    /// A version may have inputs and outputs of its own, and one that was refused needs no digest; what is written is
    /// read again as it was.
    #[test]
    fn versions_may_differ_and_may_be_refused() {
        let own = "inputs = [{ name = \"z\", datatype = \"INT64\", shape = [] }]\noutputs = [{ name = \"y\", datatype = \"INT64\", shape = [] }]";
        let sha256 = "sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"";
        let text = SOUND.replacen(sha256, &format!("{sha256}\n{own}"), 1).replacen(
            "[[inputs]]",
            "[versions.3]\nsource = \"models:/m-3\"\nrefused = { reason = \"digest\", detail = \"no tag\" }\n[[inputs]]",
            1,
        );
        let file: ManifestFile = toml::from_str(&text).unwrap();
        assert_eq!(toml::from_str::<ManifestFile>(&file.text().unwrap()).unwrap(), file);
        let manifest = Manifest::of(file).unwrap();
        assert_eq!(signature(&manifest, "1").inputs[0].name, "z");
        assert_eq!(signature(&manifest, "2").inputs[0].name, "x");
        assert!(
            matches!(&manifest.versions[&Version::parse("3").unwrap()], Declared::Refused(fault) if fault.reason == Reason::Digest)
        );
    }
}
