//! A checkout, and what in it does not agree with the map.

use std::{collections::BTreeSet, fmt::Display, fs, path::PathBuf};

use serde_json::Value;
use topology::{Map, Workload};

/// A checkout under comparison.
pub(crate) struct Checkout {
    root: PathBuf,
    /// Every file that was looked at.
    pub(crate) read: BTreeSet<String>,
    /// `<file>: <what is wrong>`
    pub(crate) faults: Vec<String>,
}

// === impl Checkout ===

impl Checkout {
    /// The one in this folder.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root, read: BTreeSet::new(), faults: Vec::new() }
    }

    /// The text of a file; one that is missing is a fault, and empty.
    pub(crate) fn text(&mut self, file: &str) -> String {
        self.read.insert(file.to_owned());
        fs::read_to_string(self.root.join(file)).unwrap_or_else(|error| {
            self.fault(file, error);
            String::new()
        })
    }

    /// A YAML file, with its anchors and merges resolved.
    pub(crate) fn yaml(&mut self, file: &str) -> Value {
        let text = self.text(file);
        serde_saphyr::from_str(&text).unwrap_or_else(|error| {
            self.fault(file, error);
            Value::Null
        })
    }

    /// A TOML file.
    pub(crate) fn toml(&mut self, file: &str) -> Value {
        let text = self.text(file);
        toml::from_str(&text).unwrap_or_else(|error| {
            self.fault(file, error);
            Value::Null
        })
    }

    /// Something in the file is not as it should be.
    pub(crate) fn fault(&mut self, file: &str, what: impl Display) {
        self.faults.push(format!("{file}: {what}"));
    }

    /// Both sets must be equal; what is missing and what is too much is a fault.
    pub(crate) fn same<M: ToString, F: ToString>(
        &mut self,
        file: &str,
        what: impl Display,
        map: impl IntoIterator<Item = M>,
        found: impl IntoIterator<Item = F>,
    ) {
        let map: BTreeSet<String> = map.into_iter().map(|item| item.to_string()).collect();
        let found: BTreeSet<String> = found.into_iter().map(|item| item.to_string()).collect();
        for missing in map.difference(&found) {
            self.fault(file, format_args!("{what}: {missing} is missing"));
        }
        for surplus in found.difference(&map) {
            self.fault(file, format_args!("{what}: {surplus} is not on the map"));
        }
    }
}

/// The strings of a list, or the keys of a table.
pub(crate) fn words(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
        Value::Object(table) => table.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// The workload of this name.
pub(crate) fn workload(map: &Map, name: &str) -> &'static Workload {
    map.workloads().find(|workload| workload.name == name).unwrap()
}

/// `instance:port` of every instance, by the port on which it is called.
pub(crate) fn addresses(map: &Map, name: &str) -> Vec<String> {
    let workload = workload(map, name);
    let port = workload.sockets.first().unwrap().port;
    workload.instances.iter().map(|instance| format!("{instance}:{port}")).collect()
}

/// What stands between two marks, first match only.
pub(crate) fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let rest = text.split_once(start).map_or("", |(_, rest)| rest);
    rest.split_once(end).map_or("", |(found, _)| found)
}
