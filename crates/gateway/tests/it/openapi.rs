//! The description is generated from the code, complete, and the committed copy is current.

use gateway::{declared_routes, http::openapi::openapi_json};
use testkit::openapi::{assert_committed_description, declared_operations, described_operations};

#[test]
fn the_committed_description_is_current() {
    assert_committed_description("gateway", &openapi_json().unwrap());
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let declared = declared_operations(&declared_routes(), |route| route.caller == policy::Caller::User);
    assert_eq!(described_operations(&openapi_json().unwrap()), declared);
}
