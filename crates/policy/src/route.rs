//! A route and the action it stands for, as the matrix and the tests see it.

use http::Method;

use crate::Action;

/// How a route identifies its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A person or client: by passport, or anonymous.
    User,
    /// A service: by the certificate of the connection.
    Peer,
}

/// A route with its action, for the matrix and for tests that walk every route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeclaredRoute {
    /// The HTTP method; `POST` for gRPC.
    pub method: Method,
    /// The path as it is mounted, with `{parameters}`; `/package.Service/Method` for gRPC.
    pub path: String,
    /// The action that the policies decide about.
    pub action: Action,
    /// How callers are identified.
    pub caller: Caller,
}
