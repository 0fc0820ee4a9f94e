use std::sync::Arc;

use proptest::prelude::*;
use rustls::crypto::aws_lc_rs;

use super::*;

const NAME: &str = "outbound_.9080_._.reviews.default.svc.cluster.local";

/// A hello as rustls writes it.
fn hello(name: &str, alpn: &[&str], fragment: Option<usize>) -> Vec<u8> {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.max_fragment_size = fragment;
    let name = rustls::pki_types::ServerName::try_from(name.to_string()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// The answer to these bytes in these pieces, and how many were needed for it at most.
fn read(reader: &mut HelloReader, pieces: &[&[u8]]) -> Result<Option<ClientHello>, HelloError> {
    for piece in pieces {
        let answer = reader.push(piece);
        if !matches!(answer, Ok(None)) {
            return answer;
        }
    }
    Ok(None)
}

fn whole(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    read(&mut HelloReader::new(), &[bytes])
}

fn byte_by_byte(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    read(&mut HelloReader::new(), &bytes.chunks(1).collect::<Vec<_>>())
}

#[test]
fn a_post_quantum_hello_yields_its_name_and_protocols() {
    let bytes = hello(NAME, &["istio-peer-exchange", "istio"], None);
    assert!(bytes.len() > 1200, "{} bytes: the key share should be post-quantum", bytes.len());
    let hello = whole(&bytes).unwrap().unwrap();
    assert_eq!(hello.require_server_name(), Ok(NAME));
    assert_eq!(hello.alpn().collect::<Vec<_>>(), [b"istio-peer-exchange".as_slice(), b"istio"]);
    assert!(hello.offers("istio") && hello.is_mesh() && !hello.offers("h2"));
}

#[test]
fn a_hello_is_whole_only_with_its_last_byte() {
    let bytes = hello(NAME, &["istio"], None);
    assert_eq!(whole(&bytes[..bytes.len() - 1]), Ok(None));
    let mut reader = HelloReader::new();
    assert_eq!(reader.push(&bytes[..100]), Ok(None));
    assert!(reader.push(&[&bytes[100..], b"early data"].concat()).unwrap().is_some());
    assert_eq!(reader.into_bytes(), [&bytes[..], b"early data"].concat(), "what followed is kept");
}

#[test]
fn a_hello_cut_into_many_records_is_joined() {
    // rustls's least fragment is 32 bytes with its header.
    let bytes = hello(NAME, &["istio"], Some(32));
    assert!(bytes.chunks(32).all(|record| record[0] == 22));
    for answer in [whole(&bytes), byte_by_byte(&bytes)] {
        assert_eq!(answer.unwrap().unwrap().server_name(), Some(NAME));
    }
}

#[test]
fn a_hello_larger_than_one_record_is_read() {
    let many: Vec<String> = (0..2000).map(|n| format!("protocol-{n:04}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let bytes = hello(NAME, &many, None);
    assert!(bytes.len() > 2 * MAX_RECORD / 2 + RECORD_HEADER, "{} bytes", bytes.len());
    let hello = byte_by_byte(&bytes).unwrap().unwrap();
    assert_eq!(hello.alpn().count(), 2000);
    assert_eq!(hello.server_name(), Some(NAME));
}

#[test]
fn a_hello_to_an_address_has_no_server_name() {
    let hello = whole(&hello("127.0.0.1", &[], None)).unwrap().unwrap();
    assert_eq!(hello.server_name(), None);
    assert_eq!(hello.require_server_name(), Err(HelloError::NoServerName));
    assert_eq!(hello.alpn().count(), 0);
}

#[test]
fn other_protocols_are_told_by_their_first_byte() {
    assert_eq!(whole(b"G"), Err(HelloError::NotTls));
    assert_eq!(whole(b"\x16\x02"), Err(HelloError::NotTls));
    assert_eq!(whole(b""), Ok(None));
    assert_eq!(whole(b"\x16\x03"), Ok(None));
}

#[test]
fn sizes_above_the_limit_are_refused_by_what_the_header_says() {
    let too_large = Err(HelloError::TooLarge { limit: MAX_HELLO });
    assert_eq!(whole(&[22, 3, 1, 1, 0, 1, 1, 0, 0]), too_large, "a body of 65536 bytes");
    assert_eq!(
        whole(&[22, 3, 1, 0x40, 1, 1]),
        Err(HelloError::Malformed("a record longer than 16384 bytes"))
    );
    // Records of one byte: the headers count too.
    let mut drip = [22, 3, 1, 0, 1, 1, 22, 3, 1, 0, 1, 0, 22, 3, 1, 0, 1, 0xff, 22, 3, 1, 0, 1, 0].to_vec();
    while drip.len() < MAX_HELLO + 100 {
        drip.extend([22, 3, 1, 0, 1, 7]);
    }
    assert_eq!(whole(&drip), too_large);
    assert_eq!(byte_by_byte(&drip), too_large);
}

#[test]
fn each_kind_of_damage_is_named() {
    let good = hello(NAME, &["istio"], None);
    let malformed = |bytes: &[u8]| match whole(bytes) {
        Err(HelloError::Malformed(what)) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(malformed(&[22, 3, 1, 0, 0]), "an empty handshake record");
    assert_eq!(malformed(&[22, 3, 1, 0, 5, 2]), "the first handshake message is no client hello");
    assert_eq!(malformed(&[22, 3, 1, 0, 4, 1, 0, 0, 0]), "it ends before the random");
    let mut interleaved = good[..5 + 10].to_vec();
    interleaved[3..5].copy_from_slice(&[0, 10]);
    interleaved.push(21);
    assert_eq!(malformed(&interleaved), "a record of another type inside the client hello");
    let at = good.windows(NAME.len()).position(|window| window == NAME.as_bytes()).unwrap();
    let mut blank = good.clone();
    blank[at] = b' ';
    assert_eq!(malformed(&blank), "a server name with other than printable ASCII");
    let mut kind = good.clone();
    kind[at - 3] = 1;
    assert_eq!(malformed(&kind), "a server name of an unknown type");
    let mut upper = good;
    upper[at] = b'O';
    assert_eq!(whole(&upper).unwrap().unwrap().server_name(), Some(NAME), "names are compared in lower case");
}

/// Bytes that are a hello, or nearly one, or anything.
fn nearly_a_hello() -> impl Strategy<Value = Vec<u8>> {
    let good = hello(NAME, &["istio", "h2"], None);
    let fragmented = hello(NAME, &["istio"], Some(40));
    let damaged =
        (prop::sample::select(vec![good, fragmented]), prop::collection::vec(any::<(u16, u8)>(), 0..4))
            .prop_map(|(mut bytes, edits)| {
                for (at, value) in edits {
                    let at = usize::from(at) % bytes.len();
                    bytes[at] = value;
                }
                bytes
            });
    let headed = prop::collection::vec(any::<u8>(), 0..200).prop_map(|body| {
        let length = u16::try_from(body.len() + 4).unwrap().to_be_bytes();
        let inner = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[22, 3, 1][..], &length, &[1, 0], &inner, &body].concat()
    });
    prop_oneof![4 => damaged, 1 => headed, 1 => prop::collection::vec(any::<u8>(), 0..100)]
}

proptest! {
    #[test]
    fn no_input_panics_and_every_split_gives_the_same_answer(
        bytes in nearly_a_hello(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let expected = whole(&bytes);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(read(&mut HelloReader::new(), &pieces), expected.clone());
        prop_assert_eq!(byte_by_byte(&bytes), expected);
    }
}
