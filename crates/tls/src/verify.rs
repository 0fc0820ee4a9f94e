//! The judgement: chain against the right domain's roots, time, usage, then the name.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use isthmus_model::{SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::PROVIDER;
use crate::client::Expected;
use crate::identity::{Identity, Snapshot};
use crate::peer::PeerCertificate;
use crate::refused::Refused;
use crate::server::ClientAuth;
use crate::trust::{Bundle, Trust};
use crate::verified::{self, Role};

/// Longest chain that is looked at.
const MAX_CHAIN: usize = 10;

/// Verifies servers, for clients.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) identity: Identity,
    pub(crate) expected: Expected,
}

/// Verifies clients, for servers.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) identity: Identity,
    pub(crate) auth: ClientAuth,
}

impl Servers {
    /// The peer, when it is whom we expect. Of a session that was resumed this is the only check of the moment.
    pub(crate) fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<PeerCertificate>, Refused> {
        self.identity.with(|current| self.judge_now(current, leaf, above, now))
    }

    fn judge_now(
        &self,
        current: &Snapshot,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<PeerCertificate>, Refused> {
        let trust = &current.trust;
        let chain = Chain { leaf, above, now, role: Role::Server };
        match &self.expected {
            Expected::Spiffe(ids) => {
                let (peer, id) = workload(current, &chain)?;
                if !ids.contains(&id) {
                    return Err(Refused::WrongIdentity {
                        expected: ids.iter().cloned().collect(),
                        peer: boxed(&peer),
                    });
                }
                Ok(peer)
            }
            Expected::AnyInDomain(domain) => {
                let (peer, id) = workload(current, &chain)?;
                if id.trust_domain != *domain {
                    return Err(Refused::WrongTrustDomain { expected: domain.clone(), peer: boxed(&peer) });
                }
                Ok(peer)
            }
            Expected::ServerName(name) => {
                let peer = PeerCertificate::parse(leaf)?;
                let home = trust.home();
                chain.verify(trust.named(), home, &peer)?;
                named(name, leaf, home, &peer)?;
                Ok(Arc::new(peer))
            }
            Expected::ServerNameIn(name, domain) => {
                let peer = PeerCertificate::parse(leaf)?;
                let Some(bundle) = trust.domain(domain) else { return Err(unknown_domain(trust, &peer)) };
                chain.verify(bundle, Some(domain), &peer)?;
                named(name, leaf, Some(domain), &peer)?;
                Ok(Arc::new(peer))
            }
        }
    }
}

impl Clients {
    /// The peer, when it may come in. Of a session that was resumed this is the only check of the moment.
    pub(crate) fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<PeerCertificate>, Refused> {
        self.identity.with(|current| {
            let chain = Chain { leaf, above, now, role: Role::Client };
            // In a mesh only workloads come in; under private trust those without such an identity.
            if current.trust.home().is_none() {
                let peer = PeerCertificate::parse(leaf)?;
                if peer.spiffe.is_none() {
                    chain.verify(current.trust.named(), None, &peer)?;
                    return Ok(Arc::new(peer));
                }
            }
            workload(current, &chain).map(|(peer, _)| peer)
        })
    }
}

/// The peer and its workload identity, after its chain was verified against the roots of that identity's domain.
fn workload(current: &Snapshot, chain: &Chain<'_>) -> Result<(Arc<PeerCertificate>, SpiffeId), Refused> {
    let key = verified::key(chain.role, chain.leaf, chain.above);
    if let Some(peer) = current.verified.get(&key, chain.now)
        && let Some(id) = peer.spiffe.clone()
    {
        return Ok((peer, id));
    }
    let peer = PeerCertificate::parse(chain.leaf)?;
    let trust = &current.trust;
    let Some(id) = peer.spiffe.clone() else { return Err(Refused::NoIdentity { peer: boxed(&peer) }) };
    let Some(bundle) = trust.domain(&id.trust_domain) else { return Err(unknown_domain(trust, &peer)) };
    chain.verify(bundle, Some(&id.trust_domain), &peer)?;
    let peer = Arc::new(peer);
    current.verified.put(key, &peer, chain.above);
    Ok((peer, id))
}

fn unknown_domain(trust: &Trust, peer: &PeerCertificate) -> Refused {
    Refused::UnknownTrustDomain { peer: boxed(peer), known: trust.domains().cloned().collect() }
}

fn named(
    name: &str,
    leaf: &CertificateDer<'_>,
    domain: Option<&TrustDomain>,
    peer: &PeerCertificate,
) -> Result<(), Refused> {
    if let (Some(id), Some(domain)) = (&peer.spiffe, domain)
        && id.trust_domain != *domain
    {
        return Err(Refused::WrongTrustDomain { expected: domain.clone(), peer: boxed(peer) });
    }
    let wrong = || Refused::WrongName { expected: name.to_string(), peer: boxed(peer) };
    let server = ServerName::try_from(name).map_err(|_| wrong())?;
    let certificate = EndEntityCert::try_from(leaf).map_err(|error| forbidden(peer, &error))?;
    certificate.verify_is_valid_for_subject_name(&server).map_err(|_| wrong())
}

fn boxed(peer: &PeerCertificate) -> Box<PeerCertificate> {
    Box::new(peer.clone())
}

fn forbidden(peer: &PeerCertificate, problem: &dyn std::fmt::Display) -> Refused {
    Refused::Forbidden { peer: boxed(peer), problem: problem.to_string() }
}

struct Chain<'a> {
    leaf: &'a CertificateDer<'a>,
    above: &'a [CertificateDer<'a>],
    now: UnixTime,
    role: Role,
}

impl Chain<'_> {
    fn verify(
        &self,
        bundle: &Bundle,
        domain: Option<&TrustDomain>,
        peer: &PeerCertificate,
    ) -> Result<(), Refused> {
        if self.above.len() > MAX_CHAIN {
            return Err(forbidden(peer, &format!("more than {MAX_CHAIN} certificates above the leaf")));
        }
        if !peer.may_sign {
            return Err(forbidden(peer, &"its key usage lacks digitalSignature"));
        }
        let certificate = EndEntityCert::try_from(self.leaf).map_err(|error| forbidden(peer, &error))?;
        let usage = match self.role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let verdict = certificate.verify_for_usage(
            PROVIDER.signature_verification_algorithms.all,
            &bundle.anchors,
            self.above,
            self.now,
            usage,
            None,
            None,
        );
        let at = |time: UnixTime| UNIX_EPOCH + Duration::from_secs(time.as_secs());
        match verdict {
            Ok(_) => Ok(()),
            Err(webpki::Error::CertExpired { not_after, .. }) => {
                Err(Refused::Expired { peer: boxed(peer), at: at(not_after) })
            }
            Err(webpki::Error::CertNotValidYet { not_before, .. }) => {
                Err(Refused::NotYetValid { peer: boxed(peer), at: at(not_before) })
            }
            // A stranger's root that has the name of one of ours shows as a bad signature.
            Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
                Err(Refused::UnknownIssuer { peer: boxed(peer), domain: domain.cloned() })
            }
            Err(other) => Err(forbidden(peer, &other)),
        }
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &PROVIDER.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Roots change while we run, and clients have one certificate: no hints.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &PROVIDER.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
