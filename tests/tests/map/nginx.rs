//! The second edge: each route of the balancer is answered by nginx with the same target, question, limit and time, or it is
//! refused there. What nginx does besides is its own, and stays as it is written.

use std::collections::BTreeMap;

use balancer::routes::{AuthMode, Route, Routes, Target};
use identity::dns_name;
use topology::{BALANCER, Map, name};

use crate::checkout::{Checkout, addresses, between, workload};

const FILE: &str = "nginx/nginx.conf";
const ENTRYPOINT: &str = "nginx/entrypoint";
const ROUTES: &str = "crates/balancer/src/routes.rs";

pub(crate) fn compare(map: &Map, checkout: &mut Checkout) {
    let text = checkout.text(FILE);
    let ports = text.lines().filter_map(|line| line.trim().strip_prefix("listen ")?.split(' ').next());
    checkout.same(FILE, "ports", workload(map, name::EDGE).sockets.iter().map(|socket| socket.port), ports);

    let locations = locations(&text);
    let general = directives(between(&text, "\nhttp {", "\n    server {"));
    let config = service::load::<balancer::Config>(name::BALANCER, balancer::DEFAULTS, None).unwrap().own;
    let routes = Routes::new(&config.routes);
    for route in routes.all() {
        for fault in route_faults(route, &locations, &general) {
            checkout.fault(FILE, format_args!("{}: {fault}", route.prefix));
        }
    }
    for fault in absent_faults(&text, &locations) {
        checkout.fault(FILE, fault);
    }
    // The routes are those that are compiled, so nothing can be said of the location of a service that is not.
    let is_built = |target: &str| BALANCER.upstreams.iter().any(|name| target.ends_with(&dns_name(name)));
    for location in locations.iter().filter(|location| location.target().is_some_and(is_built)) {
        let paths = location.pattern.examples();
        for path in paths.iter().filter(|path| routes.find(path).is_none()) {
            checkout.fault(FILE, format_args!("{path} is a location, and the balancer has no such route"));
        }
    }

    // Each service behind the edges.
    let upstreams =
        map.services.iter().find(|it| it.workload.name == name::BALANCER).map_or(&[][..], |it| it.upstreams);
    let (entrypoint, rows) = (checkout.text(ENTRYPOINT), checkout.text(ROUTES));
    for upstream in upstreams {
        let variable = upstream.to_uppercase();
        let default = between(&entrypoint, &format!(": \"${{{variable}:="), "}").split_whitespace();
        checkout.same(ENTRYPOINT, &variable, addresses(map, upstream), default);
        if !entrypoint.contains(&format!("upstream {} ${variable}\n", dns_name(upstream))) {
            checkout.fault(ENTRYPOINT, format_args!("there is no upstream {}", dns_name(upstream)));
        }
        if !text.contains(&format!("proxy_pass https://{};", dns_name(upstream))) {
            checkout.fault(FILE, format_args!("no location leads to {upstream}"));
        }
        if !rows.contains(&format!("Pool(name::{variable})")) {
            checkout.fault(ROUTES, format_args!("no route leads to {upstream}"));
        }
    }
}

/// What is not offered leads nowhere in nginx either, and is told in the same words.
fn absent_faults(text: &str, locations: &[Location]) -> Vec<String> {
    let told = between(text, "map $request_uri $unknown_path {", "\n    }");
    let told: Vec<(Pattern, &str)> = told
        .lines()
        .filter_map(|line| {
            let (expression, message) = line.trim().strip_prefix("\"~")?.split_once("\" \"")?;
            Some((Pattern::Expression(alternatives(expression)), message.strip_suffix("\";")?))
        })
        .collect();
    let mut faults = Vec::new();
    for (path, message) in Routes::absent() {
        if find(locations, path).is_some_and(|location| location.target().is_some()) {
            faults.push(format!("{path} leads somewhere, and the balancer does not offer it"));
        }
        let found = told.iter().find(|(pattern, _)| pattern.matches(path)).map(|(_, message)| *message);
        if found != Some(*message) {
            faults.push(format!("{path} is told {found:?}, and at the balancer {message:?}"));
        }
    }
    faults
}

/// What of a route is otherwise in nginx.
fn route_faults(route: &Route, locations: &[Location], general: &Directives) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut is_found, mut bytes_max, mut time_max) = (false, None, None);
    for path in [route.prefix.to_owned(), format!("{}/x", route.prefix)] {
        let Some(location) = find(locations, &path) else { continue };
        is_found = true;
        // It answers itself: with its health, or that there is no such thing while the balancers are away.
        let Some(target) = location.target() else { break };
        let Target::Pool(pool) = route.target else {
            faults.push(format!("{path} goes to {target}, and the balancer answers it itself"));
            continue;
        };
        let host = target.split("://").nth(1).unwrap_or_default();
        if host.strip_prefix("grpc.").unwrap_or(host) != dns_name(pool) {
            faults.push(format!("{path} goes to {host}, and the balancer's to {pool}"));
        }
        let asks = asks(location);
        if asks != route.auth_mode {
            faults.push(format!("{path} asks for {asks:?}, and the balancer for {:?}", route.auth_mode));
        }
        if asks != AuthMode::Public && location.get("set $audience") != Some(pool) {
            faults.push(format!("{path} asks for another audience than {pool}"));
        }
        let takes_basic = location.get("proxy_set_header Authorization") == Some("$basic_credentials");
        if takes_basic != route.takes_basic {
            faults.push(format!(
                "{path} lets Basic credentials through: {takes_basic}; the balancer: {}",
                route.takes_basic
            ));
        }
        let read_timeout = if target.starts_with("grpc") { "grpc_read_timeout" } else { "proxy_read_timeout" };
        let setting = |name| location.get(name).or(general.get(name).map(String::as_str)).unwrap_or_default();
        bytes_max = bytes_max.max(Some(bytes(setting("client_max_body_size"))));
        time_max = time_max.max(Some(seconds(setting(read_timeout))));
    }
    if !is_found {
        faults.push("has no location".to_owned());
    }
    // What must reach every replica nginx refuses, so that only the reading of it is left.
    let is_wrong =
        |nginx, balancer| if route.is_broadcast(&http::Method::POST) { nginx > balancer } else { nginx != balancer };
    if bytes_max.is_some_and(|bytes| is_wrong(bytes, route.body_bytes_max)) {
        faults.push(format!("lets {bytes_max:?} bytes through, and the balancer {}", route.body_bytes_max));
    }
    if time_max.is_some_and(|time| is_wrong(time, route.time_max.as_secs())) {
        faults.push(format!("waits {time_max:?} s, and the balancer {:?}", route.time_max));
    }
    faults
}

fn asks(location: &Location) -> AuthMode {
    match (location.get("auth_request"), location.refuses_anonymous) {
        (None, _) => AuthMode::Public,
        (Some(_), false) => AuthMode::Passport,
        (Some(_), true) => AuthMode::PerRequest,
    }
}

// === nginx's own language, as far as its configuration here uses it ===

/// Directive → its value; of `set` the variable belongs to the directive, and of `proxy_set_header` the header.
type Directives = BTreeMap<String, String>;

struct Location {
    pattern: Pattern,
    directives: Directives,
    /// A request without a token ends here.
    refuses_anonymous: bool,
}

enum Pattern {
    Exact(String),
    Prefix(String),
    /// Its alternatives, each written out: a `*` is any text, and a `$` the end of the path.
    Expression(Vec<String>),
}

/// Those that a client can reach, in order.
fn locations(text: &str) -> Vec<Location> {
    let blocks = text.split("\n        location ").skip(1).filter_map(|rest| rest.split("\n        }").next());
    let reachable = blocks.filter(|block| !block.starts_with('@') && !block.contains(" internal;"));
    reachable
        .filter_map(|block| {
            let (head, body) = block.split_once(" {")?;
            let pattern = match head.split_once(' ') {
                Some(("=", path)) => Pattern::Exact(path.to_owned()),
                Some((_, expression)) => Pattern::Expression(alternatives(expression)),
                None => Pattern::Prefix(head.to_owned()),
            };
            let refuses_anonymous = body.contains("if ($http_authorization = \"\") { return 401; }");
            Some(Location { pattern, directives: directives(body), refuses_anonymous })
        })
        .collect()
}

fn directives(block: &str) -> Directives {
    let lines = block.lines().filter_map(|line| line.trim().strip_suffix(';'));
    let plain = lines.filter(|line| !line.contains('{'));
    plain
        .filter_map(|line| {
            let has_subject = line.starts_with("set ") || line.starts_with("proxy_set_header ");
            let at = if has_subject { line.rfind(' ') } else { line.find(' ') }?;
            let (name, value) = line.split_at(at);
            Some((name.to_owned(), value.trim().to_owned()))
        })
        .collect()
}

/// An exact location, else the first expression that matches, else the longest prefix; none is the one for all the rest.
fn find<'a>(locations: &'a [Location], path: &str) -> Option<&'a Location> {
    let matching: Vec<&Location> = locations.iter().filter(|location| location.pattern.matches(path)).collect();
    let exact = matching.iter().find(|location| matches!(location.pattern, Pattern::Exact(_)));
    let expression = || matching.iter().find(|location| matches!(location.pattern, Pattern::Expression(_)));
    let longest = || {
        matching.iter().max_by_key(|location| match &location.pattern {
            Pattern::Prefix(prefix) => prefix.len(),
            _ => 0,
        })
    };
    let found = exact.or_else(expression).or_else(longest).copied();
    found.filter(|location| !matches!(&location.pattern, Pattern::Prefix(prefix) if prefix == "/"))
}

fn alternatives(expression: &str) -> Vec<String> {
    let expression = expression.trim_start_matches('^');
    let Some((before, rest)) = expression.split_once('(') else {
        return vec![expression.replace(".*", "*").replace("\\.", ".")];
    };
    let (group, after) = rest.split_once(')').unwrap();
    let with = |text: &str| format!("{before}{text}").replace(".*", "*").replace("\\.", ".");
    let rest = alternatives(after);
    group.split('|').flat_map(|text| rest.iter().map(move |rest| with(text) + rest)).collect()
}

fn bytes(size: &str) -> u64 {
    let (number, unit) = size.split_at(size.trim_end_matches(char::is_alphabetic).len());
    match (number.parse::<u64>().unwrap_or(u64::MAX), unit) {
        // Its least, as 0 would be no limit.
        (1, "") => 0,
        (number, "k") => number << 10,
        (number, "m") => number << 20,
        (number, _) => number,
    }
}

fn seconds(time: &str) -> u64 {
    time.trim_end_matches('s').parse().unwrap_or(u64::MAX)
}

// === impl Location ===

impl Location {
    fn target(&self) -> Option<&str> {
        self.get("proxy_pass").or(self.get("grpc_pass"))
    }

    fn get(&self, directive: &str) -> Option<&str> {
        self.directives.get(directive).map(String::as_str)
    }
}

// === impl Pattern ===

impl Pattern {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path.starts_with(prefix),
            Self::Expression(alternatives) => alternatives.iter().any(|text| {
                let (start, end) = text.split_once('*').unwrap_or((text, ""));
                match (end.strip_suffix('$'), start.strip_suffix('$')) {
                    (Some(end), _) => path.starts_with(start) && path.ends_with(end),
                    (None, Some(exact)) => path == exact,
                    (None, None) => path.starts_with(start),
                }
            }),
        }
    }

    /// A path of each alternative.
    fn examples(&self) -> Vec<String> {
        match self {
            Self::Exact(path) => vec![path.clone()],
            Self::Prefix(path) => vec![format!("{path}x")],
            Self::Expression(texts) => texts.iter().map(|text| text.replace('*', "x").replace('$', "")).collect(),
        }
    }
}
