//! The API's own form of these kinds, as far as it is read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use isthmus_model::shared::{Pool, shared};
use isthmus_model::{Protocol, TargetPort};
use serde::Deserialize;
use serde_json::Value;

use super::{
    ConfigMap, ContainerPort, EndpointSlice, Node, Phase, Pod, PodDns, RareEndpoint, Secret, Service,
    ServicePort, ServiceType, SliceEndpoint, decode,
};
use crate::parse::{FieldError, read, take};

/// Of a Deployment's Pods all declare the same.
static PORTS: LazyLock<Pool<[ContainerPort]>> = LazyLock::new(Pool::default);

#[derive(Deserialize)]
#[serde(untagged)]
enum IntOrText {
    Int(u16),
    Text(Arc<str>),
}

/// What stands between braces in the API is often left out whole.
fn member<T: serde::de::DeserializeOwned>(value: &mut Value, name: &str) -> Result<T, FieldError> {
    read(name, take(value, name))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireServiceSpec {
    r#type: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    ports: Vec<WireServicePort>,
    selector: BTreeMap<Arc<str>, Arc<str>>,
    #[serde(rename = "externalIPs")]
    external_ips: Vec<IpAddr>,
    external_name: Option<Arc<str>>,
    publish_not_ready_addresses: bool,
    internal_traffic_policy: String,
    traffic_distribution: Option<Arc<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireServicePort {
    #[serde(default)]
    name: Arc<str>,
    #[serde(default)]
    protocol: String,
    app_protocol: Option<String>,
    port: u16,
    target_port: Option<IntOrText>,
    node_port: Option<u16>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireServiceStatus {
    load_balancer: WireLoadBalancer,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireLoadBalancer {
    ingress: Vec<WireIngress>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireIngress {
    ip: Option<Arc<str>>,
    hostname: Option<Arc<str>>,
}

pub(crate) fn service(mut value: Value) -> Result<Service, FieldError> {
    let spec: WireServiceSpec = member(&mut value, "spec")?;
    let status: WireServiceStatus = member(&mut value, "status").unwrap_or_default();
    let kind = match spec.r#type.as_str() {
        "" | "ClusterIP" => ServiceType::ClusterIp,
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "ExternalName" => ServiceType::ExternalName,
        other => return Err(FieldError::new("spec.type", format!("unknown Service type {other:?}"))),
    };
    let headless = spec.cluster_ip == "None";
    let mut texts = spec.cluster_ips;
    if texts.is_empty() && !spec.cluster_ip.is_empty() {
        texts.push(spec.cluster_ip);
    }
    let mut cluster_ips = Vec::new();
    for text in texts.iter().filter(|text| *text != "None" && !text.is_empty()) {
        let ip = text
            .parse()
            .map_err(|_| FieldError::new("spec.clusterIPs", format!("{text:?} is not an IP address")))?;
        cluster_ips.push(ip);
    }
    let ports = spec
        .ports
        .into_iter()
        .map(|port| {
            let app = port.app_protocol.as_deref();
            let udp = port.protocol == "UDP" || port.protocol == "SCTP";
            let target = match port.target_port {
                None | Some(IntOrText::Int(0)) => TargetPort::Number(port.port),
                Some(IntOrText::Int(number)) => TargetPort::Number(number),
                Some(IntOrText::Text(name)) => TargetPort::Name(name),
            };
            ServicePort {
                protocol: Protocol::declared(app, &port.name, port.port, udp),
                name: port.name,
                number: port.port,
                target,
                node_port: port.node_port.filter(|number| *number != 0),
            }
        })
        .collect();
    let ingress = status.load_balancer.ingress.into_iter();
    Ok(Service {
        kind,
        cluster_ips,
        headless,
        ports,
        selector: spec.selector.into_iter().collect(),
        external_ips: spec.external_ips,
        load_balancer: ingress.filter_map(|entry| entry.ip.or(entry.hostname)).collect(),
        external_name: spec.external_name,
        publish_not_ready: spec.publish_not_ready_addresses,
        internal_local: spec.internal_traffic_policy == "Local",
        traffic_distribution: spec.traffic_distribution,
    })
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WirePodSpec {
    service_account_name: Arc<str>,
    node_name: Arc<str>,
    hostname: Option<Arc<str>>,
    subdomain: Option<Arc<str>>,
    host_network: bool,
    containers: Vec<WireContainer>,
    init_containers: Vec<WireContainer>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireContainer {
    restart_policy: String,
    ports: Vec<WireContainerPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireContainerPort {
    #[serde(default)]
    name: Arc<str>,
    container_port: u16,
    #[serde(default)]
    protocol: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WirePodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<WirePodIp>,
    conditions: Vec<WireCondition>,
}

#[derive(Deserialize)]
struct WirePodIp {
    ip: IpAddr,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireCondition {
    r#type: String,
    status: String,
}

pub(crate) fn pod(mut value: Value) -> Result<Pod, FieldError> {
    let spec: WirePodSpec = member(&mut value, "spec")?;
    let status: WirePodStatus = member(&mut value, "status")?;
    let mut ips: Vec<IpAddr> = status.pod_ips.into_iter().map(|entry| entry.ip).collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip);
    }
    let restartable = spec.init_containers.into_iter().filter(|init| init.restart_policy == "Always");
    let ports: Vec<ContainerPort> = spec
        .containers
        .into_iter()
        .chain(restartable)
        .flat_map(|container| container.ports)
        .map(|port| ContainerPort {
            name: shared(port.name),
            number: port.container_port,
            tcp: port.protocol.is_empty() || port.protocol == "TCP",
        })
        .collect();
    let account = if spec.service_account_name.is_empty() {
        shared("default")
    } else {
        shared(spec.service_account_name)
    };
    let dns = PodDns { hostname: spec.hostname, subdomain: spec.subdomain };
    Ok(Pod {
        ips: ips.into(),
        service_account: account,
        node: shared(spec.node_name),
        ports: PORTS.one(ports),
        phase: match status.phase.as_str() {
            "" | "Pending" => Phase::Pending,
            "Running" => Phase::Running,
            "Succeeded" => Phase::Succeeded,
            "Failed" => Phase::Failed,
            _ => Phase::Unknown,
        },
        ready: status.conditions.iter().any(|entry| entry.r#type == "Ready" && entry.status == "True"),
        dns: (dns != PodDns::default()).then(|| Arc::new(dns)),
        host_network: spec.host_network,
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireNodeStatus {
    addresses: Vec<WireNodeAddress>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireNodeAddress {
    r#type: Arc<str>,
    address: Arc<str>,
}

pub(crate) fn node(mut value: Value) -> Result<Node, FieldError> {
    let status: WireNodeStatus = member(&mut value, "status")?;
    let addresses = status.addresses.into_iter().map(|entry| (entry.r#type, entry.address)).collect();
    Ok(Node { addresses })
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireSlice {
    address_type: String,
    ports: Vec<WireSlicePort>,
    endpoints: Vec<WireSliceEndpoint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireSlicePort {
    name: Arc<str>,
    port: Option<u16>,
    protocol: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireSliceEndpoint {
    addresses: Vec<Arc<str>>,
    conditions: WireConditions,
    target_ref: Option<WireTargetRef>,
    node_name: Option<Arc<str>>,
    zone: Option<Arc<str>>,
    hostname: Option<Arc<str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireTargetRef {
    kind: String,
    namespace: Arc<str>,
    name: Arc<str>,
}

pub(crate) fn endpoint_slice(value: Value) -> Result<EndpointSlice, FieldError> {
    let slice: WireSlice = read("", value)?;
    let tcp = |port: &WireSlicePort| port.protocol.is_empty() || port.protocol == "TCP";
    Ok(EndpointSlice {
        fqdn: slice.address_type == "FQDN",
        ports: slice
            .ports
            .into_iter()
            .filter(tcp)
            .filter_map(|port| Some((shared(port.name), port.port?)))
            .collect(),
        endpoints: slice
            .endpoints
            .into_iter()
            .filter_map(|endpoint| {
                let ready = endpoint.conditions.ready.unwrap_or(true);
                let pod = endpoint.target_ref.filter(|target| target.kind == "Pod");
                let rare = RareEndpoint {
                    zone: endpoint.zone.filter(|_| pod.is_none()).map(shared),
                    hostname: endpoint.hostname,
                };
                Some(SliceEndpoint {
                    address: endpoint.addresses.into_iter().next()?,
                    ready,
                    serving: endpoint.conditions.serving.unwrap_or(ready),
                    terminating: endpoint.conditions.terminating.unwrap_or(false),
                    pod: pod.map(|target| (shared(target.namespace), shared(target.name))),
                    node: endpoint.node_name.map(shared),
                    rare: (rare != RareEndpoint::default()).then(|| Box::new(rare)),
                })
            })
            .collect(),
    })
}

pub(crate) fn config_map(mut value: Value) -> Result<ConfigMap, FieldError> {
    Ok(ConfigMap { data: member(&mut value, "data")? })
}

pub(crate) fn secret(mut value: Value) -> Result<Secret, FieldError> {
    let texts: BTreeMap<String, String> = member(&mut value, "data")?;
    let mut data = BTreeMap::new();
    for (key, text) in texts {
        let bytes = decode(&text).map_err(|problem| FieldError::new(format!("data.{key}"), problem))?;
        data.insert(key, bytes);
    }
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("Opaque").to_string();
    Ok(Secret { kind, data })
}
