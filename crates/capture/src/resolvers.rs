//! The resolvers that a host uses: what capture redirects and where the agent forwards to.

use std::net::IpAddr;
use std::path::Path;

/// What `/etc/resolv.conf` says (resolv.conf(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolvers {
    /// `nameserver` lines in order.
    pub servers: Vec<IpAddr>,
    /// Domains of the last `search` or `domain` line.
    pub search: Vec<String>,
}

impl Resolvers {
    /// Reads the text; lines that it does not understand are skipped, as the C library does.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A zone (`fe80::1%eth0`) is no part of the address.
                    let address: Option<IpAddr> =
                        words.next().and_then(|word| word.split('%').next()?.parse().ok());
                    found.servers.extend(address);
                }
                Some("search" | "domain") => {
                    found.search = words.map(|word| word.trim_end_matches('.').to_lowercase()).collect();
                }
                _ => {}
            }
        }
        found
    }

    /// Reads the file; one that is missing names no servers.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_the_last_search_line_are_read() {
        let text = "# made by hand\nnameserver 10.0.0.53 ; first\nnameserver fe80::1%eth0\nnameserver nonsense\n\
                    domain old.example\nsearch ns1.svc.cluster.local. Svc.Cluster.Local\noptions ndots:5\n";
        let found = Resolvers::parse(text);
        assert_eq!(
            found.servers,
            ["10.0.0.53".parse::<IpAddr>().unwrap(), "fe80::1".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(found.search, ["ns1.svc.cluster.local", "svc.cluster.local"]);
    }
}
