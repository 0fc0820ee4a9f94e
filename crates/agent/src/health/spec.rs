//! Probes as people write them: `http:9080/health`, `tcp:3306`, `grpc:9090`, and the `probe` of a WorkloadGroup.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use super::Schedule;
use super::probe::{Exec, Grpc, Http, Probe, Target, Tcp};

/// Why a text is no probe.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidProbe {
    /// On the command line.
    #[error(
        "probe {0:?} is none of http:PORT[/PATH], https:PORT[/PATH], tcp:PORT, grpc:PORT[/SERVICE], exec:COMMAND"
    )]
    Form(String),
    /// A port that is none.
    #[error("probe {probe:?}: {port:?} is no port")]
    Port {
        /// The whole text.
        probe: String,
        /// What should be a number from 1 to 65535.
        port: String,
    },
    /// In a WorkloadGroup.
    #[error("the WorkloadGroup's probe {0}")]
    Group(String),
}

/// What is probed, with the workload's address to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// `GET`.
    Http {
        /// Port.
        port: u16,
        /// Over TLS.
        tls: bool,
        /// Path and query.
        path: String,
        /// Another address than the workload's.
        host: Option<IpAddr>,
        /// Headers, `Host` among them.
        headers: BTreeMap<String, String>,
    },
    /// Connection.
    Tcp {
        /// Port.
        port: u16,
        /// Another address than the workload's.
        host: Option<IpAddr>,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// Port.
        port: u16,
        /// Name of the service.
        service: String,
    },
    /// Command.
    Exec(Vec<String>),
}

impl std::str::FromStr for What {
    type Err = InvalidProbe;

    fn from_str(text: &str) -> Result<Self, InvalidProbe> {
        let (kind, rest) = text.split_once(':').ok_or_else(|| InvalidProbe::Form(text.to_string()))?;
        let number = |port: &str| {
            let wrong = || InvalidProbe::Port { probe: text.to_string(), port: port.to_string() };
            port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong)
        };
        match kind {
            "http" | "https" => {
                let (port, path) = match rest.split_once('/') {
                    Some((port, path)) => (port, format!("/{path}")),
                    None => (rest, "/".to_string()),
                };
                Ok(Self::Http {
                    port: number(port)?,
                    tls: kind == "https",
                    path,
                    host: None,
                    headers: BTreeMap::new(),
                })
            }
            "grpc" => {
                let (port, service) = rest.split_once('/').unwrap_or((rest, ""));
                Ok(Self::Grpc { port: number(port)?, service: service.to_string() })
            }
            "tcp" => Ok(Self::Tcp { port: number(rest)?, host: None }),
            "exec" if !rest.trim().is_empty() => {
                Ok(Self::Exec(rest.split_whitespace().map(str::to_string).collect()))
            }
            _ => Err(InvalidProbe::Form(text.to_string())),
        }
    }
}

impl What {
    /// The probe of a workload at this address.
    #[must_use]
    pub fn at(self, own: IpAddr, mark: Option<u32>) -> Arc<dyn Probe> {
        // Loopback and foreign addresses are reached as they are.
        let target = |host: Option<IpAddr>, port| Target {
            address: SocketAddr::new(host.unwrap_or(own), port),
            mark: mark.filter(|_| host.is_none_or(|host| host == own)),
        };
        match self {
            Self::Http { port, tls, path, host, mut headers } => {
                let key = headers.keys().find(|name| name.eq_ignore_ascii_case("host")).cloned();
                let named = key.and_then(|key| headers.remove(&key));
                let target = target(host, port);
                let host = named.unwrap_or_else(|| target.address.to_string());
                Arc::new(Http { target, tls, path, host, headers })
            }
            Self::Tcp { port, host } => Arc::new(Tcp { target: target(host, port) }),
            Self::Grpc { port, service } => Arc::new(Grpc { target: target(None, port), service }),
            Self::Exec(command) => Arc::new(Exec { command }),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ReadinessProbe {
    initial_delay_seconds: i64,
    timeout_seconds: i64,
    period_seconds: i64,
    success_threshold: i64,
    failure_threshold: i64,
    http_get: Option<HttpGet>,
    tcp_socket: Option<TcpSocketProbe>,
    exec: Option<ExecProbe>,
    grpc: Option<GrpcProbe>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HttpGet {
    path: String,
    port: u32,
    host: String,
    scheme: String,
    http_headers: Vec<Header>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Header {
    name: String,
    value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TcpSocketProbe {
    host: String,
    port: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GrpcProbe {
    port: u32,
    service: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ExecProbe {
    command: Vec<String>,
}

/// The probe in a WorkloadGroup's spec; none when it has none.
///
/// # Errors
/// When it is not understood, naming the field: a workload whose health nobody can tell must not seem healthy.
pub fn of_group(spec: &serde_json::Value) -> Result<Option<(Schedule, What)>, InvalidProbe> {
    let Some(probe) = spec.get("probe").filter(|probe| !probe.is_null()) else { return Ok(None) };
    let probe: ReadinessProbe =
        serde_json::from_value(probe.clone()).map_err(|error| InvalidProbe::Group(error.to_string()))?;
    let group = |problem: &str| InvalidProbe::Group(problem.to_string());
    let seconds = |value: i64, default: u64| match u64::try_from(value) {
        Ok(0) | Err(_) => Duration::from_secs(default),
        Ok(seconds) => Duration::from_secs(seconds),
    };
    let times = |value: i64| u32::try_from(value).ok().filter(|times| *times > 0).unwrap_or(1);
    let schedule = Schedule {
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10),
        timeout: seconds(probe.timeout_seconds, 1),
        successes: times(probe.success_threshold),
        failures: times(probe.failure_threshold),
    };
    let port = |number: u32, field: &str| {
        let wrong = || InvalidProbe::Group(format!("{field} is {number}, no port"));
        u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(wrong)
    };
    let host = |text: &str, field: &str| match text {
        "" => Ok(None),
        "localhost" => Ok(Some(IpAddr::from([127, 0, 0, 1]))),
        text => {
            text.parse().map(Some).map_err(|_| InvalidProbe::Group(format!("{field} {text:?} is no address")))
        }
    };
    let what = match (probe.http_get, probe.tcp_socket, probe.exec, probe.grpc) {
        (Some(http), None, None, None) => {
            let tls = match http.scheme.to_ascii_uppercase().as_str() {
                "" | "HTTP" => false,
                "HTTPS" => true,
                other => return Err(InvalidProbe::Group(format!("httpGet.scheme {other:?} is none"))),
            };
            What::Http {
                port: port(http.port, "httpGet.port")?,
                tls,
                path: if http.path.is_empty() { "/".to_string() } else { http.path },
                host: host(&http.host, "httpGet.host")?,
                headers: http.http_headers.into_iter().map(|header| (header.name, header.value)).collect(),
            }
        }
        (None, Some(tcp), None, None) => {
            What::Tcp { port: port(tcp.port, "tcpSocket.port")?, host: host(&tcp.host, "tcpSocket.host")? }
        }
        (None, None, Some(exec), None) if !exec.command.is_empty() => What::Exec(exec.command),
        (None, None, None, Some(grpc)) => {
            What::Grpc { port: port(grpc.port, "grpc.port")?, service: grpc.service }
        }
        _ => return Err(group("needs exactly one of httpGet, tcpSocket, exec, grpc")),
    };
    Ok(Some((schedule, what)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_probes_are_read() {
        assert_eq!(
            "http:9080/health".parse(),
            Ok(What::Http {
                port: 9080,
                tls: false,
                path: "/health".into(),
                host: None,
                headers: BTreeMap::new()
            })
        );
        assert_eq!("grpc:9090/a.B".parse(), Ok(What::Grpc { port: 9090, service: "a.B".into() }));
        assert!(matches!("https:443".parse(), Ok(What::Http { tls: true, .. })));
        assert_eq!("tcp:3306".parse(), Ok(What::Tcp { port: 3306, host: None }));
        assert_eq!("exec:pgrep mysqld".parse(), Ok(What::Exec(vec!["pgrep".into(), "mysqld".into()])));
        for bad in ["", "http", "http:", "http:x", "tcp:0", "tcp:70000", "exec: ", "udp:53"] {
            assert!(bad.parse::<What>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_groups_probe_has_istios_defaults() {
        let spec = serde_json::json!({"probe": {"tcpSocket": {"port": 3306}, "periodSeconds": 2}});
        let (schedule, what) = of_group(&spec).unwrap().unwrap();
        assert_eq!(schedule, Schedule { period: Duration::from_secs(2), ..Schedule::default() });
        assert_eq!(what, What::Tcp { port: 3306, host: None });
        assert_eq!(of_group(&serde_json::json!({})), Ok(None));
        let spec =
            serde_json::json!({"probe": {"httpGet": {"port": 80, "host": "localhost", "scheme": "HTTP"}}});
        let (_, what) = of_group(&spec).unwrap().unwrap();
        assert!(matches!(what, What::Http { port: 80, host: Some(_), .. }));
    }

    #[test]
    fn a_probe_that_is_not_understood_names_the_field() {
        for (probe, named) in [
            (serde_json::json!({"tcpSocket": {"port": 0}}), "tcpSocket.port"),
            (serde_json::json!({"grpc": {"port": 0}}), "grpc.port"),
            (serde_json::json!({"periodSeconds": 1}), "exactly one"),
            (serde_json::json!({"httpGet": {"port": 1, "scheme": "FTP"}}), "scheme"),
            (serde_json::json!({"httpGet": {"port": 1, "host": "a b"}}), "httpGet.host"),
            (serde_json::json!({"exec": {"command": "x"}}), "probe"),
        ] {
            let error = of_group(&serde_json::json!({"probe": probe})).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
