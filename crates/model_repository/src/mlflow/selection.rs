//! Which versions of a model are mirrored, and what is declared of them: rules without I/O.

use std::collections::{BTreeMap, BTreeSet};

use engine::{Isolation, LoadFault, Reason};
use sha256::Sha256Digest;

use super::rest_api::{ModelVersion, RegisteredModel};
use crate::{
    manifest::{ManifestFile, VERSIONS_MAX, VersionFile},
    names::{Version, is_alias},
};

const DESCRIPTION_CHARS_MAX: usize = 1000;

/// What is known of a version before anything of it is fetched.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum VersionDecision {
    /// The mirror has it, or has refused it.
    Unchanged(VersionFile),
    /// It is refused by what the registry says of it.
    Refused(VersionFile),
    /// Its files must be fetched; together they must have this digest.
    Fetch(Sha256Digest),
}

/// The aliases that can be declared, with what they mean.
pub(super) fn aliases(model: &RegisteredModel) -> BTreeMap<String, Version> {
    let aliases = model.aliases().into_iter().filter(|(alias, _)| is_alias(alias));
    aliases.map(|(alias, version)| (alias.to_owned(), version)).collect()
}

/// What the aliases meant when their versions last served, of those that are aliases still.
pub(super) fn last_good(
    aliases: &BTreeMap<String, Version>,
    mirrored: Option<&ManifestFile>,
) -> BTreeMap<String, Version> {
    let known = mirrored.map(|file| file.last_good.clone()).unwrap_or_default();
    known.into_iter().filter(|(alias, _)| aliases.contains_key(alias)).collect()
}

/// The versions to mirror: what an alias means, what it last meant that served, and the newest. Of too many the aliased
/// ones come first.
pub(super) fn wanted(
    newest: impl IntoIterator<Item = Version>,
    aliases: &BTreeMap<String, Version>,
    last_good: &BTreeMap<String, Version>,
) -> BTreeSet<Version> {
    let mut wanted = BTreeSet::new();
    for version in aliases.values().chain(last_good.values()).copied().chain(newest) {
        if wanted.len() < VERSIONS_MAX {
            wanted.insert(version);
        }
    }
    wanted
}

/// What becomes of a version, without fetching it. `again`: what was refused may be mended by now.
pub(super) fn decide(version: &ModelVersion, mirrored: Option<&ManifestFile>, again: bool) -> VersionDecision {
    let Some(digest) = version.digest.as_deref().and_then(|tag| tag.to_ascii_lowercase().parse::<Sha256Digest>().ok())
    else {
        let detail = match &version.digest {
            None => {
                "the version has no tag sha256 in the registry; `rampart models adopt` adds it, with all that a version needs"
            }
            Some(_) => "the tag sha256 of the version is no SHA-256; set it to that of the model file, 64 hex digits",
        };
        return VersionDecision::Refused(refused(version, None, LoadFault::new(Reason::Digest, detail)));
    };
    let known = mirrored.and_then(|file| file.versions.get(&version.number)).filter(|known| {
        let is_same = known.source.as_ref() == Some(&version.source) && known.digest() == Some(digest);
        is_same && !(again && known.refused.is_some())
    });
    known.map_or(VersionDecision::Fetch(digest), |known| VersionDecision::Unchanged(known.clone()))
}

/// What is declared of a version that was refused.
pub(super) fn refused(version: &ModelVersion, digest: Option<Sha256Digest>, fault: LoadFault) -> VersionFile {
    VersionFile { sha256: digest, source: Some(version.source.clone()), refused: Some(fault), ..VersionFile::default() }
}

/// What is declared of a model. Aliases of versions that are not mirrored are left out.
pub(super) fn manifest(
    model: &RegisteredModel,
    versions: BTreeMap<Version, VersionFile>,
    mut aliases: BTreeMap<String, Version>,
    mut last_good: BTreeMap<String, Version>,
) -> ManifestFile {
    aliases.retain(|_, version| versions.contains_key(version));
    last_good.retain(|_, version| versions.contains_key(version));
    ManifestFile {
        name: model.name.clone(),
        description: model.description.chars().take(DESCRIPTION_CHARS_MAX).collect(),
        isolation: Isolation::default(),
        aliases,
        last_good,
        versions,
        inputs: Vec::new(),
        outputs: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u64) -> Version {
        Version::parse(&number.to_string()).unwrap()
    }

    fn meaning(pairs: &[(&str, u64)]) -> BTreeMap<String, Version> {
        pairs.iter().map(|(alias, version)| ((*alias).to_owned(), number(*version))).collect()
    }

    fn registered(text: &str) -> RegisteredModel {
        serde_json::from_str(text).unwrap()
    }

    const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn version(source: &str, digest: Option<&str>) -> ModelVersion {
        ModelVersion { number: number(1), source: source.to_owned(), digest: digest.map(str::to_owned) }
    }

    #[test]
    fn aliased_versions_are_mirrored_however_old() {
        let wanted = |newest: &[u64], aliases: &[(&str, u64)], last_good: &[(&str, u64)]| -> Vec<String> {
            let newest = newest.iter().map(|version| number(*version));
            wanted(newest, &meaning(aliases), &meaning(last_good)).iter().map(Version::to_string).collect()
        };
        assert_eq!(wanted(&[9, 8], &[("champion", 1)], &[]), ["1", "8", "9"]);
        assert_eq!(wanted(&[9, 8], &[("champion", 9)], &[("champion", 3)]), ["3", "8", "9"]);
        let newest: Vec<u64> = (100..200).collect();
        let many = wanted(&newest, &[("champion", 1)], &[("champion", 2)]);
        assert_eq!((many.len(), &*many[0], &*many[1]), (VERSIONS_MAX, "1", "2"));
    }

    /// Fetched once: as long as source and digest stay, a version is what it was, also when it was refused.
    #[test]
    fn a_version_is_fetched_once() {
        let good = VersionFile { sha256: SHA256.parse().ok(), source: Some("a".into()), ..VersionFile::default() };
        let bad = VersionFile { refused: Some(LoadFault::new(Reason::Golden, "none")), ..good.clone() };
        let file = |known: &VersionFile| {
            let versions = BTreeMap::from([(number(1), known.clone())]);
            manifest(&registered(r#"{"name": "m"}"#), versions, BTreeMap::new(), BTreeMap::new())
        };
        let missing = || VersionDecision::Fetch(SHA256.parse().unwrap());
        let same = version("a", Some(SHA256));
        assert_eq!(decide(&same, None, false), missing());
        assert_eq!(decide(&same, Some(&file(&good)), true), VersionDecision::Unchanged(good.clone()));
        assert_eq!(decide(&same, Some(&file(&bad)), false), VersionDecision::Unchanged(bad.clone()));
        assert_eq!(decide(&same, Some(&file(&bad)), true), missing(), "a load asks again");
        assert_eq!(decide(&version("b", Some(SHA256)), Some(&file(&good)), false), missing());
        let other = SHA256.replace('e', "f");
        let other = version("a", Some(&other));
        assert!(matches!(decide(&other, Some(&file(&good)), false), VersionDecision::Fetch(_)));
    }

    #[test]
    fn a_version_without_a_digest_is_refused() {
        for (tag, words) in [(None, "no tag sha256"), (Some("abc"), "64 hex digits")] {
            let VersionDecision::Refused(file) = decide(&version("a", tag), None, false) else { panic!("{tag:?}") };
            let fault = file.refused.unwrap();
            assert!(fault.reason == Reason::Digest && fault.detail.contains(words), "{fault}");
        }
    }

    /// What MLflow allows as an alias and a path here does not, or what means a version that is not mirrored, is left out.
    #[test]
    fn only_aliases_that_can_mean_something_are_declared() {
        let model = registered(
            r#"{"name": "m", "aliases": [{"alias": "champion", "version": "1"}, {"alias": "12", "version": "1"},
                {"alias": "old", "version": "7"}]}"#,
        );
        let versions =
            BTreeMap::from([(number(1), refused(&version("a", None), None, LoadFault::new(Reason::Digest, "")))]);
        let last = last_good(&aliases(&model), None);
        let file = manifest(&model, versions, aliases(&model), last);
        assert_eq!(file.aliases, meaning(&[("champion", 1)]));
        assert!(file.text().is_ok());
    }

    #[test]
    fn what_served_last_is_forgotten_with_its_alias() {
        let mut file = manifest(&registered(r#"{"name": "m"}"#), BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        file.last_good = meaning(&[("champion", 1), ("old", 2)]);
        assert_eq!(last_good(&meaning(&[("champion", 5)]), Some(&file)), meaning(&[("champion", 1)]));
    }
}
