//! Route × role as text, to be committed and compared.

use std::fmt::Write as _;

use topology::CALLERS;

use crate::{Action, Caller, DeclaredRoute, Policy, Role, Roles, Subject};

/// The decision for every route of every service and every caller: `yes`, `fresh` (only after a fresh login) or `-`.
///
/// Each caller is identified as the route does it: on a route for people, a service is not a caller at all.
pub fn render_matrix(tables: &[(&str, Vec<DeclaredRoute>)], policy: &Policy) -> String {
    let mut rows = vec![header()];
    for (service, declared) in tables {
        let mut routes: Vec<Vec<String>> = declared.iter().map(|route| row(service, route, policy)).collect();
        routes.sort();
        rows.extend(routes);
    }
    render(&rows)
}

fn header() -> Vec<String> {
    let fixed = ["service", "method", "path", "caller", "action", "anonymous"].map(str::to_owned);
    let roles = Role::ALL.iter().map(Role::to_string);
    let services = CALLERS.map(|service| format!("service:{service}"));
    fixed.into_iter().chain(roles).chain(services).collect()
}

fn row(service: &str, route: &DeclaredRoute, policy: &Policy) -> Vec<String> {
    let caller = match route.caller {
        Caller::User => "user",
        Caller::Peer => "peer",
    };
    let fixed = [service, route.method.as_str(), &route.path, caller, route.action.as_str()].map(str::to_owned);
    fixed.into_iter().chain(answers(route.caller, route.action, policy)).collect()
}

fn answers(caller: Caller, action: Action, policy: &Policy) -> Vec<String> {
    let is = |asked: Caller, subject: Subject<'_>| asked == caller && policy.allows(subject, action);
    let plain = |allowed: bool| if allowed { "yes" } else { "-" };
    let of_role = |role: Role| {
        let roles = Roles::from(role);
        match [false, true].map(|fresh_login| is(Caller::User, Subject::User { roles, fresh_login })) {
            [true, _] => "yes",
            [false, true] => "fresh",
            [false, false] => "-",
        }
    };
    let anonymous = plain(is(Caller::User, Subject::Anonymous));
    let roles = Role::ALL.iter().copied().map(of_role);
    let services = CALLERS.iter().map(|service| plain(is(Caller::Peer, Subject::Service(service))));
    std::iter::once(anonymous).chain(roles).chain(services).map(str::to_owned).collect()
}

fn render(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line = cells.fold(String::new(), |mut line, (cell, width)| {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
            line
        });
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
