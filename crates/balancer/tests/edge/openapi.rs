//! The description is complete, and the committed copy is current.

use balancer::{declared_routes, openapi_json};
use testkit::openapi::{assert_committed_description, declared_operations, described_operations};

#[test]
fn the_committed_description_of_balancer_is_current() {
    assert_committed_description("balancer", &openapi_json().unwrap());
}

#[test]
fn every_route_of_balancer_is_described_and_nothing_else() {
    let declared = declared_operations(&declared_routes(), |route| {
        route.caller == policy::Caller::User && !route.path.starts_with("/grpc.")
    });
    assert_eq!(described_operations(&openapi_json().unwrap()), declared);
}
