//! The model folder as the registry's mirror: what is in it, and how it changes.
//!
//! A version appears in one step, after its digest was checked; `model.toml` speaks of it only then. A process that dies
//! in between leaves what the next one tidies up. Whatever in the folder is not as declared counts as missing, so that it
//! is fetched again.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use sha256::{Measuring, Sha256Digest};
use tempfile::TempDir;

use crate::{
    manifest::ManifestFile,
    names::{ModelName, Version},
};

/// Begins the name of a folder that is not finished; no model's name begins like this.
const INCOMING: &str = ".incoming-";

/// The folder, and what was last written about each model.
pub struct Mirror {
    folder: PathBuf,
    pub(super) models: BTreeMap<ModelName, Mirrored>,
}

/// One model of the mirror.
pub(crate) struct Mirrored {
    /// Without the versions whose files are not as they should be.
    pub(super) file: ManifestFile,
    /// Whether the repository has seen it.
    pub(super) is_loaded: bool,
}

// === impl Mirror ===

impl Mirror {
    /// Reads the folder. Refuses one that holds models of another origin: a mirror deletes what the registry has not.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let mut models = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let file_name = entry.file_name();
            let Some(text) = file_name.to_str() else { continue };
            if text.starts_with(INCOMING) {
                fs::remove_dir_all(entry.path())?;
                continue;
            }
            let Some(name) = ModelName::parse(text) else { continue };
            let Some(file) = read_folder(&entry.path()) else { continue };
            if file.versions.values().any(|version| version.source.is_none()) {
                let why = format!(
                    "{name} is not from a registry and a mirror would delete it; give the mirror a folder of its own"
                );
                return Err(io::Error::other(why));
            }
            models.insert(name, Mirrored { file, is_loaded: true });
        }
        let mirror = Self { folder: folder.to_owned(), models };
        // Whether it can be written shows now, not at the first change.
        drop(mirror.stage()?);
        Ok(mirror)
    }

    /// Looks at one model's folder again, as if the process had just started.
    pub(super) async fn reread(&mut self, name: &ModelName) -> io::Result<()> {
        let model = self.folder.join(name.as_str());
        match tokio::task::spawn_blocking(move || read_folder(&model)).await? {
            Some(file) => drop(self.models.insert(name.clone(), Mirrored { file, is_loaded: true })),
            None => drop(self.models.remove(name)),
        }
        Ok(())
    }

    /// Where the files of a version are gathered before they appear.
    pub(super) fn stage(&self) -> io::Result<TempDir> {
        tempfile::Builder::new().prefix(INCOMING).tempdir_in(&self.folder)
    }

    /// Lets the files of a version appear, in the place of those that were there.
    pub(super) fn put(&self, name: &ModelName, version: Version, staged: TempDir) -> io::Result<()> {
        let model = self.folder.join(name.as_str());
        fs::create_dir_all(&model)?;
        let place = model.join(version.to_string());
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::rename(staged.path(), &place)?;
        // What it would delete is elsewhere now.
        drop(staged.keep());
        Ok(())
    }

    /// Writes what is declared of a model, and only then removes the versions that it no longer speaks of.
    pub(super) fn declare(&self, name: &ModelName, file: &ManifestFile) -> io::Result<()> {
        let text = file.text().map_err(|detail| io::Error::other(format!("model.toml: {detail}")))?;
        let model = self.folder.join(name.as_str());
        fs::create_dir_all(&model)?;
        let mut beside = tempfile::NamedTempFile::new_in(&model)?;
        beside.write_all(b"# Written by the mirror of the model registry; a change is lost with its next one.\n")?;
        beside.write_all(text.as_bytes())?;
        beside.as_file().sync_all()?;
        beside.persist(model.join("model.toml"))?;
        for entry in fs::read_dir(&model)? {
            let entry = entry?;
            let version = entry.file_name().to_str().and_then(Version::parse);
            let is_here = |version| file.versions.get(&version).is_some_and(|version| version.refused.is_none());
            if version.is_some_and(|version| !is_here(version)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes a model: what declares it first, so that a half removed one is none.
    pub(super) fn remove(&mut self, name: &ModelName) -> io::Result<()> {
        let model = self.folder.join(name.as_str());
        if model.exists() {
            match fs::remove_file(model.join("model.toml")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs::remove_dir_all(&model)?,
            }
        }
        self.models.remove(name);
        Ok(())
    }
}

/// What a model's folder declares and really holds.
fn read_folder(model: &Path) -> Option<ManifestFile> {
    let mut file = ManifestFile::read(model).ok()?;
    file.versions.retain(|version, declared| {
        let has = |name: &str, wanted| digest(&model.join(version.to_string()).join(name)) == Some(wanted);
        let is_whole = || {
            declared.sha256.is_some_and(|wanted| has("model.onnx", wanted))
                && declared.data.iter().all(|(name, wanted)| has(name, *wanted))
        };
        declared.refused.is_some() || is_whole()
    });
    Some(file)
}

fn digest(path: &Path) -> Option<Sha256Digest> {
    let mut file = Measuring::new(fs::File::open(path).ok()?);
    io::copy(&mut file, &mut io::sink()).ok()?;
    Some(file.finish().0.sha256)
}

#[cfg(test)]
mod tests {
    use engine::{LoadFault, Reason};

    use super::*;
    use crate::manifest::VersionFile;

    fn version(number: &str) -> Version {
        Version::parse(number).unwrap()
    }

    fn name() -> ModelName {
        ModelName::parse("m").unwrap()
    }

    fn declared(versions: &[(&str, &[u8])]) -> ManifestFile {
        let spec = "inputs = [{ name = \"x\", datatype = \"FP32\", shape = [-1] }]\noutputs = [{ name = \"y\", datatype = \"FP32\", shape = [-1] }]";
        let mut text = format!("name = \"m\"\n{spec}\n");
        for (number, bytes) in versions {
            text.push_str(&format!(
                "[versions.{number}]\nsha256 = \"{}\"\nsource = \"models:/m-{number}\"\n",
                Sha256Digest::of(bytes)
            ));
        }
        toml::from_str(&text).unwrap()
    }

    fn put(mirror: &Mirror, number: &str, bytes: &[u8]) {
        let staged = mirror.stage().unwrap();
        fs::write(staged.path().join("model.onnx"), bytes).unwrap();
        mirror.put(&name(), version(number), staged).unwrap();
    }

    fn versions(mirror: &Mirror) -> Vec<String> {
        mirror.models.get(&name()).iter().flat_map(|m| m.file.versions.keys().map(Version::to_string)).collect()
    }

    /// What was put and declared is there after a restart; what is half there, damaged or no longer declared is not.
    #[test]
    fn a_restart_finds_what_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(folder.path()).unwrap();
        for (number, bytes) in [("1", b"one"), ("2", b"two"), ("3", b"tri")] {
            put(&mirror, number, bytes);
        }
        mirror.declare(&name(), &declared(&[("1", b"one"), ("2", b"two"), ("3", b"tri")])).unwrap();
        assert_eq!(versions(&Mirror::open(folder.path()).unwrap()), ["1", "2", "3"]);

        // Not finished, and damaged.
        fs::create_dir(folder.path().join(".incoming-abc")).unwrap();
        fs::write(folder.path().join("m/2/model.onnx"), b"twO").unwrap();
        assert_eq!(versions(&Mirror::open(folder.path()).unwrap()), ["1", "3"]);
        assert!(!folder.path().join(".incoming-abc").exists());

        // Refused and gone: the files go, the reason stays.
        let mut file = declared(&[("1", b"one"), ("3", b"tri")]);
        let fault = LoadFault::new(Reason::Digest, "no tag");
        file.versions
            .insert(version("1"), VersionFile { source: Some("s".into()), refused: Some(fault), ..Default::default() });
        mirror.declare(&name(), &file).unwrap();
        let mirror = Mirror::open(folder.path()).unwrap();
        assert_eq!(versions(&mirror), ["1", "3"]);
        assert_eq!(mirror.models[&name()].file, file);
        assert!(!folder.path().join("m/1").exists() && !folder.path().join("m/2").exists());
    }

    /// A file with weights is a part of its version: without it the version is fetched again.
    #[test]
    fn a_version_without_its_weights_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(folder.path()).unwrap();
        put(&mirror, "1", b"one");
        let mut file = declared(&[("1", b"one")]);
        file.versions.get_mut(&version("1")).unwrap().data = BTreeMap::from([("w".to_owned(), Sha256Digest::of(b"w"))]);
        mirror.declare(&name(), &file).unwrap();
        assert!(versions(&Mirror::open(folder.path()).unwrap()).is_empty());
        fs::write(folder.path().join("m/1/w"), b"w").unwrap();
        assert_eq!(versions(&Mirror::open(folder.path()).unwrap()), ["1"]);
    }

    /// A version that gets other files has them in one step, and a removed model leaves nothing.
    #[test]
    fn versions_are_replaced_and_models_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::open(folder.path()).unwrap();
        put(&mirror, "1", b"one");
        put(&mirror, "1", b"other");
        mirror.declare(&name(), &declared(&[("1", b"other")])).unwrap();
        assert_eq!(fs::read(folder.path().join("m/1/model.onnx")).unwrap(), b"other");
        mirror.remove(&name()).unwrap();
        mirror.remove(&name()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// Models of an operator's own folder are not deleted because a registry was configured.
    #[test]
    fn a_folder_of_other_models_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(folder.path()).unwrap();
        put(&mirror, "1", b"one");
        let mut file = declared(&[("1", b"one")]);
        file.versions.get_mut(&version("1")).unwrap().source = None;
        mirror.declare(&name(), &file).unwrap();
        let refused = Mirror::open(folder.path()).err().unwrap().to_string();
        assert!(refused.contains("folder of its own"), "{refused}");
    }
}
