//! Every metric of this crate.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use time::OffsetDateTime;

use crate::material::VerifiedFiles;

const NOT_BEFORE: &str = "ml_identity_certificate_not_before_timestamp_seconds";
const NOT_AFTER: &str = "ml_identity_certificate_not_after_timestamp_seconds";
const FRONT_NOT_AFTER: &str = "ml_front_certificate_not_after_timestamp_seconds";
const RELOADS: &str = "ml_identity_reloads_total";
const RELOAD_FAILURES: &str = "ml_identity_reload_failures_total";

/// Registers everything at zero.
pub(crate) fn describe() {
    describe_gauge!(NOT_BEFORE, "Start of the validity of the certificate in use.");
    describe_gauge!(NOT_AFTER, "End of the validity of the certificate in use.");
    describe_counter!(RELOADS, "New certificates or CA bundles taken into use.");
    describe_counter!(RELOAD_FAILURES, "New files that were refused, the old ones staying in use.");
    counter!(RELOADS).increment(0);
    counter!(RELOAD_FAILURES).increment(0);
}

pub(crate) fn set_validity(material: &VerifiedFiles) {
    gauge!(NOT_BEFORE).set(seconds(material.not_before));
    gauge!(NOT_AFTER).set(seconds(material.not_after));
}

/// Of the certificate that the platform's owner brought. Without one there is no series.
pub(crate) fn set_front_not_after(not_after: Option<OffsetDateTime>) {
    describe_gauge!(
        FRONT_NOT_AFTER,
        "End of the validity of the owner's certificate of the front; 0 when it was taken away."
    );
    gauge!(FRONT_NOT_AFTER).set(not_after.map_or(0.0, seconds));
}

pub(crate) fn count_reload() {
    counter!(RELOADS).increment(1);
}

pub(crate) fn count_failure() {
    counter!(RELOAD_FAILURES).increment(1);
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit 52 bits for the next 100 million years")]
fn seconds(time: OffsetDateTime) -> f64 {
    time.unix_timestamp() as f64
}
