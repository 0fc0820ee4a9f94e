//! Checks of single values.

use std::net::IpAddr;

use isthmus_model::{Hostname, Labels, Namespace};

use super::Problems;

/// A host name, a wildcard, or a short name.
pub(super) fn host(text: &str) -> Result<(), String> {
    Hostname::new(text.to_ascii_lowercase()).map(drop).map_err(|error| error.to_string())
}

/// A host name without a wildcard and with a dot.
pub(super) fn fqdn(text: &str) -> Result<(), String> {
    host(text)?;
    if text.starts_with('*') {
        return Err(format!("{text:?} must not be a wildcard"));
    }
    Ok(())
}

/// An IP address or a CIDR.
pub(super) fn address_or_cidr(text: &str) -> Result<(), String> {
    if text.parse::<IpAddr>().is_ok() || text.parse::<ipnet::IpNet>().is_ok() {
        return Ok(());
    }
    Err(format!("{text:?} is neither an IP address nor a CIDR such as 192.0.2.0/24"))
}

/// A port number.
pub(super) fn port(number: u16) -> Result<(), String> {
    if number == 0 { Err("must be between 1 and 65535".to_string()) } else { Ok(()) }
}

/// A port name: a DNS label.
pub(super) fn port_name(text: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let good = text.len() <= 63
        && text.bytes().all(allowed)
        && ends(text.bytes().next())
        && ends(text.bytes().next_back());
    if good {
        return Ok(());
    }
    Err(format!(
        "{text:?} is not a port name: letters, digits and '-', at most 63, a letter or digit first and last"
    ))
}

/// A protocol by its name.
pub(super) fn protocol(text: &str) -> Result<(), String> {
    const KNOWN: [&str; 12] = [
        "http", "https", "http2", "grpc", "grpc-web", "tcp", "tls", "udp", "mongo", "redis", "mysql", "hbone",
    ];
    if text.is_empty() || KNOWN.contains(&text.to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    Err(format!(
        "unknown protocol {text:?}; known are HTTP, HTTPS, HTTP2, GRPC, TCP, TLS, MONGO, REDIS, MYSQL"
    ))
}

/// `exportTo`: namespaces, `*`, `.` and, for services, `~`.
pub(super) fn export_to(list: &[String], none_allowed: bool, problems: &mut Problems) {
    for (index, to) in list.iter().enumerate() {
        let field = || format!("spec.exportTo[{index}]");
        match to.as_str() {
            "*" | "." => {}
            "~" if none_allowed => {}
            "~" => problems.add(field(), "\"~\" is for services only"),
            name => {
                problems.check(field(), Namespace::new(name).map(drop).map_err(|error| error.to_string()))
            }
        }
        if list[..index].contains(to) {
            problems.add(field(), format!("{to:?} is there twice"));
        }
    }
    let narrowed = list.iter().any(|to| to == "*" || to == "~") && list.len() > 1;
    problems.require(!narrowed, "spec.exportTo", "\"*\" and \"~\" stand alone");
}

/// Labels: Kubernetes' syntax of keys and values.
pub(super) fn labels(field: &str, labels: &Labels, problems: &mut Problems) {
    let word = |text: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        text.len() <= 63
            && text.bytes().all(inner)
            && end(text.bytes().next())
            && end(text.bytes().next_back())
    };
    for (key, value) in labels.iter() {
        let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
        let good =
            word(name) && prefix.is_none_or(|prefix| Hostname::new(prefix.to_ascii_lowercase()).is_ok());
        problems.require(good, format!("{field}[{key}]"), format!("{key:?} is not a label key"));
        let good = value.is_empty() || word(value);
        problems.require(good, format!("{field}[{key}]"), format!("{value:?} is not a label value"));
    }
}

/// `HOST:PORT` of a peer's gateways.
pub(super) fn gateways(list: &[String], problems: &mut Problems) {
    for (index, text) in list.iter().enumerate() {
        let good = text.rsplit_once(':').is_some_and(|(host, number)| {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            number.parse::<u16>().is_ok_and(|number| number > 0)
                && (bare.parse::<IpAddr>().is_ok() || self::host(bare).is_ok())
        });
        problems.require(good, format!("spec.gateways[{index}]"), format!("{text:?} is not HOST:PORT"));
    }
}
