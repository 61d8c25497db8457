//! What a verification came to, and how it is said.

use serde_json::{Value, json};

use crate::{connection::text, output::Output};

/// The verification could not be carried out, which says nothing about the set.
const EXIT_NOT_VERIFIED: u8 = 2;

/// A verdict or why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) verdict: &'static str,
    pub(super) why: String,
    pub(super) code: u8,
}

// === impl Judged ===

impl Judged {
    pub(super) fn print(&self, output: Output, set: &str) {
        let Self { verdict, why, .. } = self;
        let line = if why.is_empty() { format!("{verdict} {set}") } else { format!("{verdict} {set}: {why}") };
        output.fact(&line, &json!({ "set": set, "verdict": verdict, "why": why }));
    }
}

/// No verdict.
pub(super) fn not_verified(why: String) -> Judged {
    Judged { verdict: "NOT VERIFIED", why, code: EXIT_NOT_VERIFIED }
}

/// What a run says of the set.
pub(super) fn judged(set: &str, run: &anyhow::Result<Value>) -> Judged {
    match run {
        Ok(run) if text(run, "set") != set => not_verified(format!("the run is about {:?}", text(run, "set"))),
        Ok(run) => match text(run, "verdict") {
            "VALID" => Judged { verdict: "VALID", why: String::new(), code: 0 },
            "INVALID" => Judged { verdict: "INVALID", why: text(run, "reason").to_owned(), code: 1 },
            _ => not_verified(text(run, "error").to_owned()),
        },
        Err(error) => not_verified(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that only a verdict is called one: what could not be tried has an exit code of its own.
    #[test]
    fn failed_run_is_not_verified() {
        let invalid = json!({ "set": "s", "state": "succeeded", "verdict": "INVALID", "reason": "a bit" });
        let failed = json!({ "set": "s", "state": "failed", "verdict": null, "error": "no room" });
        let valid = json!({ "set": "s", "state": "succeeded", "verdict": "VALID" });
        let other = json!({ "set": "t", "state": "succeeded", "verdict": "VALID" });
        let expected = |verdict, why: &str, code| Judged { verdict, why: why.to_owned(), code };
        assert_eq!(judged("s", &Ok(valid)), expected("VALID", "", 0));
        assert_eq!(judged("s", &Ok(other)), expected("NOT VERIFIED", "the run is about \"t\"", 2));
        assert_eq!(judged("s", &Ok(invalid)), expected("INVALID", "a bit", 1));
        assert_eq!(judged("s", &Ok(failed)), expected("NOT VERIFIED", "no room", 2));
        assert_eq!(judged("s", &Err(anyhow::anyhow!("403"))), expected("NOT VERIFIED", "403", 2));
    }
}
