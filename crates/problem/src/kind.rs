//! The closed list, and its two total maps.

use http::StatusCode;
use strum::VariantArray;
use tonic::Code;

/// What kind of problem a caller has. Closed on purpose: a new kind is a decision about the whole API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Kind {
    /// The request is wrong, whatever the state of the system. 400.
    InvalidArgument,
    /// The caller is not identified. 401.
    Unauthenticated,
    /// The caller may not do this. 403.
    PermissionDenied,
    /// There is no such thing. 404.
    NotFound,
    /// The thing is there, but not for this method. 405.
    MethodNotAllowed,
    /// The state of the thing forbids it now. 409.
    Conflict,
    /// The thing is no longer as the caller has seen it. 412.
    PreconditionFailed,
    /// A body or message is over its limit. 413.
    TooLarge,
    /// The body is of a kind that is not read here. 415.
    UnsupportedMediaType,
    /// The caller is over its rate limit. 429.
    ResourceExhausted,
    /// Not possible now; another attempt may succeed. 503.
    Unavailable,
    /// It took longer than allowed. 504.
    DeadlineExceeded,
    /// A fault of the platform. 500.
    Internal,
}

// === impl Kind ===

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The HTTP status.
    pub fn http_status(self) -> StatusCode {
        match self {
            Self::InvalidArgument => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The gRPC code.
    pub fn grpc_code(self) -> Code {
        match self {
            Self::InvalidArgument | Self::UnsupportedMediaType => Code::InvalidArgument,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::NotFound => Code::NotFound,
            // In gRPC the method of HTTP is part of what a method is.
            Self::MethodNotAllowed => Code::Unimplemented,
            Self::Conflict => Code::FailedPrecondition,
            // As gRPC's own list has it: read, modify and write again.
            Self::PreconditionFailed => Code::Aborted,
            Self::TooLarge | Self::ResourceExhausted => Code::ResourceExhausted,
            Self::Unavailable => Code::Unavailable,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Internal => Code::Internal,
        }
    }

    /// The kind's name in problem types, logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The RFC 9457 title: the same for every problem of the kind.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::InvalidArgument => "The request is not valid",
            Self::Unauthenticated => "No valid credentials",
            Self::PermissionDenied => "Not permitted",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::Conflict => "In conflict with the present state",
            Self::PreconditionFailed => "Changed meanwhile",
            Self::TooLarge => "Too large",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::ResourceExhausted => "Too many requests",
            Self::Unavailable => "Not available now",
            Self::DeadlineExceeded => "Out of time",
            Self::Internal => "Internal error",
        }
    }
}
