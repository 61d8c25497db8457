//! `rampart.sla.v1.Ledger`, for the balancers.

use authz::Principal;
use proto::sla::v1::{ReportMinutesRequest, ReportMinutesResponse, ledger_server};
use tonic::{Request, Response, Status};

use crate::app::App;

/// The ledger as a gRPC service.
pub struct Ledger {
    app: App,
}

// === impl Ledger ===

impl Ledger {
    /// The ledger of this tracker.
    pub fn new(app: App) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl ledger_server::Ledger for Ledger {
    async fn report_minutes(
        &self,
        request: Request<ReportMinutesRequest>,
    ) -> Result<Response<ReportMinutesResponse>, Status> {
        let Some(Principal::Service(peer)) = request.extensions().get::<Principal>().cloned() else {
            return Err(Status::permission_denied("only a service with a certificate reports minutes"));
        };
        let count = self.app.report(request.into_inner(), &peer.instance).await?;
        Ok(Response::new(ReportMinutesResponse { recorded: u32::try_from(count).unwrap_or(u32::MAX) }))
    }
}
