//! Handshakes over an in-memory pipe.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod data_path;

use crate::files::Material;
use crate::{
    ClientAuth, ClientCertificate, Expected, HandshakeError, Identity, PeerCertificate, Refused, Terminator,
    Trust, client_config, connect,
};

const PRODUCTPAGE: &str = "spiffe://cluster.local/ns/default/sa/productpage";
const REVIEWS: &str = "spiffe://cluster.local/ns/default/sa/reviews";
const LIMIT: Duration = Duration::from_secs(5);

struct Ca {
    root: CertifiedIssuer<'static, KeyPair>,
}

/// What differs from a usual leaf.
#[derive(Default)]
struct Odd {
    expired: bool,
    usage: Vec<ExtendedKeyUsagePurpose>,
    key_usage: Vec<KeyUsagePurpose>,
    second_uri: bool,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        Self { root: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn issue(&self, names: &[&str], odd: Odd) -> Material {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let san = |name: &&str| match name.starts_with("spiffe:") {
            true => SanType::URI((*name).try_into().unwrap()),
            false => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(san).collect();
        if odd.second_uri {
            params.subject_alt_names.push(SanType::URI("spiffe://x/ns/y/sa/z".try_into().unwrap()));
        }
        params.extended_key_usages = odd.usage;
        params.key_usages = odd.key_usage;
        if odd.expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        Material {
            chain: params.signed_by(&key, &self.root).unwrap().pem(),
            key: key.serialize_pem(),
            roots: self.root.pem(),
        }
    }

    fn leaf(&self, name: &str) -> Material {
        self.issue(&[name], Odd::default())
    }

    fn identity(&self, name: &str) -> Identity {
        Identity::from_material(&self.leaf(name)).unwrap()
    }
}

fn only(id: &str) -> Expected {
    Expected::Spiffe(Arc::new(BTreeSet::from([id.parse::<SpiffeId>().unwrap()])))
}

type Served = Result<Option<Arc<PeerCertificate>>, HandshakeError>;
type Reached = Result<PeerCertificate, HandshakeError>;

/// Both ends of one connection: what the server and what the client saw. One byte travels back, so that the client sees
/// a refusal of its certificate.
async fn meet(
    server: &Identity,
    auth: ClientAuth,
    client: &Identity,
    expected: Expected,
) -> (Served, Reached) {
    let show = ClientCertificate::Send;
    meet_with(
        &Terminator::without_sessions(server, auth, &[b"istio"]),
        &client_config(client, expected, &[b"istio"], show),
    )
    .await
}

async fn meet_with(server: &Terminator, client: &Arc<rustls::ClientConfig>) -> (Served, Reached) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let serve = async {
        let (mut stream, peer) = server.accept(far, LIMIT).await?;
        stream.write_all(b"!").await.unwrap();
        Ok(peer)
    };
    let reach = async {
        let name = ServerName::try_from("outbound_.9080_._.reviews.default.svc.cluster.local").unwrap();
        let (mut stream, peer) = connect(near, client, name, LIMIT).await?;
        stream.read_u8().await?;
        Ok(peer)
    };
    tokio::join!(serve, reach)
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, HandshakeError>) -> Refused {
    match outcome {
        Err(HandshakeError::Refused(refused)) => refused,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn two_workloads_of_one_root_see_each_other() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let (served, reached) = meet(&server, ClientAuth::Required, &client, only(REVIEWS)).await;
    let (served, reached) = (served.unwrap().unwrap(), reached.unwrap());
    assert_eq!(served.spiffe.as_ref().unwrap().to_string(), PRODUCTPAGE);
    assert_eq!(reached.spiffe.unwrap().to_string(), REVIEWS);
    assert_eq!(reached.serial, server.leaf().unwrap().certificate().serial);
    assert_eq!(&*reached.issuer, "CN=root");
}

#[tokio::test]
async fn a_client_of_another_root_is_refused_even_when_the_roots_share_a_name() {
    for other in ["stranger", "root"] {
        let (ca, stranger) = (Ca::new("root"), Ca::new(other));
        // It believes our root, so that it is the server who refuses.
        let material = Material { roots: ca.root.pem(), ..stranger.leaf(PRODUCTPAGE) };
        let client = Identity::from_material(&material).unwrap();
        let (served, reached) =
            meet(&ca.identity(REVIEWS), ClientAuth::Required, &client, only(REVIEWS)).await;
        let refused = refusal(served);
        assert!(matches!(refused, Refused::UnknownIssuer { .. }), "{refused}");
        let serial = client.leaf().unwrap().certificate().serial.clone();
        let text = refused.to_string();
        assert!(text.contains(&*serial) && text.contains(&format!("CN={other}")), "{text}");
        assert!(matches!(reached, Err(HandshakeError::ByPeer(_))), "{reached:?}");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_where_one_is_required() {
    let ca = Ca::new("root");
    let client = Identity::trusting(Trust::mesh("cluster.local".parse().unwrap(), &ca.root.pem()).unwrap());
    let server = ca.identity(REVIEWS);
    let (served, _) = meet(&server, ClientAuth::Required, &client, only(REVIEWS)).await;
    assert_eq!(refusal(served), Refused::NoCertificate);
    let (served, reached) = meet(&server, ClientAuth::Optional, &client, only(REVIEWS)).await;
    assert!(served.unwrap().is_none());
    reached.unwrap();
    // Optional is not lax: a bad certificate is refused, not taken for none.
    let stranger = Material { roots: ca.root.pem(), ..Ca::new("stranger").leaf(PRODUCTPAGE) };
    let stranger = Identity::from_material(&stranger).unwrap();
    let (served, _) = meet(&server, ClientAuth::Optional, &stranger, only(REVIEWS)).await;
    assert_eq!(refusal(served).label(), "unknown_issuer");
}

#[tokio::test]
async fn expired_certificates_are_refused_in_both_directions() {
    let ca = Ca::new("root");
    let old = |name| {
        let odd = Odd { expired: true, ..Odd::default() };
        Identity::from_material(&ca.issue(&[name], odd)).unwrap()
    };
    let (served, _) =
        meet(&ca.identity(REVIEWS), ClientAuth::Required, &old(PRODUCTPAGE), only(REVIEWS)).await;
    assert_eq!(refusal(served).label(), "expired");
    let (_, reached) =
        meet(&old(REVIEWS), ClientAuth::Required, &ca.identity(PRODUCTPAGE), only(REVIEWS)).await;
    assert_eq!(refusal(reached).label(), "expired");
}

#[tokio::test]
async fn a_server_with_another_identity_is_refused_and_the_text_says_whom_we_wanted() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(PRODUCTPAGE), ca.identity(PRODUCTPAGE));
    let (_, reached) = meet(&server, ClientAuth::Required, &client, only(REVIEWS)).await;
    let text = refusal(reached).to_string();
    assert!(text.starts_with(&format!("expected {REVIEWS}, got {PRODUCTPAGE} (serial ")), "{text}");
    let domain = Expected::AnyInDomain("cluster.local".parse().unwrap());
    meet(&server, ClientAuth::Required, &client, domain).await.1.unwrap();
    let nobody = Expected::Spiffe(Arc::default());
    assert_eq!(
        refusal(meet(&server, ClientAuth::Required, &client, nobody).await.1).label(),
        "wrong_identity"
    );
}

#[tokio::test]
async fn a_ca_of_one_domain_cannot_vouch_for_a_name_in_another() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let both = |ca: &Ca, name: &str, home: &str| {
        let other =
            if home == "ours.example" { ("theirs.example", &theirs) } else { ("ours.example", &ours) };
        let (leaf, _) = ca.leaf(name).parse().unwrap();
        let own = if home == "ours.example" { &ours } else { &theirs };
        let trust = Trust::mesh(home.parse().unwrap(), &own.root.pem()).unwrap();
        let trust = trust.with_domain(other.0.parse().unwrap(), &other.1.root.pem()).unwrap();
        Identity::new(leaf, trust)
    };
    let server = both(&ours, "spiffe://ours.example/ns/a/sa/b", "ours.example");
    let expected = || only("spiffe://ours.example/ns/a/sa/b");
    let honest = both(&theirs, "spiffe://theirs.example/ns/a/sa/b", "theirs.example");
    meet(&server, ClientAuth::Required, &honest, expected()).await.0.unwrap();
    let liar = both(&theirs, "spiffe://ours.example/ns/a/sa/b", "ours.example");
    let refused = refusal(meet(&server, ClientAuth::Required, &liar, expected()).await.0);
    assert_eq!(refused.label(), "unknown_issuer");
    let stray = both(&ours, "spiffe://nowhere.example/ns/a/sa/b", "ours.example");
    let refused = refusal(meet(&server, ClientAuth::Required, &stray, expected()).await.0);
    assert!(
        refused.to_string().contains("without roots here; known: ours.example, theirs.example"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_control_plane_is_known_by_its_dns_name() {
    let ca = Ca::new("root");
    let names =
        ["spiffe://cluster.local/ns/istio-system/sa/istiod", "default.west.federation.isthmus.internal"];
    let server = Identity::from_material(&ca.issue(&names, Odd::default())).unwrap();
    let joining = Identity::trusting(Trust::private(&ca.root.pem()).unwrap());
    let member = ca.identity(REVIEWS);
    let west = || Expected::ServerName("default.west.federation.isthmus.internal".into());
    meet(&server, ClientAuth::Optional, &joining, west()).await.1.unwrap();
    meet(&server, ClientAuth::Optional, &member, west()).await.1.unwrap();
    let east = Expected::ServerName("default.east.federation.isthmus.internal".into());
    let text = refusal(meet(&server, ClientAuth::Optional, &member, east).await.1).to_string();
    assert!(text.contains("default.east.federation") && text.contains("default.west.federation"), "{text}");
}

#[tokio::test]
async fn usages_and_contradictory_names_are_refused() {
    let ca = Ca::new("root");
    let server = ca.identity(REVIEWS);
    let odd = [
        (Odd { usage: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Odd::default() }, "forbidden"),
        (Odd { key_usage: vec![KeyUsagePurpose::KeyEncipherment], ..Odd::default() }, "forbidden"),
    ];
    for (odd, label) in odd {
        let client = Identity::from_material(&ca.issue(&[PRODUCTPAGE], odd)).unwrap();
        let (served, _) = meet(&server, ClientAuth::Required, &client, only(REVIEWS)).await;
        assert_eq!(refusal(served).label(), label);
    }
    let nameless = Identity::from_material(&ca.issue(&["some.host"], Odd::default())).unwrap();
    nameless.update_trust(Trust::mesh("cluster.local".parse().unwrap(), &ca.root.pem()).unwrap());
    let (served, _) = meet(&server, ClientAuth::Required, &nameless, only(REVIEWS)).await;
    assert_eq!(refusal(served).label(), "no_identity");
    let two = ca.issue(&[PRODUCTPAGE], Odd { second_uri: true, ..Odd::default() });
    let error = Identity::from_material(&two).unwrap_err().to_string();
    assert!(error.contains("has 2 URI names"), "{error}");
}

#[tokio::test]
async fn a_rotation_is_seen_by_the_next_handshake_without_a_new_configuration() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let serve = Terminator::without_sessions(&server, ClientAuth::Required, &[]);
    let reach = client_config(&client, only(REVIEWS), &[], ClientCertificate::Send);
    let changes = client.changes();
    meet_with(&serve, &reach).await.1.unwrap();
    // New leaves, under a new root, while the same configurations are used.
    let next = Ca::new("next");
    client.update_material(&next.leaf(PRODUCTPAGE)).unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(refusal(meet_with(&serve, &reach).await.1).label(), "unknown_issuer");
    server.update_material(&next.leaf(REVIEWS)).unwrap();
    let (served, reached) = meet_with(&serve, &reach).await;
    assert_eq!(served.unwrap().unwrap().serial, client.leaf().unwrap().certificate().serial);
    assert_eq!(&*reached.unwrap().issuer, "CN=next");
    // A damaged update changes nothing.
    let damaged = Material { roots: String::new(), ..next.leaf(PRODUCTPAGE) };
    client.update_material(&damaged).unwrap_err();
    meet_with(&serve, &reach).await.1.unwrap();
}

#[tokio::test]
async fn no_session_is_resumed_past_a_withdrawn_root() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let serve = Terminator::without_sessions(&server, ClientAuth::Required, &[]);
    let reach = client_config(&client, only(REVIEWS), &[], ClientCertificate::Send);
    meet_with(&serve, &reach).await.1.unwrap();
    let other = Trust::mesh("cluster.local".parse().unwrap(), &Ca::new("other").root.pem()).unwrap();
    server.update_trust(other);
    assert_eq!(refusal(meet_with(&serve, &reach).await.0).label(), "unknown_issuer");
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_costs_a_bounded_time_and_plain_text_is_not_tls() {
    let serve = Terminator::without_sessions(&Ca::new("root").identity(REVIEWS), ClientAuth::Required, &[]);
    let (_near, far) = tokio::io::duplex(1024);
    assert!(matches!(serve.accept(far, LIMIT).await, Err(HandshakeError::Timeout(_))));
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(serve.accept(far, LIMIT).await.unwrap_err().label(), "protocol");
}

#[test]
fn files_survive_a_crash_between_the_renames() {
    use std::os::unix::fs::PermissionsExt;
    let (ca, place) = (Ca::new("root"), tempfile::tempdir().unwrap());
    let directory = place.path().join("id");
    assert_eq!(Material::load(&directory).unwrap(), None);
    let (old, new) = (ca.leaf(REVIEWS), ca.leaf(REVIEWS));
    old.save(&directory).unwrap();
    assert_eq!(Material::load(&directory).unwrap().as_ref(), Some(&old));
    for file in std::fs::read_dir(&directory).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    // Cut off after the chain was renamed, before the key was.
    std::fs::write(directory.join("key.pem.new"), &new.key).unwrap();
    std::fs::write(directory.join("cert-chain.pem"), &new.chain).unwrap();
    assert_eq!(Material::load(&directory).unwrap().as_ref(), Some(&new));
    assert_eq!(Material::load(&directory).unwrap().as_ref(), Some(&new));
    // Keys that belong to nothing are an error, not an absence.
    std::fs::write(directory.join("key.pem"), ca.leaf(REVIEWS).key).unwrap();
    let error = Material::load(&directory).unwrap_err().to_string();
    assert!(error.contains("private key of spiffe://"), "{error}");
}

#[test]
fn no_damage_to_a_certificate_panics() {
    let chain = Ca::new("root").leaf(REVIEWS).chain;
    let der = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    for position in 0..der.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = der.to_vec();
            damaged[position] ^= flip;
            let _ = PeerCertificate::parse(&damaged.into());
        }
        let _ = PeerCertificate::parse(&der[..position].into());
    }
}
