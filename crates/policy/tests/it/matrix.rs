//! The matrix says what the policies say, in a form that people compare by eye.

use http::Method;
use policy::{Action, Caller, DeclaredRoute, Policy, render_matrix};

#[test]
fn every_kind_of_answer_has_its_place() {
    let declare = |method, path: &str, action, caller| DeclaredRoute { method, path: path.into(), action, caller };
    let gateway = vec![
        declare(Method::POST, "/api/keys/rotate", Action::RotateKeys, Caller::User),
        declare(Method::GET, "/api/admin/users", Action::ReadUsers, Caller::User),
        declare(Method::POST, "/api/auth/token", Action::IssueToken, Caller::User),
        declare(Method::POST, "/rampart.auth.v1.Authorization/Authorize", Action::Authorize, Caller::Peer),
    ];
    // A mistake: a route for services whose action only people have. No caller is permitted, and the matrix shows it.
    let sla = vec![declare(Method::GET, "/api/sla", Action::ReadSla, Caller::Peer)];
    let matrix = render_matrix(&[("gateway", gateway), ("sla", sla)], &Policy::embedded().unwrap());
    let cells: Vec<Vec<&str>> = matrix.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(cells.iter().all(|row| row.len() == 21), "{matrix}");
    let column = |name: &str| cells[0].iter().position(|cell| *cell == name).unwrap();
    let row = |path: &str| cells.iter().find(|row| row[2] == path).unwrap();
    let cell = |path: &str, name: &str| row(path)[column(name)];

    assert_eq!(cell("/api/keys/rotate", "admin"), "fresh");
    assert_eq!(cell("/api/keys/rotate", "operator"), "-");
    assert_eq!(cell("/api/admin/users", "admin"), "yes");
    assert_eq!(cell("/api/admin/users", "anonymous"), "-");
    assert_eq!(cell("/api/auth/token", "anonymous"), "yes");
    assert_eq!(cell("/api/auth/token", "viewer"), "yes");
    assert_eq!(cell("/api/auth/token", "service:balancer"), "-");
    assert_eq!(cell("/rampart.auth.v1.Authorization/Authorize", "service:balancer"), "yes");
    assert_eq!(cell("/rampart.auth.v1.Authorization/Authorize", "admin"), "-");
    assert!(row("/api/sla")[5..].iter().all(|cell| *cell == "-"));
    assert!(matrix.lines().all(|line| line == line.trim_end()), "no trailing blanks in a committed file");
}
