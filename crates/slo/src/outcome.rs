//! One table: what each HTTP and gRPC status says about how a request ended.

/// How a request ended, as every request metric and the SLA count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// Answered.
    Ok,
    /// Failed inside the platform.
    Error,
    /// The client's own fault.
    ClientError,
    /// Refused for now: capacity is missing, another attempt later may succeed.
    Shed,
    /// Not answered in time.
    Timeout,
}

/// One value for each outcome, such as its counter.
#[derive(Clone, Debug)]
pub struct PerOutcome<T>([T; 5]);

// === impl Outcome ===

impl Outcome {
    /// The value of the label `outcome`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// By the status of an HTTP answer. For gRPC, whose HTTP status is 200 whatever happened, see [`Self::of_grpc`].
    pub fn of_http(status: u16) -> Self {
        match status {
            503 => Self::Shed,
            504 => Self::Timeout,
            400..=499 => Self::ClientError,
            ..=399 => Self::Ok,
            _ => Self::Error,
        }
    }

    /// By the status code of a gRPC answer.
    pub fn of_grpc(code: i32) -> Self {
        match code {
            0 => Self::Ok,
            // CANCELLED, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED
            1 | 3 | 5 | 6 | 7 | 8 => Self::ClientError,
            // DEADLINE_EXCEEDED
            4 => Self::Timeout,
            // UNAVAILABLE
            14 => Self::Shed,
            // FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, UNAUTHENTICATED
            9..=12 | 16 => Self::ClientError,
            // UNKNOWN, INTERNAL, DATA_LOSS, and what gRPC does not define
            _ => Self::Error,
        }
    }
}

// === impl PerOutcome ===

impl<T> PerOutcome<T> {
    /// Makes the value of each outcome.
    pub fn new(make: impl FnMut(Outcome) -> T) -> Self {
        use Outcome::{ClientError, Error, Ok, Shed, Timeout};
        Self([Ok, Error, ClientError, Shed, Timeout].map(make))
    }

    /// The value of one outcome.
    pub fn get(&self, outcome: Outcome) -> &T {
        let [ok, error, client_error, shed, timeout] = &self.0;
        match outcome {
            Outcome::Ok => ok,
            Outcome::Error => error,
            Outcome::ClientError => client_error,
            Outcome::Shed => shed,
            Outcome::Timeout => timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the README, over every status that HTTP and gRPC have, and one past them.
    #[test]
    fn every_status_has_the_outcome_of_the_table() {
        for status in 100..=600_u16 {
            let expected = match status {
                100..400 => "ok",
                503 => "shed",
                504 => "timeout",
                400..500 => "client_error",
                _ => "error",
            };
            assert_eq!(Outcome::of_http(status).as_str(), expected, "HTTP {status}");
        }
        let expected = [
            "ok",           // OK
            "client_error", // CANCELLED
            "error",        // UNKNOWN
            "client_error", // INVALID_ARGUMENT
            "timeout",      // DEADLINE_EXCEEDED
            "client_error", // NOT_FOUND
            "client_error", // ALREADY_EXISTS
            "client_error", // PERMISSION_DENIED
            "client_error", // RESOURCE_EXHAUSTED
            "client_error", // FAILED_PRECONDITION
            "client_error", // ABORTED
            "client_error", // OUT_OF_RANGE
            "client_error", // UNIMPLEMENTED
            "error",        // INTERNAL
            "shed",         // UNAVAILABLE
            "error",        // DATA_LOSS
            "client_error", // UNAUTHENTICATED
            "error",        // no code of gRPC
        ];
        for (code, expected) in (0..).zip(expected) {
            assert_eq!(Outcome::of_grpc(code).as_str(), expected, "gRPC {code}");
        }
        assert_eq!(Outcome::of_grpc(-1), Outcome::Error);
    }

    #[test]
    fn each_outcome_finds_its_own_value() {
        let names = PerOutcome::new(Outcome::as_str);
        for outcome in [Outcome::Ok, Outcome::Error, Outcome::ClientError, Outcome::Shed, Outcome::Timeout] {
            assert_eq!(*names.get(outcome), outcome.as_str());
        }
    }
}
