//! Names and directories of sets.
//!
//! `ml-data-2026-11-22` lies in `<root>/2026-11-22/ml/`. Another set of the same day carries its time:
//! `ml-data-2026-11-22T193000Z` lies in `<root>/2026-11-22T193000Z/ml/`. Name and directory match, so that a set
//! moved to another directory is noticed.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use time::{
    Date, OffsetDateTime, PrimitiveDateTime, Time, format_description::StaticFormatDescription,
    macros::format_description,
};

const PREFIX: &str = "ml-data-";
const SUBDIRECTORY: &str = "ml";
const DAY: StaticFormatDescription = format_description!("[year]-[month]-[day]");
const SECOND: StaticFormatDescription = format_description!("[year]-[month]-[day]T[hour][minute][second]Z");

/// The name of a set, e.g. `ml-data-2026-11-22`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SetName {
    stamp: String,
}

/// A text that names no set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a set, like ml-data-2026-11-22 or ml-data-2026-11-22T193000Z")]
pub struct NotASetName;

// === impl SetName ===

impl SetName {
    /// The name for the first set of a day (UTC).
    pub fn of_day(time: OffsetDateTime) -> Self {
        Self { stamp: time.date().format(DAY).expect("a date has year, month and day") }
    }

    /// The name for a further set of that day.
    pub fn of_second(time: OffsetDateTime) -> Self {
        let time = PrimitiveDateTime::new(time.date(), time.time());
        Self { stamp: time.format(SECOND).expect("a time has all that it is written with") }
    }

    /// The directory below the root that appears when the set is complete.
    pub fn top_directory(&self, root: &Path) -> PathBuf {
        root.join(&self.stamp)
    }

    /// The directory of its files.
    pub fn directory(&self, root: &Path) -> PathBuf {
        Self::inside(&self.top_directory(root))
    }

    /// Where the files lie inside of a top directory, under whatever name.
    pub fn inside(top_directory: &Path) -> PathBuf {
        top_directory.join(SUBDIRECTORY)
    }

    /// The complete sets below a root, in the order of their names.
    pub fn list(root: &Path) -> std::io::Result<Vec<Self>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(root)? {
            let stamp = entry?.file_name();
            let name = stamp.to_str().and_then(|stamp| Self::from_stamp(stamp).ok());
            names.extend(name.filter(|name| name.directory(root).is_dir()));
        }
        names.sort();
        Ok(names)
    }

    fn from_stamp(stamp: &str) -> Result<Self, NotASetName> {
        // Parsing alone would accept signs and spaces in places; what is written back must be what was read.
        let written = match (Date::parse(stamp, DAY), PrimitiveDateTime::parse(stamp, SECOND)) {
            (Ok(day), _) => Self::of_day(day.with_time(Time::MIDNIGHT).assume_utc()),
            (_, Ok(second)) => Self::of_second(second.assume_utc()),
            _ => return Err(NotASetName),
        };
        if written.stamp == stamp { Ok(written) } else { Err(NotASetName) }
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.stamp)
    }
}

impl FromStr for SetName {
    type Err = NotASetName;

    fn from_str(name: &str) -> Result<Self, NotASetName> {
        Self::from_stamp(name.strip_prefix(PREFIX).ok_or(NotASetName)?)
    }
}

impl From<SetName> for String {
    fn from(name: SetName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for SetName {
    type Error = NotASetName;

    fn try_from(name: String) -> Result<Self, NotASetName> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn name_and_directory_match() {
        let time = datetime!(2026-11-22 19:30:05 UTC);
        let root = Path::new("/backups");
        let day = SetName::of_day(time);
        assert_eq!(day.to_string(), "ml-data-2026-11-22");
        assert_eq!(day.directory(root), Path::new("/backups/2026-11-22/ml"));
        let second = SetName::of_second(time);
        assert_eq!(second.to_string(), "ml-data-2026-11-22T193005Z");
        assert_eq!(second.directory(root), Path::new("/backups/2026-11-22T193005Z/ml"));
        for name in [day, second] {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            "ml-data-",
            "2026-11-22",
            "ml-data-2026-11-31",
            "ml-data-2026-11-22/../x",
            "ml-data-+2026-11-22",
            "ml-data-2026-11-22 ",
            "ml-data-2026-11-22T193005",
            "ml-data-2026-11-22T193060Z",
            "ml-data-..",
        ] {
            assert_eq!(name.parse::<SetName>(), Err(NotASetName), "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_back(text in "ml-data-[0-9T:Z./+-]{0,20}") {
            if let Ok(name) = text.parse::<SetName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
