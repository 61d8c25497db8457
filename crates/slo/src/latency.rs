//! Latencies of a minute, an hour or a month: one HdrHistogram of fixed shape, so that merging is exact addition.
//!
//! The bytes come from the process that faces the internet. They are inflated under a limit and their header is compared
//! with the one shape before the decoder allocates anything for them.

use std::io::Read;

use flate2::read::ZlibDecoder;
use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer, V2DeflateSerializer},
};

/// Shortest latency that is resolved, in microseconds.
const LOW_US: u64 = 1;
/// Longest latency that is resolved, in microseconds; a longer one is recorded as this.
const HIGH_US: u64 = 60_000_000;
/// Significant decimal digits: an error of at most 0.1 %.
const DIGITS: u8 = 3;
/// More than any histogram of this shape can deflate to.
pub const ENCODED_BYTES_MAX: usize = 128 * 1024;
/// 18 buckets of 1,024 counts, nine bytes each, and the header.
const INFLATED_BYTES_MAX: u64 = 192 * 1024;

/// Cookie and length, before the deflated part.
const OUTER_HEADER_BYTES: usize = 8;
/// Cookie, length, offset, digits, low, high and ratio.
const INNER_HEADER_BYTES: usize = 40;
const COOKIE_V2: u32 = 0x1c84_9303 | 0x10;
const COOKIE_V2_DEFLATE: u32 = 0x1c84_9304 | 0x10;

/// A distribution of latencies. Empty is a value like any other.
#[derive(Clone, Debug, PartialEq)]
pub struct Latencies(Histogram<u64>);

/// Why bytes are not a histogram of the one shape.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LatencyError {
    /// Longer than any histogram of the one shape.
    #[error("is longer than {ENCODED_BYTES_MAX} bytes")]
    TooLong,
    /// Not V2 with DEFLATE.
    #[error("is not an HdrHistogram in V2 + DEFLATE encoding")]
    Format,
    /// Another range or precision; it could not be merged exactly.
    #[error("must span {LOW_US} to {HIGH_US} microseconds with {DIGITS} digits")]
    Shape,
    /// The right header with the wrong counts behind it.
    #[error("holds counts that cannot be decoded")]
    Counts,
}

// === impl Latencies ===

impl Latencies {
    /// No latency at all.
    pub fn empty() -> Self {
        Self(
            Histogram::new_with_bounds(LOW_US, HIGH_US, DIGITS)
                .expect("the bounds are constants that hdrhistogram accepts"),
        )
    }

    /// Decodes what a balancer sent or the store has; no bytes mean no latencies.
    pub fn decode(encoded: &[u8]) -> Result<Self, LatencyError> {
        if encoded.is_empty() {
            return Ok(Self::empty());
        }
        let plain = inflate(encoded)?;
        check_header(&plain)?;
        let histogram = Deserializer::new().deserialize(&mut plain.as_slice());
        histogram.map(Self).map_err(|_| LatencyError::Counts)
    }

    /// The bytes to store, V2 + DEFLATE.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&self.0, &mut bytes)
            .expect("counts stay far below 2^63 and a vector takes every write");
        bytes
    }

    /// Adds one latency.
    pub fn record(&mut self, microseconds: u64) {
        self.0.saturating_record(microseconds.clamp(LOW_US, HIGH_US));
    }

    /// Adds another distribution: exact, in any order, any number of times.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the one shape of this module");
    }

    /// How many latencies are in it.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The 95th percentile in microseconds; the upper end of its bucket, so that it is never too low.
    pub fn p95_us(&self) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(0.95).min(HIGH_US))
    }
}

/// Takes the outer header off and inflates the rest, never past the limit.
fn inflate(encoded: &[u8]) -> Result<Vec<u8>, LatencyError> {
    if encoded.len() > ENCODED_BYTES_MAX {
        return Err(LatencyError::TooLong);
    }
    let (header, deflated) = encoded.split_at_checked(OUTER_HEADER_BYTES).ok_or(LatencyError::Format)?;
    let stated_len = usize::try_from(u32_at(header, 4)?).map_err(|_| LatencyError::Format)?;
    if u32_at(header, 0)? != COOKIE_V2_DEFLATE || stated_len != deflated.len() {
        return Err(LatencyError::Format);
    }
    let mut plain = Vec::new();
    ZlibDecoder::new(deflated)
        .take(INFLATED_BYTES_MAX + 1)
        .read_to_end(&mut plain)
        .map_err(|_| LatencyError::Format)?;
    if u64::try_from(plain.len()).is_ok_and(|length| length <= INFLATED_BYTES_MAX) {
        Ok(plain)
    } else {
        Err(LatencyError::TooLong)
    }
}

fn check_header(plain: &[u8]) -> Result<(), LatencyError> {
    let (header, counts) = plain.split_at_checked(INNER_HEADER_BYTES).ok_or(LatencyError::Format)?;
    let stated_len = usize::try_from(u32_at(header, 4)?).map_err(|_| LatencyError::Format)?;
    if u32_at(header, 0)? != COOKIE_V2 || stated_len != counts.len() {
        return Err(LatencyError::Format);
    }
    let same_shape = u32_at(header, 8)? == 0
        && u32_at(header, 12)? == u32::from(DIGITS)
        && u64_at(header, 16)? == LOW_US
        && u64_at(header, 24)? == HIGH_US;
    if !same_shape {
        return Err(LatencyError::Shape);
    }
    // The decoder negates without a check, and nine 0xff are the one number that overflows then. No count looks so.
    if counts.windows(9).any(|window| window.iter().all(|byte| *byte == 0xff)) {
        return Err(LatencyError::Counts);
    }
    Ok(())
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, LatencyError> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk::<4>()).ok_or(LatencyError::Format)?;
    Ok(u32::from_be_bytes(*field))
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64, LatencyError> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk::<8>()).ok_or(LatencyError::Format)?;
    Ok(u64::from_be_bytes(*field))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn of(values: &[u64]) -> Latencies {
        let mut latencies = Latencies::empty();
        for value in values {
            latencies.record(*value);
        }
        latencies
    }

    #[test]
    fn empty_bytes_are_no_latencies() {
        assert_eq!(Latencies::decode(&[]).unwrap(), Latencies::empty());
        assert_eq!(Latencies::empty().p95_us(), None);
    }

    #[test]
    fn foreign_shape_is_refused() {
        let mut bytes = Vec::new();
        let wide = Histogram::<u64>::new_with_bounds(1, u64::MAX, 5).unwrap();
        V2DeflateSerializer::new().serialize(&wide, &mut bytes).unwrap();
        assert_eq!(Latencies::decode(&bytes), Err(LatencyError::Shape));
    }

    #[test]
    fn a_compression_bomb_is_refused_before_it_inflates() {
        use std::io::Write;
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 100 << 20]).unwrap();
        let deflated = encoder.finish().unwrap();
        let mut bytes = COOKIE_V2_DEFLATE.to_be_bytes().to_vec();
        bytes.extend(u32::try_from(deflated.len()).unwrap().to_be_bytes());
        bytes.extend(deflated);
        assert_eq!(Latencies::decode(&bytes), Err(LatencyError::TooLong));
    }

    #[test]
    fn fullest_histogram_fits_the_limits() {
        let mut latencies = Latencies::empty();
        for value in 1..=2_000_000_u64 {
            latencies.record(value * 30);
        }
        let encoded = latencies.encode();
        assert!(encoded.len() < ENCODED_BYTES_MAX, "{}", encoded.len());
        assert_eq!(Latencies::decode(&encoded).unwrap(), latencies);
    }

    #[test]
    fn p95_is_within_a_thousandth_and_never_low() {
        let values: Vec<u64> = (0..20_000_u64).map(|i| 1 + i * i % 3_000_017).collect();
        let mut sorted = values.clone();
        sorted.sort_unstable();
        let exact = sorted[sorted.len() * 95 / 100 - 1];
        let computed = of(&values).p95_us().unwrap();
        assert!(computed >= exact && computed - exact <= exact / 1000 + 1, "{computed} for {exact}");
    }

    proptest! {
        #[test]
        fn encoding_is_lossless(values in vec(1_u64..=HIGH_US, 0..200)) {
            let latencies = of(&values);
            prop_assert_eq!(Latencies::decode(&latencies.encode()).unwrap(), latencies);
        }

        #[test]
        fn merge_is_addition_in_any_grouping(a in vec(1_u64..=HIGH_US, 0..50), b in vec(1_u64..=HIGH_US, 0..50), c in vec(1_u64..=HIGH_US, 0..50)) {
            let mut left = of(&a);
            left.merge(&of(&b));
            left.merge(&of(&c));
            let mut right = of(&c);
            right.merge(&of(&b));
            let mut grouped = of(&a);
            grouped.merge(&right);
            let all: Vec<u64> = [a, b, c].concat();
            prop_assert_eq!(left.encode(), grouped.encode());
            prop_assert_eq!(left.encode(), of(&all).encode());
        }

        #[test]
        fn no_bytes_make_decode_panic(mut bytes in vec(any::<u8>(), 0..300), whole in any::<bool>(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let _ = Latencies::decode(&bytes);
            if whole {
                bytes = of(&[5, 500, 50_000]).encode();
                let index = at.index(bytes.len());
                bytes[index] ^= 1 << bit;
                let _ = Latencies::decode(&bytes);
            }
        }
    }
}
