//! Paths: which route they are below, and whether they can be read in one way only.

/// Whether the path is the prefix or below it, by whole segments.
pub(super) fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// No empty, `.` or `..` segments, plain or percent-encoded: the router of a service might resolve them and leave the
/// route that was found here.
pub(super) fn is_plain(path: &str) -> bool {
    if path.contains("//") || path.contains('\\') {
        return false;
    }
    let is_dots = |segment: &str| {
        let decoded = segment.replace("%2e", ".").replace("%2E", ".");
        matches!(decoded.as_str(), "." | "..")
    };
    let has_suspects = path.contains("/.") || path.contains('%');
    !has_suspects || !path.split('/').any(is_dots)
}
