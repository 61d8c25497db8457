//! The folder of a model: a version appears in it in one rename, with its declaration after its files.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use tempfile::{NamedTempFile, TempDir};
use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, value};

use super::{
    inspect::{Inspected, Tensor},
    name,
};

/// Begins the names of folders that are not finished. Serving looks at none whose name begins with a dot.
const INCOMING: &str = ".incoming-";
/// The alias that a call without a version means.
pub(crate) const CHAMPION: &str = "champion";

/// Where a model is, or will be.
pub(crate) struct ModelsFolder {
    models: PathBuf,
    name: String,
    /// Its `model.toml`, if there is one.
    declared: Option<String>,
}

/// What is added.
pub(crate) struct NewVersion<'a> {
    pub(crate) version: u64,
    pub(crate) alias: Option<&'a str>,
    pub(crate) model: &'a Path,
    pub(crate) inspected: &'a Inspected,
}

/// What was added, so that it can be taken back.
pub(crate) struct Added {
    model: PathBuf,
    version: PathBuf,
    declared_before: Option<String>,
}

// === impl ModelsFolder ===

impl ModelsFolder {
    pub(crate) fn open(models: &Path, name: &str) -> anyhow::Result<Self> {
        name::check(name)?;
        let file = models.join(name).join("model.toml");
        let declared = match fs::read_to_string(&file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        Ok(Self { models: models.to_owned(), name: name.to_owned(), declared })
    }

    /// Whether there was no such model before.
    pub(crate) fn is_new(&self) -> bool {
        self.declared.is_none()
    }

    /// The wanted version if it is free, or else the one after the newest.
    pub(crate) fn free_version(&self, wanted: Option<u64>) -> anyhow::Result<u64> {
        let folder = self.folder();
        let taken: Vec<u64> = match fs::read_dir(&folder) {
            Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect(),
            Err(_) => Vec::new(),
        };
        let Some(version) = wanted else { return Ok(taken.iter().max().map_or(1, |newest| newest + 1)) };
        ensure!(
            !taken.contains(&version),
            "{} is there already; nothing is overwritten",
            folder.join(version.to_string()).display()
        );
        Ok(version)
    }

    /// Puts the files in place, and then declares them.
    pub(crate) fn add(&self, new: &NewVersion<'_>) -> anyhow::Result<Added> {
        let staged = tempfile::Builder::new().prefix(INCOMING).tempdir_in(&self.models);
        let staged = staged.with_context(|| format!("cannot write into {}", self.models.display()))?;
        let declaration = self.declaration(new)?;
        let (model, number) = (self.folder(), new.version.to_string());
        let version = model.join(&number);
        let added = Added { model: model.clone(), version, declared_before: self.declared.clone() };
        if self.declared.is_some() {
            copy_version(new, staged.path())?;
            put(staged, &added.version)?;
            replace(&model, &declaration).inspect_err(|_| drop(fs::remove_dir_all(&added.version)))?;
        } else {
            let place = staged.path().join(&number);
            fs::create_dir(&place).with_context(|| format!("cannot make {}", place.display()))?;
            copy_version(new, &place)?;
            replace(staged.path(), &declaration)?;
            put(staged, &model)?;
        }
        Ok(added)
    }

    fn folder(&self) -> PathBuf {
        self.models.join(&self.name)
    }

    /// The text of `model.toml` with the new version; what was in it stays as it is written.
    fn declaration(&self, new: &NewVersion<'_>) -> anyhow::Result<String> {
        let mut document: DocumentMut = self.declared.as_deref().unwrap_or_default().parse().context("model.toml")?;
        let is_new = self.declared.is_none();
        let number = new.version.to_string();
        if is_new {
            document.insert("name", value(&*self.name));
        }
        if let Some(alias) = new.alias.or(is_new.then_some(CHAMPION)) {
            section(&mut document, "aliases")?.insert(alias, value(&*number));
        }
        let mut declared = Table::new();
        declared.insert("sha256", value(&*new.inspected.sha256));
        if !new.inspected.data.is_empty() {
            let digests = new.inspected.data.iter().map(|(name, digest)| (&**name, &**digest));
            declared.insert("data", value(digests.collect::<InlineTable>()));
        }
        declared.insert("inputs", tensors(&new.inspected.inputs)?);
        declared.insert("outputs", tensors(&new.inspected.outputs)?);
        section(&mut document, "versions")?.insert(&number, Item::Table(declared));
        Ok(document.to_string())
    }
}

// === impl Added ===

impl Added {
    /// Removes what was added.
    pub(crate) fn take_back(self) -> anyhow::Result<()> {
        let outcome = match self.declared_before {
            Some(text) => replace(&self.model, &text).and_then(|()| Ok(fs::remove_dir_all(&self.version)?)),
            None => Ok(fs::remove_dir_all(&self.model)?),
        };
        outcome
            .with_context(|| format!("the version does not serve, and {} cannot be taken back", self.version.display()))
    }
}

/// A table of the document, made where there is none.
fn section<'d>(document: &'d mut DocumentMut, name: &str) -> anyhow::Result<&'d mut dyn TableLike> {
    let mut made = Table::new();
    // Without a line of its own: what is in it has one.
    made.set_implicit(true);
    let item = document.entry(name).or_insert(Item::Table(made));
    item.as_table_like_mut().with_context(|| format!("model.toml: {name} is no table"))
}

/// As `[[inputs]]` and `[[outputs]]` have them.
pub(crate) fn tensors(tensors: &[Tensor]) -> anyhow::Result<Item> {
    let mut list = toml_edit::ArrayOfTables::new();
    for tensor in tensors {
        list.push(toml_edit::ser::to_document(tensor)?.as_table().clone());
    }
    Ok(Item::ArrayOfTables(list))
}

fn copy_version(new: &NewVersion<'_>, into: &Path) -> anyhow::Result<()> {
    let beside = new.model.parent().unwrap_or(Path::new(""));
    let weights = new.inspected.data.keys().map(|name| (beside.join(name), name.clone()));
    for (from, name) in [(new.model.to_owned(), "model.onnx".to_owned())].into_iter().chain(weights) {
        fs::copy(&from, into.join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    fs::write(into.join("golden.json"), new.inspected.golden.to_string()).context("cannot write golden.json")
}

/// One rename, so that serving never sees half of it.
fn put(staged: TempDir, place: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(staged.path(), fs::Permissions::from_mode(0o755))?;
    fs::rename(staged.path(), place).with_context(|| format!("cannot put the model at {}", place.display()))?;
    drop(staged.keep());
    Ok(())
}

fn replace(folder: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut beside = NamedTempFile::new_in(folder)?;
    beside.write_all(text.as_bytes())?;
    beside.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    beside.as_file().sync_all()?;
    beside.persist(folder.join("model.toml")).context("cannot write model.toml")?;
    Ok(())
}
