//! What rustls asks at every handshake: the certificate to present, and whether the other side's is accepted.
//!
//! Each answer is looked up in the identity at that moment, so a configuration made once stays current.

use std::{collections::BTreeSet, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    server::{
        ClientHello, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{Identity, PeerName, material::server_name};

/// The signatures of a handshake, checked by the identity's verifier of clients or of servers.
macro_rules! verify_signatures {
    ($verifier:ident) => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.2 is never negotiated".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.identity.material.load().$verifier.verify_tls13_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.identity.material.load().$verifier.supported_verify_schemes()
        }
    };
}

/// Presents the identity's certificate, to clients and to servers.
#[derive(Debug)]
pub(crate) struct ReloadableCertResolver(pub(crate) Arc<Identity>);

/// Accepts a client whose certificate is signed by a trusted CA and names a service on the list.
#[derive(Debug)]
pub(crate) struct PeerListVerifier {
    pub(crate) identity: Arc<Identity>,
    pub(crate) services: BTreeSet<String>,
}

/// Accepts a server whose certificate is signed by a trusted CA and names this one service, by DNS and by URI; without a
/// service, the host that was dialled.
#[derive(Debug)]
pub(crate) struct ServiceNameVerifier {
    pub(crate) identity: Arc<Identity>,
    pub(crate) service: Option<String>,
}

// === impl ReloadableCertResolver ===

impl ResolvesServerCert for ReloadableCertResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.material.load().certified.clone())
    }
}

impl ResolvesClientCert for ReloadableCertResolver {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.material.load().certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

// === impl PeerListVerifier ===

impl ClientCertVerifier for PeerListVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified =
            self.identity.material.load().client_verifier.verify_client_cert(end_entity, intermediates, now)?;
        if self.services.contains(&peer_name(end_entity)?.service) { Ok(verified) } else { Err(access_denied()) }
    }

    verify_signatures!(client_verifier);
}

// === impl ServiceNameVerifier ===

impl ServerCertVerifier for ServiceNameVerifier {
    /// The name that the caller dialled counts for third parties only: the service was fixed with the configuration.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = &self.identity.material.load().server_verifier;
        let Some(service) = &self.service else {
            return verifier.verify_server_cert(end_entity, intermediates, dialled, ocsp_response, now);
        };
        let name = server_name(service)?;
        let verified = verifier.verify_server_cert(end_entity, intermediates, &name, ocsp_response, now)?;
        if peer_name(end_entity)?.service == *service { Ok(verified) } else { Err(access_denied()) }
    }

    verify_signatures!(server_verifier);
}

fn peer_name(certificate: &CertificateDer<'_>) -> Result<PeerName, Error> {
    PeerName::from_certificate(certificate).map_err(|_| access_denied())
}

/// The other side sees the alert `access_denied`.
fn access_denied() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}
