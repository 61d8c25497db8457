//! What keeps the versions of a model folder from being served, found without serving any.

use std::{fmt, fs, path::Path, sync::Arc};

use engine::{LoadFault, Reason, VersionFiles, WorkerStarter};

use crate::{
    manifest::{Declared, ManifestFile},
    names::Version,
};

/// One thing that is wrong.
#[derive(Debug)]
pub struct Finding {
    /// With which version; none, if with the whole model.
    pub version: Option<Version>,
    /// What it is.
    pub fault: LoadFault,
}

/// Checks a model folder as a load does: the declaration, and of each version the files, and its golden example in a process of its own. All
/// that is wrong, of each version the first; nothing, if all would serve.
pub async fn check(folder: &Path, starter: &WorkerStarter) -> Vec<Finding> {
    let file = match ManifestFile::read(folder) {
        Ok(file) => file,
        Err(detail) => return vec![of_declaration(&detail)],
    };
    let mut findings: Vec<Finding> = file.faults(folder).iter().map(|detail| of_declaration(detail)).collect();
    findings.extend(undeclared(folder, &file));
    for (version, declared) in file.declared() {
        // A version that is not declared soundly is among the faults of the declaration.
        let Ok(declared) = declared else { continue };
        if let Err(fault) = prove(&folder.join(version.to_string()), &declared, starter).await {
            findings.push(Finding { version: Some(version), fault });
        }
    }
    findings
}

fn of_declaration(detail: &str) -> Finding {
    Finding { version: None, fault: LoadFault::new(Reason::Manifest, format!("model.toml: {detail}")) }
}

async fn prove(folder: &Path, declared: &Declared, starter: &WorkerStarter) -> Result<(), LoadFault> {
    let (digests, signature) = match declared {
        Declared::Files(digests, signature) => (digests.clone(), signature),
        Declared::Refused(fault) => return Err(fault.clone()),
    };
    let files = VersionFiles::open(folder, digests, starter.file_bytes_max)?;
    starter.prove(&Arc::new(files), signature).await
}

/// Folders of versions that the declaration does not speak of.
fn undeclared(folder: &Path, file: &ManifestFile) -> Vec<Finding> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut versions: Vec<Version> = entries.filter_map(|entry| Version::parse(entry.file_name().to_str()?)).collect();
    versions.retain(|version| !file.versions.contains_key(version));
    versions.sort();
    let finding = |version| {
        let fault = LoadFault::new(Reason::Manifest, "its folder is there, but model.toml does not declare it");
        Finding { version: Some(version), fault }
    };
    versions.into_iter().map(finding).collect()
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "version {version}: {}", self.fault),
            None => self.fault.fmt(f),
        }
    }
}
