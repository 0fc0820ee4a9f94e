//! Originator and Terminator: what they say to each other and to others, and how far a session goes.

mod memory;

use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::pin;
use std::task::Poll;
use std::time::UNIX_EPOCH;

use rustls::{ProtocolVersion, version};
use tokio::io::DuplexStream;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{Originator, Terminator, TlsStream};

const NAME: &str = "outbound_.9080_._.reviews.default.svc.cluster.local";

type Ends = (TlsStream<DuplexStream>, TlsStream<DuplexStream>);

/// Shakes hands and passes a byte each way, so that tickets arrive. The client's and the server's end, and whom each saw.
async fn meet(
    server: &Terminator,
    client: &Originator,
) -> Result<(Ends, PeerCertificate, Option<PeerCertificate>), (Option<HandshakeError>, Option<HandshakeError>)>
{
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from(NAME).unwrap();
    let (reached, served) = tokio::join!(client.connect(near, name, LIMIT), server.accept(far, LIMIT));
    match (reached, served) {
        (Ok((mut near, reached)), Ok((mut far, served))) => {
            far.write_all(b"!").await.unwrap();
            assert_eq!(near.read_u8().await.unwrap(), b'!');
            near.write_all(b"?").await.unwrap();
            assert_eq!(far.read_u8().await.unwrap(), b'?');
            assert_eq!(near.is_resumed(), far.is_resumed());
            Ok(((near, far), (*reached).clone(), served.map(|peer| (*peer).clone())))
        }
        (reached, served) => Err((reached.err(), served.err())),
    }
}

/// Shakes hands over a wire that is in the test's hands afterwards: what the client sends comes out of the second value, and the
/// server reads what is written to the third.
async fn meet_over_wire(server: &Terminator, client: &Originator) -> (Ends, DuplexStream, DuplexStream) {
    let name = ServerName::try_from(NAME).unwrap();
    let ((near, mut wire), (mut other, far)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
    let between = async {
        let _ = tokio::io::copy_bidirectional(&mut wire, &mut other).await;
    };
    let ends = async {
        let (reached, served) = tokio::join!(client.connect(near, name, LIMIT), server.accept(far, LIMIT));
        (reached.unwrap().0, served.unwrap().0)
    };
    let ends = tokio::select! {
        ends = ends => ends,
        () = between => panic!("the wire ended"),
    };
    (ends, wire, other)
}

/// Lets it do what it can do now, which is not all.
async fn goes_on_waiting(future: impl Future) {
    let mut future = pin!(future);
    let waits = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await;
    assert!(waits);
}

fn originator(identity: &Identity, expected: Expected) -> Originator {
    Originator::new(identity, expected, &[b"istio"], ClientCertificate::Send)
}

fn terminator(identity: &Identity) -> Terminator {
    Terminator::new(identity, ClientAuth::Required, &[b"istio"])
}

#[tokio::test]
async fn a_resumed_session_has_the_same_peers() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let (serve, reach) = (terminator(&server), originator(&client, only(REVIEWS)));
    let (first, reached, served) = meet(&serve, &reach).await.unwrap();
    assert!(!first.0.is_resumed());
    for _ in 0..3 {
        let (again, reached_again, served_again) = meet(&serve, &reach).await.unwrap();
        assert!(again.0.is_resumed());
        assert_eq!((&reached_again, &served_again), (&reached, &served));
    }
    assert_eq!(served.unwrap().spiffe.unwrap().to_string(), PRODUCTPAGE);
}

#[tokio::test]
async fn no_session_outlives_a_root_that_either_side_withdrew() {
    let ca = Ca::new("root");
    let other = || Trust::mesh("cluster.local".parse().unwrap(), &Ca::new("other").root.pem()).unwrap();
    for withdrawn_by_server in [true, false] {
        let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
        let (serve, reach) = (terminator(&server), originator(&client, only(REVIEWS)));
        meet(&serve, &reach).await.unwrap();
        assert!(meet(&serve, &reach).await.unwrap().0.0.is_resumed());
        if withdrawn_by_server { &server } else { &client }.update_trust(other());
        let refused = match meet(&serve, &reach).await {
            Err((_, Some(served))) if withdrawn_by_server => served,
            Err((Some(reached), _)) if !withdrawn_by_server => reached,
            met => panic!("{met:?}"),
        };
        assert_eq!(refused.label(), "unknown_issuer");
    }
}

#[tokio::test]
async fn a_new_leaf_on_either_side_is_shown_by_the_next_connection() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let (serve, reach) = (terminator(&server), originator(&client, only(REVIEWS)));
    for rotated in [&server, &client] {
        meet(&serve, &reach).await.unwrap();
        assert!(meet(&serve, &reach).await.unwrap().0.0.is_resumed());
        let name = rotated.spiffe().unwrap().to_string();
        rotated.update_material(&ca.leaf(&name)).unwrap();
        let (ends, reached, served) = meet(&serve, &reach).await.unwrap();
        assert!(!ends.0.is_resumed());
        assert_eq!(reached.serial, server.leaf().unwrap().certificate().serial);
        assert_eq!(served.unwrap().serial, client.leaf().unwrap().certificate().serial);
    }
}

#[tokio::test]
async fn a_session_is_offered_to_nobody_else() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let serve = terminator(&server);
    meet(&serve, &originator(&client, only(REVIEWS))).await.unwrap();
    // The same server and the same name, with another set of identities that are expected.
    let both = [REVIEWS, PRODUCTPAGE].map(|id| id.parse::<SpiffeId>().unwrap());
    let wider = originator(&client, Expected::Spiffe(Arc::new(BTreeSet::from(both))));
    assert!(!meet(&serve, &wider).await.unwrap().0.0.is_resumed());
    assert!(meet(&serve, &wider).await.unwrap().0.0.is_resumed());
    // Another server behind the same name cannot read the ticket, and shows who it is.
    let reach = originator(&client, only(REVIEWS));
    meet(&serve, &reach).await.unwrap();
    let stranger = terminator(&ca.identity(PRODUCTPAGE));
    let (reached, _) = meet(&stranger, &reach).await.unwrap_err();
    assert_eq!(reached.unwrap().label(), "wrong_identity");
}

#[tokio::test]
async fn a_session_without_a_certificate_does_not_open_a_stricter_listener() {
    let ca = Ca::new("root");
    let server = ca.identity(REVIEWS);
    let lax = Terminator::new(&server, ClientAuth::Optional, &[b"istio"]);
    let anonymous =
        Originator::new(&ca.identity(PRODUCTPAGE), only(REVIEWS), &[b"istio"], ClientCertificate::Omit);
    meet(&lax, &anonymous).await.unwrap();
    assert!(meet(&lax, &anonymous).await.unwrap().0.0.is_resumed());
    let strict = terminator(&server);
    let name = ServerName::try_from(NAME).unwrap();
    let (near, far) = tokio::io::duplex(1 << 16);
    let (_, served) = tokio::join!(anonymous.connect(near, name, LIMIT), strict.accept(far, LIMIT));
    assert_eq!(refusal(served), Refused::NoCertificate);
}

#[tokio::test]
async fn a_certificate_that_expired_meanwhile_is_not_resumed() {
    let ca = Ca::new("root");
    let server = ca.identity(REVIEWS);
    let clients = crate::verify::Clients { identity: server, auth: ClientAuth::Required };
    let (leaf, _) = ca.leaf(PRODUCTPAGE).parse().unwrap();
    let chain = leaf.chain();
    let at = |time: std::time::SystemTime| {
        rustls_pki_types::UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap())
    };
    let end = leaf.not_after();
    // The second time it is known already.
    for _ in 0..2 {
        clients.judge(&chain[0], &chain[1..], at(end - Duration::from_secs(1))).unwrap();
    }
    let refused = clients.judge(&chain[0], &chain[1..], at(end + Duration::from_secs(1))).unwrap_err();
    assert_eq!(refused.label(), "expired");
}

/// Both ends move this much, in chunks of odd sizes.
async fn exchange<A, B>(mut near: A, mut far: B)
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let send = async {
        let (mut rest, mut sizes) = (&sent[..], [1, 100, 16_384, 16_385, 65_536, 70_001].into_iter().cycle());
        while let Some(size) = sizes.next().filter(|_| !rest.is_empty()) {
            let (chunk, behind) = rest.split_at(size.min(rest.len()));
            near.write_all(chunk).await.unwrap();
            near.flush().await.unwrap();
            rest = behind;
        }
        near.shutdown().await.unwrap();
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"all of it");
    };
    let receive = async {
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert!(received == sent);
        far.write_all(b"all of it").await.unwrap();
        far.shutdown().await.unwrap();
    };
    tokio::join!(send, receive);
}

#[tokio::test]
async fn bytes_pass_whole_and_each_side_ends_by_itself() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let ((near, far), _, _) = meet(&terminator(&server), &originator(&client, only(REVIEWS))).await.unwrap();
    exchange(near, far).await;
}

/// rustls' own record layer, in either version, with each cipher, as the other side.
#[tokio::test]
async fn others_are_spoken_to_in_both_versions_and_each_cipher() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let name = || ServerName::try_from(NAME).unwrap();
    for suite in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES {
        if format!("{:?}", suite.suite()).contains("_RSA_") {
            continue;
        }
        let mut provider = (*crate::provider()).clone();
        provider.cipher_suites = vec![*suite];
        let version = suite.version().version;
        let versions: &[&rustls::SupportedProtocolVersion] =
            if version == ProtocolVersion::TLSv1_3 { &[&version::TLS13] } else { &[&version::TLS12] };
        let servers = Arc::new(crate::verify::Servers { identity: client.clone(), expected: only(REVIEWS) });
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider.clone()))
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(servers)
            .with_client_cert_resolver(Arc::new(crate::client::CurrentLeaf(client.clone())));
        let (near, far) = tokio::io::duplex(1 << 16);
        let (config, serve) = (Arc::new(config), terminator(&server));
        let (reached, served) = tokio::join!(connect(near, &config, name(), LIMIT), serve.accept(far, LIMIT));
        exchange(reached.unwrap().0, served.unwrap().0).await;

        let clients =
            Arc::new(crate::verify::Clients { identity: server.clone(), auth: ClientAuth::Required });
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(crate::client::CurrentLeaf(server.clone())));
        let (near, far) = tokio::io::duplex(1 << 16);
        let (config, reach) = (Arc::new(config), originator(&client, only(REVIEWS)));
        let accepted = TlsAcceptor::from(Arc::clone(&config)).accept(far);
        let (reached, served) = tokio::join!(reach.connect(near, name(), LIMIT), accepted);
        exchange(served.unwrap(), reached.unwrap().0).await;
    }
}

#[tokio::test]
async fn new_keys_are_taken_and_given_when_asked() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let config = client_config(&client, only(REVIEWS), &[b"istio"], ClientCertificate::Send);
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from(NAME).unwrap();
    let terminator = terminator(&server);
    let (reached, served) = tokio::join!(connect(near, &config, name, LIMIT), terminator.accept(far, LIMIT));
    let ((mut near, _), (mut far, _)) = (reached.unwrap(), served.unwrap());
    for round in 0..3u8 {
        // rustls asks for ours with its own.
        near.get_mut().1.refresh_traffic_keys().unwrap();
        near.write_all(&[round]).await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), round);
        far.write_all(&[round]).await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), round);
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_or_damaged_is_no_orderly_end() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let (serve, reach) = (terminator(&server), originator(&client, only(REVIEWS)));
    let ((near, mut far), _, _) = meet(&serve, &reach).await.unwrap();
    drop(near);
    assert_eq!(far.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    // Bytes in between that nobody sealed.
    let ((near, mut far), _, mut other) = meet_over_wire(&serve, &reach).await;
    for damage in [&[23, 3, 3, 0, 20][..], &[0; 20], b"GET / HTTP/1.1\r\n"] {
        other.write_all(damage).await.unwrap();
    }
    assert_eq!(far.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    drop(near);
}

#[tokio::test]
async fn a_refusal_reaches_the_other_side_as_an_alert() {
    let (ca, stranger) = (Ca::new("root"), Ca::new("stranger"));
    let reach = originator(&ca.identity(PRODUCTPAGE), only(REVIEWS));
    let (reached, served) = meet(&terminator(&stranger.identity(REVIEWS)), &reach).await.unwrap_err();
    assert_eq!(reached.unwrap().label(), "unknown_issuer");
    assert!(matches!(served, Some(HandshakeError::ByPeer(_))), "{served:?}");
}

#[tokio::test]
async fn small_slices_that_are_written_together_are_one_record() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let ((mut near, _far), mut wire, _other) =
        meet_over_wire(&terminator(&server), &originator(&client, only(REVIEWS))).await;
    let slices: Vec<IoSlice<'_>> = [&b"one"[..], b"", b"two"].map(IoSlice::new).into();
    assert_eq!(near.write_vectored(&slices).await.unwrap(), 6);
    let mut sealed = [0; 100];
    assert_eq!(wire.read(&mut sealed).await.unwrap(), 5 + 6 + 1 + 16);
}

#[tokio::test]
async fn a_terminator_without_sessions_gives_none_to_resume() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let serve = Terminator::without_sessions(&server, ClientAuth::Optional, &[b"istio"]);
    let reach = originator(&client, only(REVIEWS));
    for _ in 0..3 {
        let ((near, far), reached, served) = meet(&serve, &reach).await.unwrap();
        assert!(!near.is_resumed() && !far.is_resumed());
        assert_eq!(reached.name(), REVIEWS);
        assert!(served.is_some());
        assert_eq!((near.held(), far.held()), (0, 0));
    }
}

#[tokio::test]
async fn a_handshake_that_stalls_holds_no_buffer() {
    let ca = Ca::new("root");
    let (serve, reach) =
        (terminator(&ca.identity(REVIEWS)), originator(&ca.identity(PRODUCTPAGE), only(REVIEWS)));
    let (near, mut wire) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from(NAME).unwrap();
    let mut connecting = pin!(reach.connect(near, name, LIMIT));
    goes_on_waiting(&mut connecting).await;
    let mut hello = vec![0; 1 << 16];
    let length = wire.read(&mut hello).await.unwrap();
    for stop in [1, length / 2, length] {
        let (mut other, far) = tokio::io::duplex(1 << 16);
        other.write_all(&hello[..stop]).await.unwrap();
        let mut accepting = pin!(serve.accept(far, LIMIT));
        goes_on_waiting(&mut accepting).await;
        // Of the client too.
        assert_eq!(crate::buffers::lent(), 0);
    }
}

#[tokio::test]
async fn bytes_pass_whole_however_their_records_are_cut() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    for piece in [100, 16_000, 20_000] {
        let (near, far) = tokio::io::duplex(piece);
        let name = ServerName::try_from(NAME).unwrap();
        let (serve, reach) = (terminator(&server), originator(&client, only(REVIEWS)));
        let (reached, served) = tokio::join!(reach.connect(near, name, LIMIT), serve.accept(far, LIMIT));
        exchange(reached.unwrap().0, served.unwrap().0).await;
        assert_eq!(crate::buffers::lent(), 0);
    }
}

#[test]
fn a_chain_is_verified_once_also_where_a_ca_is_named_after_its_domain() {
    let ca = Ca::new("root");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "intermediate");
    params.subject_alt_names = vec![SanType::URI("spiffe://cluster.local".try_into().unwrap())];
    let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &ca.root).unwrap();
    let below = Ca { root: issuer };
    let leaf = below.leaf(PRODUCTPAGE);
    let material = Material { chain: leaf.chain + &below.root.pem(), key: leaf.key, roots: ca.root.pem() };
    let (leaf, trust) = material.parse().unwrap();
    let chain = leaf.chain().to_vec();
    assert_eq!(chain.len(), 2);
    let identity = Identity::new(leaf, trust);
    let clients = crate::verify::Clients { identity: identity.clone(), auth: ClientAuth::Required };
    let now = rustls_pki_types::UnixTime::now();
    let peer = clients.judge(&chain[0], &chain[1..], now).unwrap();
    let key = crate::verified::key(crate::verified::Role::Client, &chain[0], &chain[1..]);
    let known = || identity.with(|current| current.verified.get(&key, now));
    assert_eq!(known().as_deref(), Some(&*peer));
    // Another trust has not said anything yet.
    identity
        .update_trust(Trust::mesh("cluster.local".parse().unwrap(), &Ca::new("other").root.pem()).unwrap());
    assert_eq!(known(), None);
    assert_eq!(clients.judge(&chain[0], &chain[1..], now).unwrap_err().label(), "unknown_issuer");
}

#[tokio::test]
async fn what_comes_with_the_end_of_the_handshake_is_not_lost() {
    let ca = Ca::new("root");
    let (server, client) = (ca.identity(REVIEWS), ca.identity(PRODUCTPAGE));
    let (serve, reach) = (terminator(&server), originator(&client, only(REVIEWS)));
    for (length, says_its_end) in [(10, true), (40_000, true), (10, false), (40_000, false)] {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        // Nothing is read by the server until the client has said all.
        let mut wire = tokio::io::duplex(1 << 20);
        let sent = vec![7; length];
        let say = async {
            let name = ServerName::try_from(NAME).unwrap();
            let (mut client, _) = reach.connect(&mut wire.0, name, LIMIT).await.unwrap();
            client.write_all(&sent).await.unwrap();
            client.flush().await.unwrap();
            if says_its_end {
                client.shutdown().await.unwrap();
            }
            client
        };
        let carry = async {
            let mut flight = vec![0; 1 << 20];
            // The hello, the answer, and then everything else at once.
            let hello = wire.1.read(&mut flight).await.unwrap();
            near.write_all(&flight[..hello]).await.unwrap();
            let mut answered = 0;
            while answered == 0 {
                answered = near.read(&mut flight).await.unwrap();
            }
            wire.1.write_all(&flight[..answered]).await.unwrap();
            let mut rest = 0;
            while rest < length {
                rest += wire.1.read(&mut flight[rest..]).await.unwrap();
            }
            near.write_all(&flight[..rest]).await.unwrap();
            near
        };
        let hear = async {
            let (mut server, _) = serve.accept(far, LIMIT).await.unwrap();
            let mut received = vec![0; length];
            server.read_exact(&mut received).await.unwrap();
            (server, received)
        };
        let (_client, _near, (_server, received)) = tokio::join!(say, carry, hear);
        assert!(received == sent);
    }
}
