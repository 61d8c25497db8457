//! Which models should serve, as this replica knows it: kept by the gateway for all replicas, and mirrored to a file for the
//! time when no gateway answers.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::names::ModelName;

/// A file that is longer is damaged: 1,024 names take less than a tenth of this.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The state at one generation. What it does not know is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredModels {
    generation: u64,
    /// Whether each model is loaded.
    models: BTreeMap<ModelName, bool>,
}

/// The file, as it is written.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct DesiredFile {
    generation: u64,
    loaded: Vec<String>,
    unloaded: Vec<String>,
}

// === impl DesiredModels ===

impl DesiredModels {
    /// Of these models with whether each is loaded. One whose name none can have is left out.
    pub fn new<'a>(generation: u64, models: impl IntoIterator<Item = (&'a str, bool)>) -> Self {
        let models = models.into_iter().filter_map(|(name, loaded)| Some((ModelName::parse(name)?, loaded)));
        Self { generation, models: models.collect() }
    }

    /// Grows with each change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a caller took it out of service.
    pub fn is_unloaded(&self, name: &str) -> bool {
        self.models.get(name) == Some(&false)
    }

    /// Whether anything is said of it.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.models.contains_key(name)
    }

    /// Whether there is something to serve.
    pub(crate) fn has_loaded(&self) -> bool {
        self.models.values().any(|loaded| *loaded)
    }

    /// What was written last; none if nothing was.
    ///
    /// # Errors
    /// The file cannot be read, or is not one that [`Self::write`] wrote.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        let file: DesiredFile = serde_json::from_str(&text)?;
        let with = |names: &[String], loaded| names.iter().map(move |name| (name.clone(), loaded)).collect::<Vec<_>>();
        let models = [with(&file.loaded, true), with(&file.unloaded, false)].concat();
        Ok(Some(Self::new(file.generation, models.iter().map(|(name, loaded)| (name.as_str(), *loaded)))))
    }

    /// Replaces the file in one step; when this returns it survives a power cut.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let with = |wanted: bool| {
            let names = self.models.iter().filter(|(_, loaded)| **loaded == wanted);
            names.map(|(name, _)| name.to_string()).collect()
        };
        let file = DesiredFile { generation: self.generation, loaded: with(true), unloaded: with(false) };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut beside = tempfile::NamedTempFile::new_in(folder)?;
        beside.write_all(&serde_json::to_vec_pretty(&file)?)?;
        beside.as_file().sync_all()?;
        beside.persist(path)?;
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("desired.json");
        assert_eq!(DesiredModels::read(&path).unwrap(), None);
        for generation in [7, 8] {
            let state = DesiredModels::new(generation, [("a", true), ("b", false), ("../c", false)]);
            state.write(&path).unwrap();
            let read = DesiredModels::read(&path).unwrap().unwrap();
            assert_eq!(read, state);
            assert_eq!(["a", "b", "unknown"].map(|name| read.is_unloaded(name)), [false, true, false]);
            assert!(read.has_loaded());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_of_others_is_an_error_and_not_an_empty_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("desired.json");
        for text in ["", "{}", "{\"generation\": 1, \"loaded\": [], \"unloaded\": [], \"more\": 1}"] {
            fs::write(&path, text).unwrap();
            assert!(DesiredModels::read(&path).is_err(), "{text}");
        }
    }
}
