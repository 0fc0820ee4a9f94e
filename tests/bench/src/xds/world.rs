//! The objects of the measured cluster, and the names by which proxies ask for them.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Shape of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Services.
    pub services: u32,
    /// Pods behind each.
    pub endpoints: u32,
    /// Namespaces; proxies of different namespaces have different views.
    pub namespaces: u32,
    /// Whether Services have selectors: then our own API server makes the EndpointSlices itself, and the benchmark must not.
    pub selectors: bool,
}

/// One write: a path and an object.
pub struct Write {
    /// Collection that it is created in.
    pub path: String,
    /// The object.
    pub object: Value,
    /// Object path of a status to be written afterwards.
    pub status: Option<String>,
}

/// Name of a namespace.
#[must_use]
pub fn namespace(shape: Shape, service: u32) -> String {
    format!("ns-{}", service % shape.namespaces)
}

/// The cluster, and so the assignment, of a service.
#[must_use]
pub fn cluster(shape: Shape, service: u32) -> String {
    format!("outbound|80||svc-{service}.{}.svc.cluster.local", namespace(shape, service))
}

/// Which service an assignment is of.
#[must_use]
pub fn service_of(cluster: &[u8]) -> Option<usize> {
    let digits = cluster.strip_prefix(b"outbound|80||svc-")?;
    let end = digits.iter().position(|byte| *byte == b'.')?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// Namespaces, nodes and service accounts come first.
#[must_use]
pub fn foundations(shape: Shape) -> Vec<Write> {
    let namespaces = (0..shape.namespaces).map(|n| {
        create(
            "/api/v1/namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("ns-{n}")}}),
        )
    });
    let nodes = (0..10).map(|n| {
        let labels = json!({
            "kubernetes.io/hostname": format!("node-{n}"),
            "topology.kubernetes.io/region": "r",
            "topology.kubernetes.io/zone": "r-a",
        });
        let metadata = json!({"name": format!("node-{n}"), "labels": labels});
        create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}))
    });
    namespaces.chain(nodes).collect()
}

/// Everything of one service.
#[must_use]
pub fn service(shape: Shape, service: u32) -> Vec<Write> {
    let namespace = namespace(shape, service);
    let core = format!("/api/v1/namespaces/{namespace}");
    let mut spec = json!({"ports": [{"name": "tcp", "port": 80, "targetPort": 8080, "protocol": "TCP"}]});
    if shape.selectors {
        spec["selector"] = json!({"app": format!("svc-{service}")});
    }
    let name = format!("svc-{service}");
    let mut writes = vec![create(
        &format!("{core}/services"),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}),
    )];
    for endpoint in 0..shape.endpoints {
        writes.push(pod(shape, service, endpoint, &core, &namespace));
    }
    writes.push(create(
        &format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"),
        slice(shape, service, None),
    ));
    writes
}

/// Where a service's slice is.
#[must_use]
pub fn slice_path(shape: Shape, service: u32) -> String {
    let namespace = namespace(shape, service);
    format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/svc-{service}-bench")
}

/// The slice of a service. With a mark, its first endpoint is at the address that stands for it: the change that is measured.
#[must_use]
pub fn slice(shape: Shape, service: u32, mark: Option<u32>) -> Value {
    let namespace = namespace(shape, service);
    let endpoints = (0..shape.endpoints).map(|endpoint| {
        let address = match mark {
            Some(mark) if endpoint == 0 => marked(mark),
            _ => address(shape, service, endpoint),
        };
        json!({
            "addresses": [address.to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", endpoint % 10),
            "zone": "r-a",
            "targetRef": {"kind": "Pod", "name": pod_name(service, endpoint), "namespace": namespace},
        })
    });
    let labels = json!({
        "kubernetes.io/service-name": format!("svc-{service}"),
        "endpointslice.kubernetes.io/managed-by": "bench",
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": format!("svc-{service}-bench"), "namespace": namespace, "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "tcp", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

/// An address that carries a mark of 24 bits.
fn marked(mark: u32) -> Ipv4Addr {
    let [_, a, b, c] = mark.to_be_bytes();
    Ipv4Addr::new(11, a, b, c)
}

/// The mark in an encoded assignment: its address is a string field of number 2 in what Envoy calls a SocketAddress.
#[must_use]
pub fn mark_in(assignment: &[u8]) -> Option<u32> {
    let found =
        assignment.windows(5).position(|w| w[0] == 0x12 && (8..=15).contains(&w[1]) && w[2..] == *b"11.")?;
    let length = usize::from(assignment[found + 1]);
    let text = std::str::from_utf8(assignment.get(found + 2..found + 2 + length)?).ok()?;
    let address: Ipv4Addr = text.parse().ok()?;
    Some(u32::from(address) & 0x00ff_ffff)
}

/// Name of a pod.
#[must_use]
pub fn pod_name(service: u32, endpoint: u32) -> String {
    format!("svc-{service}-{endpoint}")
}

/// Address of a pod.
#[must_use]
pub fn address(shape: Shape, service: u32, endpoint: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + service * shape.endpoints + endpoint)
}

fn pod(shape: Shape, service: u32, endpoint: u32, core: &str, namespace: &str) -> Write {
    let name = pod_name(service, endpoint);
    let ip = address(shape, service, endpoint).to_string();
    let labels = json!({
        "app": format!("svc-{service}"),
        "security.istio.io/tlsMode": "istio",
        "service.istio.io/canonical-name": format!("svc-{service}"),
    });
    let container = json!({"name": "app", "image": "app", "ports": [{"containerPort": 8080}]});
    let condition = json!({"type": "Ready", "status": "True"});
    Write {
        path: format!("{core}/pods"),
        status: Some(format!("{core}/pods/{name}/status")),
        object: json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {
                "serviceAccountName": format!("svc-{service}"),
                "nodeName": format!("node-{}", endpoint % 10),
                "containers": [container],
            },
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition]},
        }),
    }
}

fn create(path: &str, object: Value) -> Write {
    Write { path: path.to_string(), object, status: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_where_an_address_is_and_nowhere_else() {
        let mut bytes = b"junk 10.11.3.4 \x12\x0810.0.0.1".to_vec();
        assert_eq!(mark_in(&bytes), None);
        let address = marked(0x01_02_03).to_string();
        bytes.push(0x12);
        bytes.push(u8::try_from(address.len()).unwrap());
        bytes.extend_from_slice(address.as_bytes());
        assert_eq!(mark_in(&bytes), Some(0x01_02_03));
    }

    #[test]
    fn an_assignment_says_which_service_it_is_of() {
        let shape = Shape { services: 20, endpoints: 1, namespaces: 3, selectors: true };
        assert_eq!(service_of(cluster(shape, 17).as_bytes()), Some(17));
        assert_eq!(service_of(b"outbound|443||kubernetes.default.svc.cluster.local"), None);
    }
}
