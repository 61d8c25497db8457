//! Half-precision numbers out of decimal text, rounded once.
//!
//! The parsers at hand go over single or double precision and round twice, which is wrong in the last bit where the first rounding
//! ends in the middle between two neighbours.

use std::cmp::Ordering;

use half::{bf16, f16};

/// More significant digits than the middle of any two neighbours has.
const DIGITS: usize = 120;

/// The nearest FP16, ties to even; none if it is beyond the range.
pub(super) fn parse_f16(text: &str) -> Option<f16> {
    nearest(text, f16::INFINITY.to_bits(), |bits| f16::from_bits(bits).to_f64()).map(f16::from_bits)
}

/// The nearest BF16, ties to even; none if it is beyond the range.
pub(super) fn parse_bf16(text: &str) -> Option<bf16> {
    nearest(text, bf16::INFINITY.to_bits(), |bits| bf16::from_bits(bits).to_f64()).map(bf16::from_bits)
}

/// `infinity` has the bits after those of the greatest number: without the sign, greater numbers have greater bits.
fn nearest(text: &str, infinity: u16, value_of: impl Fn(u16) -> f64) -> Option<u16> {
    const SIGN: u16 = 1 << 15;
    let wide: f64 = text.parse().ok()?;
    let size = wide.abs();
    if !size.is_finite() {
        return None;
    }
    let (mut below, mut above) = (0, infinity);
    while above - below > 1 {
        let between = below + (above - below) / 2;
        if value_of(between) <= size { below = between } else { above = between }
    }
    let lower = value_of(below);
    // After the greatest number comes what would be the next one if the exponent went on.
    let upper = if above == infinity { 2.0_f64.mul_add(lower, -value_of(below - 1)) } else { value_of(above) };
    let middle = lower + (upper - lower) / 2.0;
    let side = size.total_cmp(&middle).then_with(|| compare(text, middle));
    let is_even = below.is_multiple_of(2);
    let bits = if side.is_lt() || side.is_eq() && is_even { below } else { above };
    let sign = if wide.is_sign_negative() { SIGN } else { 0 };
    (bits != infinity).then_some(bits | sign)
}

/// How a decimal text, its sign left out, compares to a positive number, exactly.
fn compare(text: &str, number: f64) -> Ordering {
    let written = format!("{number:.DIGITS$e}");
    let (one, other) = (Decimal::of(text), Decimal::of(&written));
    one.exponent.cmp(&other.exponent).then_with(|| one.digits.cmp(&other.digits))
}

/// Significant digits and the power of ten of the first; in this form texts of the same number are equal.
struct Decimal {
    digits: Vec<u8>,
    exponent: i64,
}

// === impl Decimal ===

impl Decimal {
    fn of(text: &str) -> Self {
        let text = text.trim_start_matches(['+', '-']);
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = || whole.bytes().chain(fraction.bytes());
        let zeros = all().take_while(|digit| *digit == b'0').count();
        let mut digits: Vec<u8> = all().skip(zeros).collect();
        digits.truncate(digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1));
        let count = |digits: usize| i64::try_from(digits).unwrap_or(i64::MAX);
        let exponent = exponent.parse::<i64>().unwrap_or(0);
        Self { digits, exponent: exponent.saturating_add(count(whole.len())).saturating_sub(count(zeros)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every number is read back from its own text, and from text that rounds to it.
        #[test]
        fn every_half_survives(bits in 0_u16..0x7c00, negative in any::<bool>()) {
            let bits = if negative { bits | 0x8000 } else { bits };
            let number = f16::from_bits(bits);
            prop_assert_eq!(parse_f16(&number.to_f32().to_string()), Some(number));
            let number = bf16::from_bits(bits);
            prop_assert_eq!(parse_bf16(&format!("{:e}", number.to_f32())), Some(number));
        }

        /// A hair beside the middle of two neighbours decides; the middle itself goes to the even one. Up to 2048 it has a fraction.
        #[test]
        fn the_middle_is_decided_by_the_last_digit(bits in 0_u16..0x6800) {
            let (below, above) = (f16::from_bits(bits), f16::from_bits(bits + 1));
            let middle = format!("{:.60}", (below.to_f64() + above.to_f64()) / 2.0);
            let even = if bits % 2 == 0 { below } else { above };
            prop_assert_eq!(parse_f16(&middle), Some(even));
            prop_assert_eq!(parse_f16(&format!("{middle}1")), Some(above));
            let (head, tail) = middle.split_at(middle.trim_end_matches('0').len());
            let last = head.bytes().last().unwrap();
            let less = format!("{}{}{}", &head[..head.len() - 1], char::from(last - 1), "9".repeat(tail.len() + 9));
            prop_assert_eq!(parse_f16(&less), Some(below));
        }
    }

    #[test]
    fn what_is_beyond_the_range_is_none() {
        assert_eq!(parse_f16("65504"), Some(f16::MAX));
        assert_eq!(parse_f16("-65519.99999999999999999999999"), Some(f16::MIN));
        assert_eq!(parse_f16("65520"), None);
        assert_eq!(parse_f16("1e9999"), None);
        assert_eq!(parse_f16("-1e-9999").map(f16::to_bits), Some(0x8000));
        assert_eq!(parse_bf16("3.3895313892515355e38"), Some(bf16::MAX));
        assert_eq!(parse_bf16("3.4e38"), None);
    }
}
