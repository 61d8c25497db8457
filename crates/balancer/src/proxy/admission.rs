//! May this request go on, and with whose passport: everything that is decided before a replica is chosen.

use bytes::{Bytes, BytesMut};
use http::{Method, Response, header};
use pingora::proxy::Session;
use problem::{Form, Kind, Problem};

use super::Exchange;
use crate::{
    access::AccessError,
    routes::{AuthMode, PoolName, Route, Target},
    status,
};

/// What becomes of an admitted request.
pub(super) enum Admission {
    /// It goes to its pool.
    Forward,
    /// The balancer answers it.
    Answer(Response<Bytes>),
}

pub(super) async fn admit(session: &mut Session, exchange: &mut Exchange) -> Result<Admission, Problem> {
    let request = session.req_header();
    let path = request.uri.path();
    let form = Form::of(path, request.headers.get(header::CONTENT_TYPE));
    exchange.begin(form, &request.headers);
    let Some(route) = exchange.routes().find(path).copied() else {
        return Err(Problem::unknown_route("there is nothing at this path"));
    };
    let is_broadcast = route.is_broadcast(&request.method);
    exchange.set_route(route, route.is_repeatable(&request.method, path));
    check_length(session, &route)?;
    match route.target {
        Target::Health => own_method(session).map(|()| Admission::Answer(exchange.health())),
        Target::Status => {
            own_method(session)?;
            let passport = match bearer_token(session)? {
                Some(token) => Some(exchange.ask_passport(&token, status::AUDIENCE).await.map_err(refusal)?),
                None => None,
            };
            exchange.status(passport.as_ref()).map(Admission::Answer)
        }
        Target::Pool(pool) => {
            match route.auth_mode {
                AuthMode::Public => {}
                AuthMode::Passport => {
                    if let Some(token) = bearer_token(session)? {
                        let passport = exchange.ask_passport(&token, pool.as_str()).await.map_err(refusal)?;
                        exchange.set_passport(passport);
                    }
                }
                AuthMode::PerRequest => ask_permission(session, exchange, pool).await?,
            }
            answer_expectation(session).await;
            if !is_broadcast {
                return Ok(Admission::Forward);
            }
            let body = read_body(session, exchange).await?;
            exchange.send_to_all(session.req_header(), body).await.map(Admission::Answer)
        }
    }
}

/// Whoever is behind this route answers everybody: without a yes nothing goes on.
async fn ask_permission(session: &Session, exchange: &Exchange, pool: PoolName) -> Result<(), Problem> {
    let nobody = || Problem::new(Kind::Unauthenticated, "this needs a valid bearer token");
    let token = bearer_token(session)?.ok_or_else(nobody)?;
    exchange.ask_permission(&token, pool.as_str(), session.req_header()).await.map_err(refusal)?;
    if exchange.pool().is_some_and(|pool| pool.replicas.is_empty()) {
        return Err(Problem::new(Kind::NotFound, "this installation has no model registry"));
    }
    Ok(())
}

/// A declared length is judged before a byte of the body is read; without one, the bytes are counted as they come.
fn check_length(session: &Session, route: &Route) -> Result<(), Problem> {
    let declared = session.req_header().headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()).and_then(|value| value.parse::<u64>().ok());
    if declared.is_some_and(|bytes| bytes > route.body_bytes_max) { Err(too_large(route)) } else { Ok(()) }
}

pub(super) fn too_large(route: &Route) -> Problem {
    Problem::new(Kind::TooLarge, format!("the body is over the limit of {} bytes", route.body_bytes_max))
}

fn own_method(session: &Session) -> Result<(), Problem> {
    let method = &session.req_header().method;
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    Err(Problem::unknown_route(format!("nothing answers {method} at this path")))
}

/// The bearer token, if there is one. Anything else in its place is a failed attempt to authenticate, not nobody.
fn bearer_token(session: &Session) -> Result<Option<String>, Problem> {
    let mut values = session.req_header().headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = || Problem::new(Kind::Unauthenticated, "the Authorization header is not `Bearer <token>`");
    if values.next().is_some() {
        return Err(wrong());
    }
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token.trim().to_owned())) } else { Err(wrong()) }
}

fn refusal(error: AccessError) -> Problem {
    match error {
        AccessError::Unauthenticated => Problem::new(Kind::Unauthenticated, error.to_string()),
        AccessError::PermissionDenied => Problem::new(Kind::PermissionDenied, error.to_string()),
        AccessError::Unavailable => Problem::unavailable(error.to_string()),
    }
}

/// All of a body that is small by its route.
async fn read_body(session: &mut Session, exchange: &mut Exchange) -> Result<Bytes, Problem> {
    let mut body = BytesMut::new();
    let broken = || Problem::new(Kind::InvalidArgument, "the body did not arrive");
    while let Some(part) = session.as_downstream_mut().read_request_body().await.map_err(|_| broken())? {
        if exchange.count_body(part.len()).is_err() {
            return Err(exchange.take_problem().unwrap_or_else(broken));
        }
        body.extend_from_slice(&part);
    }
    exchange.set_received();
    Ok(body.freeze())
}

/// `Expect: 100-continue` is between the client and us: by now we know that we want the body.
async fn answer_expectation(session: &mut Session) {
    let expects = session.req_header().headers.get(header::EXPECT);
    if expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) && !session.is_http2() {
        let downstream = session.as_downstream_mut();
        // pingora takes the go-ahead for an answer before the end of the body, and would close the connection after it.
        downstream.set_close_on_response_before_downstream_finish(false);
        let _ = downstream.write_continue_response().await;
        downstream.set_close_on_response_before_downstream_finish(true);
    }
}
