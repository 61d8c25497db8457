//! Whether a request goes on, and with whose passport: everything that is decided before a replica is chosen.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{Method, Response, header};
use pingora::proxy::Session;
use problem::{Form, Kind, Problem};

use super::{
    RequestState, broadcast,
    context::{RequestContext, too_large},
    grpc_message::{self, MessageError},
    statistics,
};
use crate::{
    access::{AccessError, Grant},
    openapi,
    routes::{AuthMode, Route, Routes, Target},
    status,
};

/// What becomes of an admitted request.
pub(super) enum Admission {
    /// It goes to its pool.
    Forward,
    /// The balancer answers it.
    Answer(Response<Bytes>),
}

/// The stages of admission, in order. The first that fails is the client's answer.
pub(super) async fn admit(session: &mut Session, state: &mut RequestState) -> Result<Admission, Problem> {
    // Before everything: a page must be able to read what is wrong with its request.
    if let Some(answer) = answer_preflight(session, &mut state.context) {
        return Ok(Admission::Answer(answer));
    }
    // First: form, limits and who is asked are the route's, for all stages after this one and for all errors.
    let route = find_route(session, &mut state.context)?;
    // Before the token: a body that is too long costs no call to a gateway.
    check_declared_length(session, &route)?;
    // The balancer's own routes end here: they need no replica.
    let pool = match route.target {
        Target::Health => return own_health(session, &state.context).map(Admission::Answer),
        Target::GrpcHealth => return own_grpc_health(session, &mut state.context).await.map(Admission::Answer),
        Target::Status => return own_status(session, &mut state.context).await.map(Admission::Answer),
        Target::Description => return own_description(session).map(Admission::Answer),
        Target::Pool(pool) => pool,
    };
    // Before the body is asked for: a client without permission is answered at once.
    authenticate(session, &mut state.context, route.auth_mode, pool).await?;
    // Last: from here on the body is wanted.
    continue_expected_body(session).await;
    let request = session.req_header();
    if route.is_summed(&request.method, request.uri.path()) {
        // What comes with a GET means nothing, and by its route it could be as long as a prediction.
        let is_read = request.method == Method::POST;
        let body = if is_read { read_body(session, &mut state.context).await? } else { Bytes::new() };
        return statistics::answer(state, session.req_header(), body).await.map(Admission::Answer);
    }
    if !route.is_broadcast(&request.method) {
        return Ok(Admission::Forward);
    }
    let body = read_body(session, &mut state.context).await?;
    broadcast::send_to_all(state, session.req_header(), body).await.map(Admission::Answer)
}

/// Notes what answers say of origins, and answers a preflight. It is no request of its route: neither its limits nor its SLA count.
fn answer_preflight(session: &Session, context: &mut RequestContext) -> Option<Response<Bytes>> {
    let cors = context.shared.cors.as_ref()?;
    let request = session.req_header();
    let fields = cors.answer_fields(&request.headers);
    let answer = context.shared.routes.find(request.uri.path()).and_then(|_| cors.preflight_answer(request));
    context.cors_fields = fields;
    answer
}

fn find_route(session: &Session, context: &mut RequestContext) -> Result<Route, Problem> {
    let request = session.req_header();
    let path = request.uri.path();
    context.form = Form::of(path, request.headers.get(header::CONTENT_TYPE));
    context.begin_trace(&request.headers);
    let Some(route) = context.shared.routes.find(path).copied() else {
        return Err(Problem::unknown_route(Routes::unknown_path_message(path)));
    };
    context.route = Some(route);
    context.is_repeatable = route.is_repeatable(&request.method, path);
    Ok(route)
}

/// A declared length is checked before a byte of the body is read; without one, the bytes are counted as they come.
fn check_declared_length(session: &Session, route: &Route) -> Result<(), Problem> {
    let is_too_large = declared_length(session).is_some_and(|bytes| bytes > route.body_bytes_max);
    if is_too_large { Err(too_large(route)) } else { Ok(()) }
}

fn declared_length(session: &Session) -> Option<u64> {
    session.req_header().headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn own_health(session: &Session, context: &RequestContext) -> Result<Response<Bytes>, Problem> {
    check_own_method(session)?;
    Ok(context.shared.status.health())
}

/// For clients without a token, as over REST. `Watch` has no route, which clients take for a server that has only `Check`.
async fn own_grpc_health(session: &mut Session, context: &mut RequestContext) -> Result<Response<Bytes>, Problem> {
    let method = &session.req_header().method;
    if *method != Method::POST {
        return Err(Problem::wrong_method(method, &[Method::POST]));
    }
    if context.form != Form::Grpc {
        return Err(Problem::unknown_route("nothing but gRPC is answered at this path"));
    }
    continue_expected_body(session).await;
    let body = read_body(session, context).await?;
    let request = grpc_message::read(&body).map_err(|error| {
        let problem = Problem::new(Kind::InvalidArgument, error.to_string());
        if matches!(error, MessageError::Compressed) { Problem::unknown_route(error.to_string()) } else { problem }
    })?;
    let shared = &context.shared;
    grpc_message::answer(&shared.status.check_health(shared.pools.all(), &request)?)
}

async fn own_status(session: &Session, context: &mut RequestContext) -> Result<Response<Bytes>, Problem> {
    check_own_method(session)?;
    take_passport(session, context, status::AUDIENCE).await?;
    context.shared.status.answer(context.shared.pools.all(), context.passport.as_ref())
}

fn own_description(session: &Session) -> Result<Response<Bytes>, Problem> {
    check_own_method(session)?;
    openapi::answer()
}

fn check_own_method(session: &Session) -> Result<(), Problem> {
    let method = &session.req_header().method;
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    Err(Problem::wrong_method(method, &[Method::GET]))
}

async fn authenticate(
    session: &Session,
    context: &mut RequestContext,
    mode: AuthMode,
    pool: &'static str,
) -> Result<(), Problem> {
    match mode {
        AuthMode::Public => Ok(()),
        AuthMode::Passport => take_passport(session, context, pool).await,
        AuthMode::PerRequest => authorize_request(session, context, pool).await,
    }
}

/// Exchanges the token for a passport, if there is one. Without it what is behind the route says what it thinks of strangers.
async fn take_passport(session: &Session, context: &mut RequestContext, audience: &'static str) -> Result<(), Problem> {
    let Some(token) = bearer_token(session)? else { return Ok(()) };
    let grant = context.shared.access.passport(&token, audience, context.origin()).await.map_err(problem_of_access)?;
    context.passport = Some(grant.passport.clone());
    take_permit(session, context, &grant)
}

/// A place among the calls of its caller. What the head announces of a body is taken at once.
fn take_permit(session: &Session, context: &mut RequestContext, grant: &Grant) -> Result<(), Problem> {
    let announced = declared_length(session).unwrap_or(0);
    context.permit = Some(context.shared.callers.admit(&grant.principal, announced)?);
    Ok(())
}

/// What is behind this route checks no passports: without permission for this very request nothing goes on.
async fn authorize_request(session: &Session, context: &mut RequestContext, pool: &'static str) -> Result<(), Problem> {
    let token = bearer_token(session)?.ok_or_else(Problem::missing_token)?;
    let request = session.req_header();
    let access = &context.shared.access;
    let permitted = access.permission(&token, pool, &request.method, request.uri.path(), context.origin());
    let grant = permitted.await.map_err(problem_of_access)?;
    take_permit(session, context, &grant)?;
    if context.pool().is_some_and(|pool| pool.replicas.is_empty()) {
        return Err(Problem::new(Kind::NotFound, "this installation has no model registry"));
    }
    Ok(())
}

/// The bearer token, if there is one. Anything else in its place is a failed attempt to authenticate, not an anonymous
/// request.
fn bearer_token(session: &Session) -> Result<Option<String>, Problem> {
    let mut values = session.req_header().headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = Problem::no_bearer_token;
    if values.next().is_some() {
        return Err(wrong());
    }
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token.trim().to_owned())) } else { Err(wrong()) }
}

fn problem_of_access(error: AccessError) -> Problem {
    match error {
        AccessError::Unauthenticated => Problem::new(Kind::Unauthenticated, error.to_string()),
        AccessError::PermissionDenied => Problem::new(Kind::PermissionDenied, error.to_string()),
        AccessError::Unavailable => Problem::unavailable(error.to_string()),
    }
}

/// `Expect: 100-continue` is between the client and the balancer.
async fn continue_expected_body(session: &mut Session) {
    let expects = session.req_header().headers.get(header::EXPECT);
    if expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) && !session.is_http2() {
        let downstream = session.as_downstream_mut();
        // pingora takes the go-ahead for an answer before the end of the body, and would close the connection after it.
        downstream.set_close_on_response_before_downstream_finish(false);
        let _ = downstream.write_continue_response().await;
        downstream.set_close_on_response_before_downstream_finish(true);
    }
}

/// All of a body that is small by its route.
async fn read_body(session: &mut Session, context: &mut RequestContext) -> Result<Bytes, Problem> {
    let mut body = BytesMut::new();
    let broken = || Problem::new(Kind::InvalidArgument, "the body did not arrive");
    context.clock.await_body(Instant::now());
    while let Some(part) = session.as_downstream_mut().read_request_body().await.map_err(|_| broken())? {
        context.record_part(false);
        context.count_body(part.len())?;
        body.extend_from_slice(&part);
    }
    context.record_part(true);
    Ok(body.freeze())
}
