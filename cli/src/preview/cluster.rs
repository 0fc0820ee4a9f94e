//! One cluster's objects with what its controllers would have made of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use isthmus_model::{ClusterId, Labels};
use isthmus_proto::resource::fnv1a;
use isthmus_resources::convert::SERVICE_NAME_LABEL;
use isthmus_resources::derived::addresses::Addresses;
use isthmus_resources::derived::slices::{Action, Slices};
use isthmus_resources::kubernetes::ServiceType;
use isthmus_resources::mesh::MeshConfig;
use isthmus_resources::{Change, Kind, Object, parse};

use super::Remarks;

/// What a cluster's remote secret would give: no configuration.
const OF_OTHERS: [Kind; 5] = [Kind::Namespace, Kind::Node, Kind::Service, Kind::Pod, Kind::EndpointSlice];
/// The range of a control plane's own API for ClusterIPs.
const CLUSTER_IPS: (u32, u32) = (u32::from_be_bytes([10, 96, 0, 2]), u32::from_be_bytes([10, 96, 255, 254]));

/// A cluster.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) cluster: ClusterId,
    pub(crate) objects: Vec<Object>,
}

impl Source {
    /// The cluster of the proxy: its configuration is the mesh's.
    pub(crate) fn own(
        cluster: ClusterId,
        objects: Vec<Object>,
        config: &MeshConfig,
        remarks: &mut Remarks,
    ) -> Self {
        Self::of(cluster, objects, config, remarks)
    }

    /// Another cluster.
    pub(crate) fn other(
        cluster: ClusterId,
        objects: Vec<Object>,
        config: &MeshConfig,
        remarks: &mut Remarks,
    ) -> Self {
        let mut all = Self::of(cluster, objects, config, remarks);
        all.objects.retain(|object| OF_OTHERS.contains(&object.kind()));
        all
    }

    fn of(cluster: ClusterId, mut objects: Vec<Object>, config: &MeshConfig, remarks: &mut Remarks) -> Self {
        discover(&mut objects, config);
        give_cluster_ips(&cluster, &mut objects, remarks);
        give_addresses(&mut objects);
        let slices = missing_slices(&objects);
        objects.extend(slices);
        note_unknown_pods(&objects, remarks);
        Self { cluster, objects }
    }
}

/// Leaves namespaces out that the mesh does not discover, with all that is in them: nothing is to be said of them either.
fn discover(objects: &mut Vec<Object>, config: &MeshConfig) {
    if config.discovery_selectors.is_empty() {
        return;
    }
    let namespaces: BTreeMap<Arc<str>, Labels> = objects
        .iter()
        .filter(|object| object.kind() == Kind::Namespace)
        .map(|object| (Arc::clone(&object.meta().name), object.meta().labels.clone()))
        .collect();
    objects.retain(|object| match &object.meta().namespace {
        None => true,
        Some(namespace) => {
            let labels = namespaces.get(namespace.as_str()).cloned().unwrap_or_default();
            config.discovers(&labels)
        }
    });
}

/// Services without clusterIP get one that depends on their name alone, so that what is shown does not change with its neighbours.
fn give_cluster_ips(cluster: &ClusterId, objects: &mut [Object], remarks: &mut Remarks) {
    let mut taken: HashSet<IpAddr> = HashSet::new();
    for object in objects.iter() {
        if let Object::Service(service) = object {
            taken.extend(&service.spec.cluster_ips);
        }
    }
    let mut given = Vec::new();
    for object in objects.iter_mut() {
        let Object::Service(service) = object else { continue };
        let spec = &service.spec;
        if spec.headless || spec.kind == ServiceType::ExternalName || !spec.cluster_ips.is_empty() {
            continue;
        }
        let (first, last) = CLUSTER_IPS;
        let count = last - first + 1;
        let hash = fnv1a(service.meta.to_string().as_bytes());
        let start = u32::try_from(hash % u64::from(count)).unwrap_or(0);
        let all = (0..count).map(|step| IpAddr::V4(Ipv4Addr::from(first + (start + step) % count)));
        let mut free = all.filter(|address| !taken.contains(address));
        let Some(address) = free.next() else { continue };
        taken.insert(address);
        Arc::make_mut(service).spec.cluster_ips.push(address);
        given.push(format!("{} {address}", service.meta));
    }
    if !given.is_empty() {
        remarks.warn(&format!("Services of cluster {cluster} without clusterIP: {}", given.join(", ")));
    }
}

/// Addresses of ServiceEntries that have none, as the controller allocates them.
fn give_addresses(objects: &mut [Object]) {
    let mut planner = Addresses::default();
    let entries: Vec<Object> =
        objects.iter().filter(|object| object.kind() == Kind::ServiceEntry).cloned().collect();
    planner.apply(&Change::Listed(Kind::ServiceEntry, entries));
    let mut by_name: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (at, object) in objects.iter().enumerate() {
        if object.kind() == Kind::ServiceEntry {
            let meta = object.meta();
            by_name.insert((meta.namespace_str().to_string(), meta.name.to_string()), at);
        }
    }
    for key in planner.take_dirty() {
        let (Some(wanted), Some(at)) = (planner.plan(&key), by_name.get(&key)) else { continue };
        if let Object::ServiceEntry(entry) = &mut objects[*at] {
            Arc::make_mut(entry).spec.status.addresses = wanted;
            planner.written(Arc::clone(entry));
        }
    }
}

/// EndpointSlices of Services with a selector whose files have none.
fn missing_slices(objects: &[Object]) -> Vec<Object> {
    let mut sliced: BTreeSet<(&str, &str)> = BTreeSet::new();
    for object in objects {
        if let Object::EndpointSlice(slice) = object
            && let Some(service) = slice.meta.labels.get(SERVICE_NAME_LABEL)
        {
            sliced.insert((slice.meta.namespace_str(), service));
        }
    }
    let is_wanted = |object: &&Object| {
        let meta = object.meta();
        object.kind() == Kind::Service && !sliced.contains(&(meta.namespace_str(), &*meta.name))
    };
    let mut planner = Slices::default();
    // Pods first: each looks for the Services that it touches, and all of these are looked at anyway.
    let pods = objects.iter().filter(|object| object.kind() == Kind::Pod);
    for object in pods.chain(objects.iter().filter(is_wanted)) {
        planner.apply(Change::Applied(object.clone()));
    }
    let services = planner.take_dirty();
    let actions = services.iter().flat_map(|service| planner.plan(service));
    actions
        .filter_map(|action| match action {
            Action::Put(slice) => parse(slice).ok(),
            Action::Delete(_) => None,
        })
        .collect()
}

/// An endpoint whose Pod is not there is not served: neither its identity nor whether it speaks mutual TLS is known.
fn note_unknown_pods(objects: &[Object], remarks: &mut Remarks) {
    let pods: HashSet<(&str, &str)> = objects
        .iter()
        .filter(|object| object.kind() == Kind::Pod)
        .map(|object| (object.meta().namespace_str(), &*object.meta().name))
        .collect();
    for object in objects {
        let Object::EndpointSlice(slice) = object else { continue };
        for endpoint in &slice.spec.endpoints {
            if let Some((namespace, pod)) = &endpoint.pod
                && !pods.contains(&(&**namespace, &**pod))
            {
                let address = &endpoint.address;
                remarks.warn(&format!(
                    "EndpointSlice {}: endpoint {address} is left out: its Pod {namespace}/{pod} is not in the files",
                    slice.meta
                ));
            }
        }
    }
}
