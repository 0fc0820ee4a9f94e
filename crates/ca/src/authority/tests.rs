//! Issuing, with openssl as the second opinion.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_model::{SpiffeId, TrustDomain};
use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authority, IssueError, Policy};
use crate::cacerts::{Cacerts, LoadError};
use crate::csr::InvalidCsr;
use crate::names::Names;
use crate::request::KeyAndCsr;
use crate::root::{Intermediate, Root, RootError};

const HOUR: Duration = Duration::from_secs(3600);
const NOW: &str = "1795500000";
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Some day in 2026; openssl is told so too.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_500_000)
}

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn root() -> Root {
    Root::create(&domain(), 10 * YEAR, now()).unwrap().0
}

fn west() -> Cacerts {
    root().intermediate(&Intermediate::new("west".parse().unwrap()), now()).unwrap()
}

fn authority() -> Authority {
    Authority::new(&west(), Policy::default()).unwrap()
}

fn reviews() -> Names {
    Names::workload("spiffe://cluster.local/ns/default/sa/reviews".parse::<SpiffeId>().unwrap())
}

fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {text}");
    text
}

fn path(directory: &Path, name: &str) -> String {
    directory.join(name).to_str().unwrap().to_string()
}

#[test]
fn openssl_verifies_what_the_root_and_the_intermediate_signed() {
    let place = tempfile::tempdir().unwrap();
    let (offline, ca) = (place.path().join("root"), place.path().join("west"));
    let root = Root::create_in(&offline, &domain(), 10 * YEAR, false, now()).unwrap();
    let asked = Intermediate::new("west".parse().unwrap());
    root.intermediate_in(&ca, &asked, false, now()).unwrap();
    let authority = Authority::load(&ca, Policy::default()).unwrap();
    let issued = authority.issue(&KeyAndCsr::generate().csr_pem, &reviews(), None, now()).unwrap();
    let leaf = path(place.path(), "leaf.pem");
    std::fs::write(&leaf, &issued.chain[0]).unwrap();
    let (roots, chain) = (path(&ca, "root-cert.pem"), path(&ca, "cert-chain.pem"));
    openssl(&["verify", "-attime", NOW, "-x509_strict", "-CAfile", &roots, "-untrusted", &chain, &leaf]);
    openssl(&["verify", "-attime", NOW, "-x509_strict", "-CAfile", &roots, &path(&ca, "ca-cert.pem")]);
    let text = openssl(&["x509", "-in", &leaf, "-noout", "-text"]);
    for expected in [
        "X509v3 Subject Alternative Name: critical",
        "URI:spiffe://cluster.local/ns/default/sa/reviews",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "Digital Signature, Key Encipherment",
        "CA:FALSE",
        "Subject: \n",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in {text}");
    }
    let serial = openssl(&["x509", "-in", &leaf, "-noout", "-serial"]).trim().to_ascii_lowercase();
    assert_eq!(serial, format!("serial={}", issued.serial));
    let text = openssl(&["x509", "-in", &path(&ca, "ca-cert.pem"), "-noout", "-text"]);
    assert!(
        text.contains("CA:TRUE, pathlen:0") && text.contains("DNS:west.federation.isthmus.internal"),
        "{text}"
    );
    assert_eq!(text.matches("URI:spiffe://cluster.local\n").count(), 1, "{text}");
}

#[test]
fn an_authority_refuses_a_directory_that_holds_the_roots_key() {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::tempdir().unwrap();
    let root = Root::create_in(place.path(), &domain(), YEAR, false, now()).unwrap();
    let asked = Intermediate::new("west".parse().unwrap());
    let error = root.intermediate_in(place.path(), &asked, false, now()).unwrap_err().to_string();
    assert!(error.contains("move it offline"), "{error}");
    west().write(place.path()).unwrap();
    let error = Authority::load(place.path(), Policy::default()).unwrap_err();
    assert!(matches!(error, LoadError::RootKey(_)), "{error}");
    for key in ["root-key.pem", "ca-key.pem"] {
        let mode = std::fs::metadata(place.path().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn nothing_is_overwritten_without_force() {
    let place = tempfile::tempdir().unwrap();
    let (offline, ca) = (place.path().join("root"), place.path().join("west"));
    let root = Root::create_in(&offline, &domain(), YEAR, false, now()).unwrap();
    let again = Root::create_in(&offline, &domain(), YEAR, false, now()).unwrap_err();
    assert!(matches!(again, RootError::Exists(_)) && again.to_string().contains("--force"), "{again}");
    assert_eq!(Root::load(&offline).unwrap().pem(), root.pem());
    let asked = Intermediate::new("west".parse().unwrap());
    root.intermediate_in(&ca, &asked, false, now()).unwrap();
    assert!(matches!(root.intermediate_in(&ca, &asked, false, now()), Err(RootError::Exists(_))));
    root.intermediate_in(&ca, &asked, true, now()).unwrap();
    Authority::load(&ca, Policy::default()).unwrap();
    let error = Root::load(&ca).unwrap_err().to_string();
    assert!(error.contains("isthmus ca root --out"), "{error}");
}

#[test]
fn a_set_with_rsa_keys_made_by_openssl_loads_and_its_leaves_verify() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| path(place.path(), name);
    let root_key = at("top.key");
    openssl(&["genrsa", "-traditional", "-out", &root_key, "2048"]);
    let subject = "/O=Istio/CN=Root CA";
    openssl(&[
        "req",
        "-x509",
        "-new",
        "-key",
        &root_key,
        "-subj",
        subject,
        "-days",
        "30",
        "-out",
        &at("root-cert.pem"),
    ]);
    openssl(&["genrsa", "-traditional", "-out", &at("ca-key.pem"), "2048"]);
    assert!(std::fs::read_to_string(at("ca-key.pem")).unwrap().contains("BEGIN RSA PRIVATE KEY"));
    let subject = "/O=Istio/L=west/CN=Intermediate CA";
    openssl(&["req", "-new", "-key", &at("ca-key.pem"), "-subj", subject, "-out", &at("ca.csr")]);
    let extensions = "basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,digitalSignature,keyCertSign\n\
                      subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";
    std::fs::write(at("ca.ext"), extensions).unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        &at("ca.csr"),
        "-CA",
        &at("root-cert.pem"),
        "-CAkey",
        &root_key,
        "-CAcreateserial",
        "-days",
        "20",
        "-extfile",
        &at("ca.ext"),
        "-out",
        &at("ca-cert.pem"),
    ]);
    let chain = std::fs::read_to_string(at("ca-cert.pem")).unwrap()
        + &std::fs::read_to_string(at("root-cert.pem")).unwrap();
    std::fs::write(at("cert-chain.pem"), chain).unwrap();
    let authority = Authority::load(place.path(), Policy::default()).unwrap();
    let clock = authority.not_after() - HOUR;
    let issued = authority.issue(&KeyAndCsr::generate().csr_pem, &reviews(), None, clock).unwrap();
    assert_eq!(issued.chain.len(), 2, "leaf and intermediate, the root is sent apart");
    std::fs::write(at("leaf.pem"), &issued.chain[0]).unwrap();
    let seconds = clock.duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
    openssl(&[
        "verify",
        "-attime",
        &seconds,
        "-CAfile",
        &at("root-cert.pem"),
        "-untrusted",
        &at("cert-chain.pem"),
        &at("leaf.pem"),
    ]);
}

#[test]
fn a_key_of_another_certificate_or_a_chain_to_nowhere_does_not_load() {
    let (one, other) = (west(), west());
    let mixed = Cacerts { key: other.key.clone(), ..one.clone() };
    let error = Authority::new(&mixed, Policy::default()).unwrap_err().to_string();
    assert!(error.contains("ca-key.pem: is not the key of ca-cert.pem"), "{error}");
    let stray = Cacerts { roots: other.roots.clone(), ..one.clone() };
    let error = Authority::new(&stray, Policy::default()).unwrap_err().to_string();
    assert!(error.contains("unknown issuer"), "{error}");
    let leaf = authority().issue(&KeyAndCsr::generate().csr_pem, &reviews(), None, now()).unwrap();
    let not_ca = Cacerts { certificate: leaf.chain[0].clone(), ..one };
    let error = Authority::new(&not_ca, Policy::default()).unwrap_err().to_string();
    assert!(error.contains("is not a CA certificate"), "{error}");
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("ca-cert.pem"), "").unwrap();
    let error = Authority::load(place.path(), Policy::default()).unwrap_err().to_string();
    assert!(error.contains("ca-key.pem, root-cert.pem, cert-chain.pem missing"), "{error}");
}

#[test]
fn validity_starts_two_minutes_ago_and_never_outlives_the_signer() {
    let authority = authority();
    let csr = KeyAndCsr::generate().csr_pem;
    let validity = |pem: &str| {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let validity = X509Certificate::from_der(&der).unwrap().1.validity().clone();
        (validity.not_before.timestamp(), validity.not_after.timestamp())
    };
    let issued = authority.issue(&csr, &reviews(), Some(HOUR), now()).unwrap();
    assert_eq!(validity(&issued.chain[0]), (1_795_500_000 - 120, 1_795_500_000 + 3600));
    let late = authority.not_after() - Duration::from_secs(60);
    assert_eq!(authority.issue(&csr, &reviews(), Some(HOUR), late).unwrap().not_after, authority.not_after());
    let over = authority.issue(&csr, &reviews(), None, authority.not_after()).unwrap_err();
    assert!(over.to_string().contains("has expired") && !over.is_callers_fault(), "{over}");
    let error = authority.issue(&csr, &reviews(), Some(91 * 24 * HOUR), now()).unwrap_err();
    assert_eq!(error.to_string(), "requested lifetime of 7862400 s is above the maximum of 7776000 s");
    assert!(error.is_callers_fault());
}

#[test]
fn only_the_key_of_a_request_is_used() {
    let mut params = CertificateParams::new(["admin.example".to_string()]).unwrap();
    params.custom_extensions =
        vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0])];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    for algorithm in
        [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &rcgen::PKCS_RSA_SHA256]
    {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let issued = authority().issue(&csr, &reviews(), None, now()).unwrap();
        let der = CertificateDer::from_pem_slice(issued.chain[0].as_bytes()).unwrap();
        let (_, x509) = X509Certificate::from_der(&der).unwrap();
        assert!(!x509.is_ca() && x509.subject().iter().count() == 0);
        let names = &x509.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.len(), 1);
        assert_eq!(x509.public_key().raw, rcgen::PublicKeyData::subject_public_key_info(&key));
    }
}

#[test]
fn an_intermediate_speaks_for_its_own_cluster_and_trust_domain_only() {
    let authority = authority();
    let serving =
        |name: &str| Names::serving(None, vec![name.to_string()], vec!["192.0.2.1".parse().unwrap()]);
    for fine in ["default.west.federation.isthmus.internal", "istiod.istio-system.svc", "localhost"] {
        authority.issue_own(&serving(fine), HOUR, now()).unwrap();
    }
    for stolen in
        ["default.east.federation.isthmus.internal", "xwest.federation.isthmus.internal", "bank.example"]
    {
        let error = authority.issue_own(&serving(stolen), HOUR, now()).unwrap_err().to_string();
        assert!(error.contains(stolen) && error.contains("west.federation.isthmus.internal"), "{error}");
    }
    let stranger = Names::workload("spiffe://other.example/ns/a/sa/b".parse().unwrap());
    let error = authority.issue_own(&stranger, HOUR, now()).unwrap_err().to_string();
    assert!(error.contains("trust domain cluster.local only"), "{error}");
    let nobody = authority.issue_own(&Names::default(), HOUR, now()).unwrap_err();
    assert!(matches!(nobody, IssueError::Name { .. }));
    let free = Intermediate { constrained: false, ..Intermediate::new("west".parse().unwrap()) };
    let free = Authority::new(&root().intermediate(&free, now()).unwrap(), Policy::default()).unwrap();
    free.issue_own(&serving("istiod.example.com"), HOUR, now()).unwrap();
}

#[test]
fn weak_keys_and_requests_without_proof_of_possession_are_refused_with_the_reason() {
    let place = tempfile::tempdir().unwrap();
    let openssl_csr = |arguments: &[&str]| {
        let out = path(place.path(), "x.csr");
        let mut all = vec!["req", "-new", "-nodes", "-subj", "/CN=x", "-keyout", "/dev/null", "-out", &out];
        all.extend(arguments);
        openssl(&all);
        std::fs::read_to_string(out).unwrap()
    };
    let refused = |csr: &str| match authority().issue(csr, &reviews(), None, now()) {
        Err(IssueError::Csr(problem)) => problem,
        other => panic!("expected a refusal, got {other:?}"),
    };
    let text = refused(&openssl_csr(&["-newkey", "rsa:1024"])).to_string();
    assert!(text.contains("RSA of 1024 bits; use ECDSA P-256"), "{text}");
    let text =
        refused(&openssl_csr(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"])).to_string();
    assert!(text.contains("elliptic curve"), "{text}");
    assert_eq!(refused(&openssl_csr(&["-newkey", "rsa:2048", "-sha1"])), InvalidCsr::Sha1);
    authority().issue(&openssl_csr(&["-newkey", "rsa:2048"]), &reviews(), None, now()).unwrap();

    let good = KeyAndCsr::generate().csr_pem;
    let mut der = CertificateSigningRequestDer::from_pem_slice(good.as_bytes()).unwrap().to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let forged = crate::authority::pem(&der).replace("CERTIFICATE-----", "CERTIFICATE REQUEST-----");
    assert_eq!(refused(&forged), InvalidCsr::NoPossession);
    assert_eq!(refused(&"x".repeat(20_000)), InvalidCsr::TooLarge(20_000));
    assert!(matches!(refused("hello"), InvalidCsr::Pem(_)));
}

proptest::proptest! {
    #[test]
    fn no_damage_to_a_request_panics(position in 0usize..400, byte in 0u8..=255) {
        let good = KeyAndCsr::generate().csr_pem;
        let mut der = CertificateSigningRequestDer::from_pem_slice(good.as_bytes()).unwrap().to_vec();
        let position = position % der.len();
        der[position] = byte;
        let damaged = crate::authority::pem(&der).replace("CERTIFICATE-----", "CERTIFICATE REQUEST-----");
        let _ = crate::csr::public_key(&damaged);
    }
}
