//! Percentages that are never too high: exact fractions, floored to four decimals, compared before they are rounded.

use serde::{Serialize, Serializer};

/// Parts per million of a whole: a percentage with exactly four decimals.
const PARTS_PER_WHOLE: u128 = 1_000_000;

/// `part / whole`, kept exact. The whole is never zero: a share of nothing is `None`, not 100 %.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    part: u128,
    whole: u128,
}

/// A percentage of four decimals, cut off and never rounded up: 99.89999 is 99.8999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percentage {
    parts_per_million: u32,
}

// === impl Share ===

impl Share {
    /// The share, or nothing when there is no whole to have a share of. A part greater than its whole counts as all.
    pub fn of(part: u128, whole: u128) -> Option<Self> {
        (whole > 0).then(|| Self { part: part.min(whole), whole })
    }

    /// The share as a percentage.
    pub fn floor(self) -> Percentage {
        let parts = self.part.saturating_mul(PARTS_PER_WHOLE) / self.whole;
        Percentage { parts_per_million: u32::try_from(parts).expect("a share is at most one million parts") }
    }

    /// Whether the exact share, not its rounded form, is strictly above the target.
    pub fn exceeds(self, target: Percentage) -> bool {
        let target_parts = self.whole.saturating_mul(u128::from(target.parts_per_million));
        self.part.saturating_mul(PARTS_PER_WHOLE) > target_parts
    }

    /// Whether the exact share is strictly below the target.
    pub fn is_below(self, target: Percentage) -> bool {
        let target_parts = self.whole.saturating_mul(u128::from(target.parts_per_million));
        self.part.saturating_mul(PARTS_PER_WHOLE) < target_parts
    }
}

// === impl Percentage ===

impl Percentage {
    /// A percentage from its ten-thousandths, at most 1,000,000 of them: 999,000 is 99.9 %.
    pub const fn from_ten_thousandths(parts: u32) -> Option<Self> {
        if parts as u128 <= PARTS_PER_WHOLE { Some(Self { parts_per_million: parts }) } else { None }
    }

    /// The percentage as a number, e.g. 99.9.
    pub fn as_f64(self) -> f64 {
        f64::from(self.parts_per_million) / 10_000.0
    }

    /// The same between 0 and 1, as metrics have it.
    pub fn as_ratio(self) -> f64 {
        f64::from(self.parts_per_million) / 1_000_000.0
    }
}

impl Serialize for Percentage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_f64())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn floor(part: u128, whole: u128) -> String {
        serde_json::to_string(&Share::of(part, whole).unwrap().floor()).unwrap()
    }

    #[test]
    fn never_rounds_up() {
        assert_eq!(floor(998_999_999, 1_000_000_000), "99.8999");
        assert_eq!(floor(999_999_999, 1_000_000_000), "99.9999");
        assert_eq!(floor(2, 3), "66.6666");
        assert_eq!(floor(7, 7), "100.0");
        assert_eq!(floor(0, 7), "0.0");
    }

    #[test]
    fn share_of_nothing_is_nothing() {
        assert!(Share::of(0, 0).is_none());
    }

    #[test]
    fn comparison_is_strict_and_exact() {
        let target = Percentage::from_ten_thousandths(999_000).unwrap();
        assert!(!Share::of(999, 1000).unwrap().exceeds(target));
        // Reads 99.9 when floored, and is above it all the same.
        assert!(Share::of(999_000_001, 1_000_000_000).unwrap().exceeds(target));
        assert!(Share::of(998_999_999, 1_000_000_000).unwrap().is_below(target));
        assert!(!Share::of(999, 1000).unwrap().is_below(target));
    }

    proptest! {
        #[test]
        fn floored_is_at_most_the_truth_and_less_than_one_part_below(part in 0_u64.., whole in 1_u64..) {
            let share = Share::of(part.into(), whole.into()).unwrap();
            let parts = u128::from(share.floor().parts_per_million);
            prop_assert!(parts * share.whole <= share.part * PARTS_PER_WHOLE);
            prop_assert!((parts + 1) * share.whole > share.part * PARTS_PER_WHOLE);
        }

        #[test]
        fn printed_with_at_most_four_decimals(parts in 0_u32..=1_000_000) {
            let text = serde_json::to_string(&Percentage::from_ten_thousandths(parts).unwrap()).unwrap();
            let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
            prop_assert!(decimals <= 4, "{text}");
        }
    }
}
