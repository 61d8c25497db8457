//! The real service over mTLS: a process of its own, a real engine, real models.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that fails says where")]

mod access;
mod bad_input;
mod datatypes;
mod desired_state;
mod exported_models;
mod group;
mod grpc;
mod inspect;
mod isolation;
mod life;
mod load;
mod memory;
mod openapi;
mod overload;
mod predict;
mod refused_models;
mod registry;
mod rest;
mod support;
