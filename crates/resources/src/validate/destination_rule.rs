//! DestinationRule.

use super::{Problems, names};
use crate::istio::{
    ClientTls, ClientTlsMode, ConnectionPool, DestinationRule, LoadBalancer, LocalityLb, OutlierDetection,
    TrafficPolicy,
};

pub(super) fn check(rule: &DestinationRule, problems: &mut Problems) {
    problems.check("spec.host", names::host(&rule.host));
    names::export_to(&rule.export_to, false, problems);
    if let Some(policy) = &rule.traffic_policy {
        check_policy("spec.trafficPolicy", policy, problems);
    }
    for (index, subset) in rule.subsets.iter().enumerate() {
        let at = format!("spec.subsets[{index}]");
        problems.check(format!("{at}.name"), names::port_name(&subset.name));
        let twice = rule.subsets[..index].iter().any(|other| other.name == subset.name);
        problems.require(!twice, format!("{at}.name"), format!("{:?} is there twice", subset.name));
        names::labels(&format!("{at}.labels"), &subset.labels, problems);
        if let Some(policy) = &subset.traffic_policy {
            check_policy(&format!("{at}.trafficPolicy"), policy, problems);
        }
    }
}

fn check_policy(at: &str, policy: &TrafficPolicy, problems: &mut Problems) {
    let (balancer, pool) = (policy.load_balancer.as_ref(), policy.connection_pool.as_ref());
    check_parts(at, balancer, pool, policy.outlier_detection.as_ref(), policy.tls.as_ref(), problems);
    for (index, port) in policy.port_level_settings.iter().enumerate() {
        let at = format!("{at}.portLevelSettings[{index}]");
        problems.check(format!("{at}.port.number"), names::port(port.port.number));
        let (balancer, pool) = (port.load_balancer.as_ref(), port.connection_pool.as_ref());
        check_parts(&at, balancer, pool, port.outlier_detection.as_ref(), port.tls.as_ref(), problems);
    }
}

fn check_parts(
    at: &str,
    balancer: Option<&LoadBalancer>,
    pool: Option<&ConnectionPool>,
    outlier: Option<&OutlierDetection>,
    tls: Option<&ClientTls>,
    problems: &mut Problems,
) {
    if let Some(balancer) = balancer {
        problems.require(
            balancer.simple.is_none() || balancer.consistent_hash.is_none(),
            format!("{at}.loadBalancer"),
            "has either simple or consistentHash",
        );
        if let Some(locality) = &balancer.locality_lb_setting {
            check_locality(&format!("{at}.loadBalancer.localityLbSetting"), locality, problems);
        }
    }
    if let Some(tcp) = pool.and_then(|pool| pool.tcp.as_ref()) {
        let at = format!("{at}.connectionPool.tcp");
        problems.require(
            tcp.max_connections.is_none_or(|number| number >= 0),
            format!("{at}.maxConnections"),
            "must not be negative",
        );
        let too_short = tcp.connect_timeout.is_some_and(|timeout| timeout.0.as_millis() == 0);
        problems.require(!too_short, format!("{at}.connectTimeout"), "must be at least 1ms");
    }
    if let Some(outlier) = outlier {
        let at = format!("{at}.outlierDetection");
        for (name, percent) in [
            ("maxEjectionPercent", outlier.max_ejection_percent),
            ("minHealthPercent", outlier.min_health_percent),
        ] {
            problems.require(
                (0..=100).contains(&percent),
                format!("{at}.{name}"),
                "must be between 0 and 100",
            );
        }
        for (name, time) in [("interval", outlier.interval), ("baseEjectionTime", outlier.base_ejection_time)]
        {
            let too_short = time.is_some_and(|time| time.0.as_millis() == 0);
            problems.require(!too_short, format!("{at}.{name}"), "must be at least 1ms");
        }
    }
    if let Some(tls) = tls {
        check_tls(&format!("{at}.tls"), tls, problems);
    }
}

fn check_tls(at: &str, tls: &ClientTls, problems: &mut Problems) {
    let files = [&tls.client_certificate, &tls.private_key, &tls.ca_certificates];
    match tls.mode {
        ClientTlsMode::Mutual if tls.credential_name.is_empty() => {
            let both = !tls.client_certificate.is_empty() && !tls.private_key.is_empty();
            problems.require(
                both,
                at,
                "mode MUTUAL needs clientCertificate and privateKey, or credentialName",
            );
        }
        ClientTlsMode::Mutual => {
            let none = files.iter().all(|file| file.is_empty());
            problems.require(none, at, "has either files or credentialName");
        }
        ClientTlsMode::IstioMutual => {
            let none = files.iter().all(|file| file.is_empty()) && tls.credential_name.is_empty();
            problems.require(none, at, "mode ISTIO_MUTUAL brings its own certificates");
        }
        ClientTlsMode::Disable | ClientTlsMode::Simple => {}
    }
}

fn check_locality(at: &str, locality: &LocalityLb, problems: &mut Problems) {
    let exclusive = locality.distribute.is_empty()
        || (locality.failover.is_empty() && locality.failover_priority.is_empty());
    problems.require(exclusive, at, "has either distribute, or failover and failoverPriority");
    for (index, distribute) in locality.distribute.iter().enumerate() {
        let at = format!("{at}.distribute[{index}]");
        let total: u64 = distribute.to.values().map(|percent| u64::from(*percent)).sum();
        problems.require(total == 100, format!("{at}.to"), format!("percentages sum to {total}, not to 100"));
        problems.require(!distribute.from.is_empty(), format!("{at}.from"), "must not be empty");
        for place in std::iter::once(&distribute.from).chain(distribute.to.keys()) {
            let parts = place.split('/').count();
            let star = place.find('*').is_some_and(|position| position + 1 != place.len());
            problems.require(
                parts <= 3 && !star,
                &at,
                format!("{place:?} is not REGION/ZONE/SUBZONE with '*' as its end at most"),
            );
        }
    }
    for (index, failover) in locality.failover.iter().enumerate() {
        let at = format!("{at}.failover[{index}]");
        problems.require(failover.from != failover.to, &at, "from and to must differ");
        for region in [&failover.from, &failover.to] {
            let plain = !region.is_empty() && !region.contains('/') && !region.contains('*');
            problems.require(plain, &at, format!("{region:?} is not a region"));
        }
    }
}
