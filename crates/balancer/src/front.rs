//! front
pub mod connections;
pub mod head;
pub mod proxy_protocol;
pub mod stream;
