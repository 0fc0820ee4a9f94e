//! Who is measured.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;

use super::hello::client_hello;
use super::origin::{BULK_PORT, ECHO_PORT, addresses};
use super::{BULK, ECHO, server_name};
use crate::proc;
use crate::xds::processes::Running;

/// Where a load goes in, and what a connection begins with: one TLS record, which the origin takes and answers with a byte.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where to connect.
    pub address: SocketAddr,
    /// The record.
    pub hello: Arc<[u8]>,
}

/// One way from client to origin. Its processes end when it is dropped.
pub struct Contender {
    /// Its column.
    pub name: &'static str,
    /// To the origin that sends without end.
    pub bulk: Entry,
    /// To the origin that answers.
    pub echo: Entry,
    /// Programs that are charged; none for the direct way.
    pub charged: Vec<Running>,
    /// Programs that must be there and are not charged: a control plane.
    pub beside: Vec<Running>,
}

impl Contender {
    /// No gateway at all.
    pub(super) fn direct() -> anyhow::Result<Self> {
        let entry = |host, port| -> anyhow::Result<Entry> {
            Ok(Entry {
                address: SocketAddr::new(addresses(0)[0].into(), port),
                hello: client_hello(&server_name(host))?,
            })
        };
        let (bulk, echo) = (entry(BULK, BULK_PORT)?, entry(ECHO, ECHO_PORT)?);
        Ok(Self { name: "direct", bulk, echo, charged: Vec::new(), beside: Vec::new() })
    }

    /// A gateway that tells both services by their server names on one port.
    pub(super) fn gateway(
        name: &'static str,
        port: u16,
        charged: Vec<Running>,
        beside: Vec<Running>,
    ) -> anyhow::Result<Self> {
        let entry = |host| -> anyhow::Result<Entry> {
            Ok(Entry {
                address: SocketAddr::from(([127, 0, 0, 1], port)),
                hello: client_hello(&server_name(host))?,
            })
        };
        Ok(Self { name, bulk: entry(BULK)?, echo: entry(ECHO)?, charged, beside })
    }

    /// CPU seconds of its processes since they started.
    ///
    /// # Errors
    /// When one is gone.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        self.pids()?.into_iter().map(proc::cpu_seconds).sum()
    }

    /// Resident bytes of its processes.
    ///
    /// # Errors
    /// When one is gone.
    pub fn resident(&self) -> anyhow::Result<u64> {
        self.pids()?.into_iter().map(|pid| Ok(proc::resident(pid)?.0)).sum()
    }

    fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let mut pids = Vec::new();
        for running in &self.charged {
            pids.push(running.pid());
            pids.extend(proc::children(running.pid()).with_context(|| format!("{} has ended", self.name))?);
        }
        Ok(pids)
    }
}
