//! A client that does what the balancer does: exchanges a token for a passport, and sends the request with it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use identity::Identity;
use proto::{
    auth::v1::{
        AuthorizeRequest, AuthorizeResponse, PassportKeysRequest, WatchRevocationsRequest, WatchRevocationsResponse,
        authorization_client::AuthorizationClient,
    },
    models::v1::{ChangeModelRequest, DesiredModels, SyncModelsRequest, desired_state_client::DesiredStateClient},
};
use serde_json::{Value, json};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tower::ServiceExt as _;
use transport::Channel;

use crate::world::{ADMIN_PASSWORD, BOOTSTRAP_TOKEN};

const LIMIT: Duration = Duration::from_secs(20);

/// A caller of one gateway.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    address: String,
    if_match: Option<String>,
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub(crate) struct TestResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

// === impl Client ===

impl Client {
    pub(crate) fn new(identity: &Arc<Identity>, address: SocketAddr) -> Self {
        let channel = transport::channel(identity, "gateway", &[address.to_string()]);
        Self { channel, address: "192.0.2.1".to_owned(), if_match: None }
    }

    /// The same for a client at another address.
    pub(crate) fn at(&self, address: &str) -> Self {
        Self { address: address.to_owned(), ..self.clone() }
    }

    /// The same with a condition on each call.
    pub(crate) fn if_match(&self, tags: &str) -> Self {
        Self { if_match: Some(tags.to_owned()), ..self.clone() }
    }

    /// Makes the first administrator, `admin`, and answers its token.
    pub(crate) async fn bootstrap(&self) -> String {
        let grant = json!({
            "grant_type": "bootstrap", "bootstrap_token": BOOTSTRAP_TOKEN, "username": "admin", "password": ADMIN_PASSWORD,
        });
        self.token(&grant).await.expect_status(StatusCode::OK).text("access_token")
    }

    /// Asks for a token.
    pub(crate) async fn token(&self, grant: &Value) -> TestResponse {
        self.call(Method::POST, "/api/auth/token", None, Some(grant)).await
    }

    /// Asks for a token with name and password.
    pub(crate) async fn sign_in(&self, username: &str, password: &str) -> TestResponse {
        self.token(&json!({ "grant_type": "password", "username": username, "password": password })).await
    }

    /// Asks for a token with a form and an `Authorization` header.
    pub(crate) async fn token_with(&self, authorization: &str, form: &str) -> TestResponse {
        let request = Request::builder()
            .method(Method::POST)
            .uri("/api/auth/token")
            .header("rampart-client-address", &self.address)
            .header(header::AUTHORIZATION, authorization)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let body = Bytes::from(form.to_owned());
        self.raw(request.body(tonic::body::Body::new(Full::new(body))).unwrap()).await
    }

    /// Makes a machine with these roles; answers its id and a token of it.
    pub(crate) async fn machine(&self, admin: &str, name: &str, roles: &[&str]) -> (String, String) {
        let user = json!({ "name": name, "kind": "machine", "roles": roles });
        let made = self.call(Method::POST, "/api/admin/users", Some(admin), Some(&user)).await;
        let made = made.expect_status(StatusCode::CREATED);
        let grant = json!({ "grant_type": "client_credentials", "client_id": name, "client_secret": made.text("client_secret") });
        let token = self.token(&grant).await.expect_status(StatusCode::OK).text("access_token");
        (made.text("id"), token)
    }

    /// Makes a person with these roles and the password `{name} has a password`; answers its id.
    pub(crate) async fn person(&self, admin: &str, name: &str, roles: &[&str]) -> String {
        let user = json!({ "name": name, "kind": "person", "roles": roles, "password": password_of(name) });
        let made = self.call(Method::POST, "/api/admin/users", Some(admin), Some(&user)).await;
        made.expect_status(StatusCode::CREATED).text("id")
    }

    /// A call with a JSON body or none, by the owner of the token; a token that is not valid is answered 401.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> TestResponse {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        self.send(method, path, token, "application/json", body).await
    }

    /// A call with any body.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        content_type: &str,
        body: Bytes,
    ) -> TestResponse {
        let mut request = Request::builder().method(method).uri(path).header("rampart-client-address", &self.address);
        if let Some(token) = token {
            let passport = match self.authorize(token, "gateway").await {
                Ok(authorized) => authorized.passport,
                Err(status) if status.code() == Code::Unauthenticated => return TestResponse::unauthenticated(),
                Err(status) => panic!("no passport: {status}"),
            };
            request = request.header("rampart-passport", passport);
        }
        if !content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        if let Some(tags) = &self.if_match {
            request = request.header(header::IF_MATCH, tags);
        }
        self.raw(request.body(tonic::body::Body::new(Full::new(body))).unwrap()).await
    }

    /// The nginx edge's query about a client's request.
    pub(crate) async fn ask_as_edge(
        &self,
        token: Option<&str>,
        audience: &str,
        method: &str,
        target: &str,
    ) -> TestResponse {
        let mut request = Request::builder()
            .uri("/internal/authorize")
            .header("x-rampart-audience", audience)
            .header("x-original-method", method)
            .header("x-original-uri", target)
            .header("rampart-client-address", &self.address);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.raw(request.body(tonic::body::Body::empty()).unwrap()).await
    }

    /// The same as long as the edge has another gateway to ask.
    pub(crate) async fn ask_as_edge_first(&self, token: &str) -> TestResponse {
        let request = Request::builder()
            .uri("/internal/authorize")
            .header("x-rampart-fresh", "1")
            .header("x-rampart-audience", "serving")
            .header("x-original-method", "GET")
            .header("x-original-uri", "/v2")
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        self.raw(request.body(tonic::body::Body::empty()).unwrap()).await
    }

    /// A call as it is.
    pub(crate) async fn raw(&self, request: Request<tonic::body::Body>) -> TestResponse {
        let call = async {
            let (head, body) = self.channel.clone().oneshot(request).await.unwrap().into_parts();
            TestResponse { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
        };
        tokio::time::timeout(LIMIT, call).await.expect("an answer in time")
    }

    /// A passport for a token.
    pub(crate) async fn authorize(&self, token: &str, audience: &str) -> Result<AuthorizeResponse, Status> {
        self.ask(token, audience, "", "").await
    }

    /// The gateway's decision on a token and, for a third party, a request.
    pub(crate) async fn ask(
        &self,
        token: &str,
        audience: &str,
        method: &str,
        path: &str,
    ) -> Result<AuthorizeResponse, Status> {
        let [token, audience, method, path] = [token, audience, method, path].map(str::to_owned);
        let mut request = tonic::Request::new(AuthorizeRequest { token, audience, method, path });
        request.set_timeout(LIMIT);
        request.metadata_mut().insert("rampart-client-address", self.address.parse().unwrap());
        Ok(AuthorizationClient::new(self.channel.clone()).authorize(request).await?.into_inner())
    }

    /// Whether the token is valid now.
    pub(crate) async fn is_valid(&self, token: &str) -> bool {
        match self.authorize(token, "serving").await {
            Ok(_) => true,
            Err(status) if status.code() == Code::Unauthenticated => false,
            Err(status) => panic!("neither valid nor invalid: {status}"),
        }
    }

    /// The stream of revocations.
    pub(crate) async fn watch(&self) -> Streaming<WatchRevocationsResponse> {
        let request = WatchRevocationsRequest {};
        AuthorizationClient::new(self.channel.clone()).watch_revocations(request).await.unwrap().into_inner()
    }

    /// The keys of passports.
    pub(crate) async fn passport_keys(&self) -> Result<String, Status> {
        let keys = AuthorizationClient::new(self.channel.clone()).passport_keys(PassportKeysRequest {}).await?;
        Ok(keys.into_inner().jwks)
    }

    /// What a replica of serving asks, which serves these models.
    pub(crate) async fn sync_models(&self, serving: &[&str]) -> Result<DesiredModels, Status> {
        let request = SyncModelsRequest { serving: serving.iter().map(|name| (*name).to_owned()).collect() };
        Ok(DesiredStateClient::new(self.channel.clone()).sync_models(request).await?.into_inner().models.unwrap())
    }

    /// What it asks for a client.
    pub(crate) async fn change_model(&self, model: &str, loaded: bool, user: &str) -> Result<DesiredModels, Status> {
        let (model, subject, session_id) = (model.to_owned(), user.to_owned(), String::new());
        let mut request = tonic::Request::new(ChangeModelRequest { model, loaded, subject, session_id });
        request.metadata_mut().insert("rampart-client-address", self.address.parse().unwrap());
        Ok(DesiredStateClient::new(self.channel.clone()).change_model(request).await?.into_inner().models.unwrap())
    }

    /// Whether gRPC's health service reports serving.
    pub(crate) async fn is_serving(&self) -> bool {
        let request = HealthCheckRequest { service: String::new() };
        let health = HealthClient::new(self.channel.clone()).check(request).await;
        health.is_ok_and(|health| health.into_inner().status() == ServingStatus::Serving)
    }
}

/// The password of a person that [`Client::person`] created.
pub(crate) fn password_of(name: &str) -> String {
    format!("{name} has a password")
}

// === impl TestResponse ===

impl TestResponse {
    fn unauthenticated() -> Self {
        Self { status: StatusCode::UNAUTHORIZED, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A text member of the body.
    pub(crate) fn text(&self, member: &str) -> String {
        self.json()[member].as_str().unwrap_or_else(|| panic!("no {member} in {self:?}")).to_owned()
    }

    pub(crate) fn expect_status(self, status: StatusCode) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// A problem with this field.
    pub(crate) fn expect_field(self, field: &str) -> Self {
        assert_eq!(self.json()["field"], field, "{self:?}");
        self
    }
}
