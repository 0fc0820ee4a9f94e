//! Istio's kinds in their JSON form. Fields that are not listed are kept by the API server and ignored here; where that
//! matters to a user, the warnings say so.

mod common;
mod destination_rule;
mod gateway;
mod others;
mod security;
mod service_entry;
mod sidecar;
mod virtual_service;
mod workload;

pub use common::{Condition, Duration, PortSelector, WorkloadSelector};
pub use destination_rule::{
    ClientTls, ClientTlsMode, ConnectionPool, ConsistentHash, DestinationRule, Distribute, Failover,
    HttpPool, LoadBalancer, LocalityLb, Maglev, OutlierDetection, PortPolicy, ProxyProtocol, ProxyVersion,
    RingHash, SimpleLb, Subset, TcpKeepalive, TcpPool, TrafficPolicy, Warmup,
};
pub use gateway::{Gateway, GatewayPort, Server, ServerTls, ServerTlsMode};
pub use others::{EnvoyFilter, IstioOperator, ProxyConfig, Telemetry, WasmPlugin};
pub use security::{
    Action, AuthorizationPolicy, Condition as WhenCondition, From, JwtRule, LabelSelector, MutualTls,
    MutualTlsMode, Operation, PeerAuthentication, RequestAuthentication, Rule, Source, TargetRef, To,
};
pub use service_entry::{
    ServiceEntry, ServiceEntryAddress, ServiceEntryLocation, ServiceEntryPort, ServiceEntryResolution,
    ServiceEntryStatus,
};
pub use sidecar::{Egress, Ingress, OutboundMode, OutboundPolicy, Sidecar, SidecarPort};
pub use virtual_service::{
    Destination, HttpRoute, L4Match, RouteDestination, TcpRoute, TlsMatch, TlsRoute, VirtualService,
};
pub use workload::{
    GroupMetadata, HttpGet, HttpHeader, ProbeExec, ProbeGrpc, ProbeTcp, ReadinessProbe, WorkloadEntry,
    WorkloadGroup, WorkloadStatus,
};
