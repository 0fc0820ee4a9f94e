//! Two pods with a proxy beside each, as agents stand in a mesh: plain TCP is captured, mutual TLS is originated, crosses a network,
//! is terminated and goes on as plain TCP. Both proxies of a pair are charged.
//!
//! The client's pod is the run's own namespace; each pair has a namespace of its own for the server's pod, with a link between
//! the two. Both pairs are reached in the same way: netfilter redirects the client's connection to a service address, and what
//! arrives at the other pod. Ours are two isthmus-sidecar of a real isthmus-primary; the Envoys have the resources that a control
//! plane would send, as files, and the very keys and certificates of our sidecars (P-256, TLS 1.3 with AES-128-GCM).

mod envoys;
mod pod;
mod sidecars;

use std::net::{Ipv4Addr, SocketAddr};

use super::contender::{Contender, Entry};
use super::hello::client_hello;
use super::origin::{BULK_PORT, ECHO_PORT};
use super::suite::{Measure, Target};
use super::{Context, ECHO, server_name};
use crate::xds::processes::Running;
use pod::Pod;

/// The pairs. What they need beside their processes goes with them.
pub(super) struct Pairs {
    pub(super) contenders: Vec<Contender>,
    _pods: Vec<Pod>,
}

/// A pair's targets.
pub(super) fn target(measure: Measure) -> Target {
    Target::Ratio(match measure {
        Measure::Bulk => 0.6,
        Measure::Connections | Measure::RoundTrips => 0.7,
        Measure::Idle => 0.4,
    })
}

/// Starts ours, and the Envoys where they are wanted and here.
pub(super) async fn start(context: &Context) -> anyhow::Result<Pairs> {
    let folder = tempfile::tempdir_in(context.folder.path())?.keep();
    let congestion = &context.args.congestion_control;
    pod::set_congestion_control(congestion)?;
    let pod = Pod::start(1, congestion, &folder)?;
    let (ours, identities) = sidecars::start(context, &pod, &folder).await?;
    let mut pairs = Pairs { contenders: vec![ours], _pods: vec![pod] };
    if context.args.wants("envoy") {
        let pod = Pod::start(2, congestion, &folder)?;
        match envoys::start(&pod, &identities, &folder)? {
            Some(envoys) => pairs.contenders.insert(0, envoys),
            None => eprintln!("envoy is not here, its column stays empty"),
        }
        pairs._pods.push(pod);
    }
    if !context.args.wants("isthmus") {
        pairs.contenders.retain(|contender| contender.name != "isthmus");
    }
    Ok(pairs)
}

fn contender(
    name: &'static str,
    service: Ipv4Addr,
    charged: Vec<Running>,
    beside: Vec<Running>,
) -> anyhow::Result<Contender> {
    // The origin takes a record of TLS first. Here it is only bytes that are carried.
    let hello = client_hello(&server_name(ECHO))?;
    let entry = |port| Entry { address: SocketAddr::from((service, port)), hello: hello.clone() };
    Ok(Contender { name, bulk: entry(BULK_PORT), echo: entry(ECHO_PORT), charged, beside })
}
