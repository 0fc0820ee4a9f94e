//! Gateway.

use isthmus_model::Namespace;

use super::{Problems, names};
use crate::istio::{Gateway, Server, ServerTlsMode};

pub(super) fn check(gateway: &Gateway, problems: &mut Problems) {
    problems.require(!gateway.servers.is_empty(), "spec.servers", "must have at least one server");
    names::labels("spec.selector", &gateway.selector, problems);
    for (index, server) in gateway.servers.iter().enumerate() {
        let at = format!("spec.servers[{index}]");
        check_server(&at, server, problems);
        let same = |other: &Server| {
            !server.port.name.is_empty()
                && other.port.name == server.port.name
                && other.port.number != server.port.number
        };
        let twice = gateway.servers[..index].iter().any(same);
        problems.require(!twice, format!("{at}.port.name"), format!("{:?} is there twice", server.port.name));
    }
}

fn check_server(at: &str, server: &Server, problems: &mut Problems) {
    problems.check(format!("{at}.port.number"), names::port(server.port.number));
    problems.require(!server.port.protocol.is_empty(), format!("{at}.port.protocol"), "must not be empty");
    problems.check(format!("{at}.port.protocol"), names::protocol(&server.port.protocol));
    problems.require(!server.hosts.is_empty(), format!("{at}.hosts"), "must have at least one host");
    for (index, text) in server.hosts.iter().enumerate() {
        let field = format!("{at}.hosts[{index}]");
        let (namespace, host) = text.split_once('/').unwrap_or(("*", text));
        if !matches!(namespace, "*" | ".") {
            problems.check(&field, Namespace::new(namespace).map(drop).map_err(|error| error.to_string()));
        }
        if host != "*" {
            problems.check(&field, names::host(host));
        }
    }
    let protocol = server.port.protocol.to_ascii_lowercase();
    let secure = matches!(protocol.as_str(), "tls" | "https");
    let Some(tls) = &server.tls else {
        problems.require(!secure, format!("{at}.tls"), "protocols HTTPS and TLS need it");
        return;
    };
    let only_redirect = tls.https_redirect && protocol.starts_with("http") && !secure;
    if only_redirect {
        return;
    }
    let at = format!("{at}.tls");
    let certificates = !tls.credential_name.is_empty()
        || !tls.credential_names.is_empty()
        || (!tls.server_certificate.is_empty() && !tls.private_key.is_empty());
    match tls.mode {
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
            let message = "this mode needs credentialName, or serverCertificate and privateKey";
            problems.require(certificates, &at, message);
        }
        ServerTlsMode::IstioMutual => {
            problems.require(!certificates, &at, "mode ISTIO_MUTUAL brings its own certificates");
        }
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            let terminates = protocol == "http" || protocol == "http2" || protocol == "grpc";
            problems.require(!terminates, &at, "a passed-through connection is TLS: protocol TLS or HTTPS");
        }
    }
}
