//! Every route of the service with the action it stands for.

use authz::Routes;
use http::Method;
use policy::{Action, Caller, DeclaredRoute};

use crate::{
    app::App,
    description, features,
    protocol::{grpc, rest},
};

/// The routes: REST, by feature name, and gRPC.
pub(crate) fn routes() -> Routes<App> {
    let routes = Routes::new()
        .route(Method::GET, "/v2/health/live", Action::ReadInferenceHealth, rest::live)
        .route(Method::GET, "/v2/health/ready", Action::ReadInferenceHealth, rest::ready)
        .route(Method::GET, "/v2", Action::ReadModels, rest::server_metadata)
        // As the protocol's own description writes it. No other path may end with a slash.
        .route(Method::GET, "/v2/", Action::ReadModels, rest::server_metadata)
        .route(Method::GET, "/v2/models/stats", Action::ReadModels, rest::all_statistics)
        .route(Method::POST, "/v2/repository/index", Action::ReadModels, rest::index)
        .route(Method::POST, "/v2/repository/models/{model}/load", Action::LoadModel, rest::load)
        .route(Method::POST, "/v2/repository/models/{model}/unload", Action::UnloadModel, rest::unload);
    let routes =
        ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"].iter().fold(routes, |routes, model| {
            routes
                .route(Method::GET, model, Action::ReadModels, rest::model_metadata)
                .route(Method::GET, &format!("{model}/ready"), Action::ReadModels, rest::model_ready)
                .route(Method::GET, &format!("{model}/stats"), Action::ReadModels, rest::statistics)
                .route(Method::POST, &format!("{model}/infer"), Action::Infer, rest::infer)
        });
    let routes =
        ["/api/models/{model}", "/api/models/{model}/versions/{version}"].iter().fold(routes, |routes, model| {
            routes.route(Method::POST, &format!("{model}/predict"), Action::Infer, features::predict).route(
                Method::GET,
                &format!("{model}/schema"),
                Action::ReadModels,
                features::schema,
            )
        });
    let routes = routes.route(Method::GET, "/api/models/openapi.json", Action::ReadOpenapi, description::get);
    let methods = [
        ("ServerLive", Action::ReadInferenceHealth),
        ("ServerReady", Action::ReadInferenceHealth),
        ("ServerMetadata", Action::ReadModels),
        ("ModelReady", Action::ReadModels),
        ("ModelMetadata", Action::ReadModels),
        ("ModelStatistics", Action::ReadModels),
        ("ModelInfer", Action::Infer),
        ("RepositoryIndex", Action::ReadModels),
        ("RepositoryModelLoad", Action::LoadModel),
        ("RepositoryModelUnload", Action::UnloadModel),
    ];
    routes.grpc(Caller::User, grpc::SERVICE, &methods, grpc::server)
}

/// The routes as a table, without starting anything: for the matrix of who may do what.
pub fn declared_routes() -> Vec<DeclaredRoute> {
    service::route_table(routes())
}
