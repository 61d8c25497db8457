#![doc = include_str!("../README.md")]

mod action;
mod cedar;
mod matrix;
pub mod mlflow_routes;
mod role;
mod route;

pub use action::Action;
pub use cedar::{Policy, PolicyDecision, PolicyError, Subject};
pub use matrix::render_matrix;
pub use role::{Role, Roles, UnknownRole};
pub use route::{Caller, DeclaredRoute};
