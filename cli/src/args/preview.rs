//! Flags of `isthmus preview`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use isthmus_model::{ClusterId, Locality, NamespacedName, NetworkId};

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus preview -f mesh/ --proxy bookinfo/productpage-v1
  isthmus preview -f mesh/ --proxy bookinfo/productpage-v1 --type clusters \\
    --name 'outbound|9080||reviews.bookinfo.svc.cluster.local' -o yaml
  isthmus preview -f east/ --proxy-cluster east --cluster west=west/ --mesh-networks networks.yaml \\
    --proxy bookinfo/productpage-v1 --type endpoints
  isthmus preview -f mesh/ --proxy sidecar --labels app=new,version=v1 --ip 10.1.0.9 --meta NAMESPACE=shop
  isthmus preview -f mesh/ --proxy gateway --network east --type listeners
  kubectl get services,endpointslices,pods,namespaces,virtualservices,destinationrules -A -o yaml |
    isthmus preview -f - --proxy shop/cart-0 --type names

Files hold what the cluster holds: Namespaces, Nodes, Services, EndpointSlices, Pods, and Istio's kinds; other kinds are left out. \
What controllers would add is added: EndpointSlices of Services whose files have none, addresses of ServiceEntries and of Services \
without clusterIP. A Pod without conditions counts as ready; a machine's agent answers DNS (DNS_CAPTURE), a Pod's where its container's environment says \
so (ISTIO_META_DNS_CAPTURE). Of further clusters (--cluster) Namespaces, Nodes, Services, \
EndpointSlices and Pods are read, as with Istio's remote secrets; configuration is the proxy's own cluster's.

Resources are in Envoy's JSON with its definitions' field names: a list for one --type, else an object of lists. What is refused or \
not honoured is said on standard error.

Exit codes: 0 all was taken, 1 an object was refused (the others count) or there is no such proxy or resource, 2 wrong usage";

#[derive(Debug, ClapArgs)]
pub(crate) struct PreviewArgs {
    /// Objects of the proxy's own cluster: file, directory (its .yaml, .yml and .json files, at any depth), or `-` for standard
    /// input; may be repeated
    #[arg(short = 'f', long = "file", value_name = "PATH", required = true, num_args = 1..)]
    pub(crate) files: Vec<PathBuf>,
    /// Objects of another cluster that the mesh sees; may be repeated
    #[arg(long = "cluster", value_name = "NAME=PATH", value_parser = cluster_path)]
    pub(crate) clusters: Vec<ClusterPath>,
    /// Istio's MeshConfig, or the ConfigMap that holds it
    #[arg(long, value_name = "FILE")]
    pub(crate) mesh_config: Option<PathBuf>,
    /// Istio's MeshNetworks, or the ConfigMap that holds them
    #[arg(long, value_name = "FILE")]
    pub(crate) mesh_networks: Option<PathBuf>,
    /// Pod or WorkloadEntry of the files; or `sidecar` or `gateway` for a proxy that no object stands for (in namespace `default` or
    /// `istio-system`; --meta NAMESPACE=… for another)
    #[arg(long, value_name = "NAMESPACE/NAME|sidecar|gateway", value_parser = proxy)]
    pub(crate) proxy: Whose,
    /// Its addresses [default: its object's]
    #[arg(long = "ip", value_name = "IP", value_delimiter = ',', help_heading = "The proxy")]
    pub(crate) ips: Vec<IpAddr>,
    /// Its labels, over those of its object [default of a gateway: istio=eastwestgateway]
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = pair, help_heading = "The proxy")]
    pub(crate) labels: Vec<(String, String)>,
    /// Its service account [default: its object's, else `default`]
    #[arg(long, value_name = "NAME", help_heading = "The proxy")]
    pub(crate) service_account: Option<String>,
    /// Name of its cluster
    #[arg(long, value_name = "NAME", value_parser = cluster_name, default_value = "Kubernetes", help_heading = "The proxy")]
    pub(crate) proxy_cluster: ClusterId,
    /// Its network [default: its object's, else its cluster's]
    #[arg(long, value_name = "NAME", help_heading = "The proxy")]
    pub(crate) network: Option<NetworkId>,
    /// Where it runs [default: as its object says]
    #[arg(long, value_name = "REGION/ZONE/SUBZONE", value_parser = locality, help_heading = "The proxy")]
    pub(crate) locality: Option<Locality>,
    /// Node metadata, such as DNS_CAPTURE=true, REQUESTED_NETWORK_VIEW=east or GENERATOR=grpc; may be repeated
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = pair, help_heading = "The proxy")]
    pub(crate) metadata: Vec<(String, String)>,
    /// Which resources [default: all]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub(crate) kind: Option<Part>,
    /// Only the resource of this name
    #[arg(long, value_name = "RESOURCE")]
    pub(crate) name: Option<String>,
    /// Form of the output
    #[arg(short = 'o', long, value_enum, default_value_t = Form::Json)]
    pub(crate) output: Form,
}

/// Whose configuration is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whose {
    /// A Pod's or WorkloadEntry's.
    Object(NamespacedName),
    /// That of a sidecar of no object.
    Sidecar,
    /// That of a gateway of no object.
    Gateway,
}

/// Another cluster and where its objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterPath {
    pub(crate) cluster: ClusterId,
    pub(crate) path: PathBuf,
}

/// A part of what a proxy gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// What it listens on
    #[value(alias = "listener")]
    Listeners,
    /// Where it can send to
    #[value(alias = "cluster")]
    Clusters,
    /// Addresses behind its clusters
    #[value(alias = "endpoint")]
    Endpoints,
    /// HTTP routes
    #[value(alias = "route")]
    Routes,
    /// Certificates and roots that it would ask its agent for, by name
    #[value(alias = "secret")]
    Secrets,
    /// Names that its agent's DNS proxy answers
    #[value(alias = "name")]
    Names,
}

impl Part {
    /// Every part, in the order in which they are shown.
    pub(crate) const ALL: [Self; 6] =
        [Self::Clusters, Self::Endpoints, Self::Listeners, Self::Routes, Self::Secrets, Self::Names];

    /// Its name on the command line and in the output.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Listeners => "listeners",
            Self::Clusters => "clusters",
            Self::Endpoints => "endpoints",
            Self::Routes => "routes",
            Self::Secrets => "secrets",
            Self::Names => "names",
        }
    }
}

/// A form for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    Json,
    Yaml,
}

pub(super) fn cluster_name(text: &str) -> Result<ClusterId, String> {
    ClusterId::of_istio(text).map_err(|error| error.to_string())
}

pub(super) fn cluster_path(text: &str) -> Result<ClusterPath, String> {
    match text.split_once('=') {
        Some((name, path)) if !path.is_empty() => {
            Ok(ClusterPath { cluster: cluster_name(name)?, path: path.into() })
        }
        _ => Err(format!("{text:?} is not NAME=PATH, such as west=manifests/west")),
    }
}

fn proxy(text: &str) -> Result<Whose, String> {
    match text {
        "sidecar" => Ok(Whose::Sidecar),
        "gateway" => Ok(Whose::Gateway),
        name if name.contains('/') => name.parse().map(Whose::Object).map_err(|error| format!("{error}")),
        _ => Err(format!("{text:?} is none of NAMESPACE/NAME, sidecar and gateway")),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_string(), value.to_string())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

fn locality(text: &str) -> Result<Locality, String> {
    let parts: Vec<&str> = text.split('/').collect();
    if text.is_empty() || parts.len() > 3 || parts[0].is_empty() {
        return Err(format!("{text:?} is not REGION/ZONE/SUBZONE, such as eu/eu-1/a"));
    }
    Ok(Locality::parse(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_parse_or_say_what_is_right() {
        assert_eq!(proxy("sidecar"), Ok(Whose::Sidecar));
        assert!(matches!(proxy("a/b"), Ok(Whose::Object(name)) if name.to_string() == "a/b"));
        assert!(proxy("a").unwrap_err().contains("none of NAMESPACE/NAME"));
        assert!(
            cluster_path("west=w/").is_ok() && cluster_path("west").is_err() && cluster_path("=w").is_err()
        );
        assert!(pair("a=b=c").unwrap().1 == "b=c" && pair("=b").is_err());
        assert!(locality("r/z/s").is_ok() && locality("r").is_ok());
        assert!(locality("").is_err() && locality("/z").is_err() && locality("a/b/c/d").is_err());
    }
}
