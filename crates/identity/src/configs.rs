//! rustls configurations made of an identity. Made once; certificates and CAs in them stay current.

use std::sync::Arc;

use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};

use crate::{
    FrontCertificateFile, Identity, PeerList, crypto_provider,
    front_file::FrontCertResolver,
    tls_callbacks::{PeerListVerifier, ReloadableCertResolver, ServiceNameVerifier},
};

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

impl Identity {
    /// For a server to peers: TLS 1.3, client certificate required, its service on the list, no resumption.
    pub fn server_config(self: &Arc<Self>, peers: &PeerList) -> Arc<ServerConfig> {
        let clients = Arc::new(PeerListVerifier { identity: self.clone(), services: peers.names() });
        let mut config = ServerConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3 suites")
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(ReloadableCertResolver(self.clone())));
        config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    /// For a client of one service: TLS 1.3, presents the identity's certificate, verifies CA, DNS name and SPIFFE service.
    pub fn client_config(self: &Arc<Self>, server_service: &str) -> Arc<ClientConfig> {
        self.client_of(Some(server_service.to_owned()), vec![H2.to_vec()])
    }

    /// For a client of a third party: TLS 1.3, presents the identity's certificate, verifies CA and the DNS name that is dialled.
    pub fn third_party_client_config(self: &Arc<Self>) -> Arc<ClientConfig> {
        self.client_of(None, vec![H2.to_vec(), HTTP_1_1.to_vec()])
    }

    fn client_of(self: &Arc<Self>, service: Option<String>, alpn_protocols: Vec<Vec<u8>>) -> Arc<ClientConfig> {
        let server = ServiceNameVerifier { identity: self.clone(), service };
        let mut config = ClientConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3 suites")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(server))
            .with_client_cert_resolver(Arc::new(ReloadableCertResolver(self.clone())));
        config.resumption = Resumption::disabled();
        config.alpn_protocols = alpn_protocols;
        Arc::new(config)
    }
}

/// For the public front: TLS 1.3 with the identity's certificate, or the owner's for the names in that one; no client
/// certificate, resumption allowed.
pub fn front_server_config(identity: &Arc<Identity>, own: Option<Arc<FrontCertificateFile>>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 suites")
        .with_client_cert_verifier(WebPkiClientVerifier::no_client_auth())
        .with_cert_resolver(Arc::new(FrontCertResolver { identity: identity.clone(), own }));
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    Arc::new(config)
}
