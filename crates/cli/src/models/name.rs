//! What a model may be called, and is called without a name of its own.

use std::path::Path;

use anyhow::{Context as _, ensure};

const LENGTH_MAX: usize = 64;

/// Refuses what serving does not take for the name of a model.
pub(crate) fn check(name: &str) -> anyhow::Result<()> {
    ensure!(
        is_name(name),
        "{name:?} is no name of a model: 1 to {LENGTH_MAX} letters, digits, '.', '_' or '-', the first a letter or digit"
    );
    Ok(())
}

/// Like its file or, if that is `model.onnx`, like its folder.
pub(crate) fn of(path: &Path) -> anyhow::Result<String> {
    let stem = |path: &Path| path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
    let absolute = std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))?;
    let name = match stem(&absolute) {
        Some(stem) if stem != "model" => Some(stem),
        _ => absolute.parent().and_then(stem),
    };
    let name = name.filter(|name| is_name(name));
    ensure!(name.is_some(), "{} gives no name for the model: say one with --name", path.display());
    Ok(name.unwrap_or_default())
}

fn is_name(name: &str) -> bool {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() <= LENGTH_MAX && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(harmless)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_like_its_file_or_folder() {
        let name = |path: &str| of(Path::new(path)).ok();
        assert_eq!(name("/a/churn.onnx").as_deref(), Some("churn"));
        assert_eq!(name("/a/churn/model.onnx").as_deref(), Some("churn"));
        assert_eq!(name("/a/my model.onnx"), None);
        assert_eq!(name("/model.onnx"), None);
    }
}
