//! Flags of `isthmus-primary`, read once.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use isthmus_model::{ClusterId, NetworkId, TrustDomain};
use isthmus_process::telemetry::LogArgs;

/// The control plane of a cluster that owns its configuration.
///
/// It reads the API server of a Kubernetes cluster (--kubeconfig, or the ServiceAccount that is mounted into its Pod). With --standalone it
/// serves a Kubernetes-style API of its own, so that no Kubernetes is needed: kubectl and `isthmus` work against it.
/// It signs workload certificates with the cluster's intermediate CA, configures sidecars, VMs and gateways over xDS, and shares services
/// with the control planes that it is linked with.
#[derive(Debug, Clone, Parser)]
#[command(name = "isthmus-primary", version, about, long_about, after_long_help = EXAMPLES)]
pub struct Config {
    /// Serve the API here too, instead of reading a Kubernetes API server
    #[arg(long, conflicts_with_all = ["kubeconfig", "context"])]
    pub standalone: bool,
    /// Read the Kubernetes API server that this file names
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, where it is not the current one
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,
    /// Name of this cluster, unique in the mesh
    #[arg(long, value_name = "NAME")]
    pub cluster: ClusterId,
    /// Network that this cluster's workloads are on; empty is the default network
    #[arg(long, value_name = "NAME", default_value = "")]
    pub network: NetworkId,
    /// Folder for this program's own state
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Folder with this cluster's intermediate CA (ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem); see `isthmus ca intermediate`
    #[arg(long, value_name = "DIR")]
    pub cacerts: PathBuf,
    /// Address at which workloads and gateways reach this program
    #[arg(long, value_name = "IP", required = true, num_args = 1..)]
    pub advertise: Vec<IpAddr>,
    /// Where the API listens (HTTPS)
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = "0.0.0.0:6443",
        requires = "standalone",
        help_heading = "Standalone API"
    )]
    pub api_address: SocketAddr,
    /// Address that the written kubeconfig names, where it differs from the first --advertise with the API's port
    #[arg(long, value_name = "HOST:PORT", requires = "standalone", help_heading = "Standalone API")]
    pub api_public_address: Option<String>,
    /// Range for ClusterIPs
    #[arg(
        long,
        value_name = "CIDR",
        default_value = "10.96.0.0/16",
        requires = "standalone",
        help_heading = "Standalone API"
    )]
    pub service_cidr: String,
    /// Keep objects in etcd instead of the data folder, so that several replicas share them
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        requires = "standalone",
        help_heading = "Standalone API"
    )]
    pub etcd_endpoints: Vec<String>,
    /// Where xDS, certificates, joining and federation listen (gRPC over TLS)
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:15012")]
    pub grpc_address: SocketAddr,
    /// Where metrics and readiness listen
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15014")]
    pub monitoring_address: SocketAddr,
    /// Istio's MeshConfig, in place of key `mesh` of ConfigMap istio-system/istio; read again when it changes
    #[arg(long, value_name = "FILE", help_heading = "The mesh")]
    pub mesh_config: Option<PathBuf>,
    /// Istio's MeshNetworks, in place of key `meshNetworks` of that ConfigMap; read again when they change
    #[arg(long, value_name = "FILE", help_heading = "The mesh")]
    pub mesh_networks: Option<PathBuf>,
    /// Mesh that this cluster belongs to [default: as MeshConfig says, else mesh1]
    #[arg(long, value_name = "ID", help_heading = "The mesh")]
    pub mesh_id: Option<String>,
    /// Trust domain of the identities that it issues [default: as MeshConfig says, else cluster.local]
    #[arg(long, value_name = "DOMAIN", help_heading = "The mesh")]
    pub trust_domain: Option<TrustDomain>,
    /// Revision of this control plane; of another than `default` the mesh's ConfigMap is istio-NAME
    #[arg(long, value_name = "NAME", default_value = "default", help_heading = "The mesh")]
    pub revision: ClusterId,
    /// Validity of workload certificates
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub leaf_ttl: Duration,
    /// How long a workload's Pod or WorkloadEntry stays after its stream is gone
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub registration_grace: Duration,
    /// Logging
    #[command(flatten)]
    pub log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  isthmus ca root --out root && isthmus ca intermediate --root root --cluster east --out east
  isthmus-primary --standalone --cluster east --network east --data-dir /var/lib/isthmus \\
      --cacerts east --advertise 10.1.0.2
  isthmus-primary --kubeconfig ~/.kube/config --context east --cluster east --network east \\
      --data-dir /var/lib/isthmus --cacerts east --advertise 10.1.0.2
  kubectl --kubeconfig /var/lib/isthmus/admin.kubeconfig get serviceentries,workloadentries,pods -A

MeshConfig and MeshNetworks are read as istiod reads them, and take effect as they change. One that is bad is refused by field, and what was \
good before stays in force; `isthmus status` says so. deploy/mesh-config.md lists the fields that are in force.";

/// `250ms`, `10s`, `5m`, `24h`, `90d`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let wrong = || format!("{text:?} is not a duration; write it like 250ms, 10s, 5m, 24h or 90d");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs).ok_or_else(wrong);
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86_400),
        _ => Err(wrong()),
    }
}

impl Config {
    /// The mesh.
    #[must_use]
    pub fn mesh_id(&self) -> &str {
        self.mesh_id.as_deref().unwrap_or("mesh1")
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        let default = || TrustDomain::new("cluster.local").expect("a constant that is a trust domain");
        self.trust_domain.clone().unwrap_or_else(default)
    }

    /// `REVISION.CLUSTER.federation.isthmus.internal`: what this control plane is called on the wire.
    #[must_use]
    pub fn server_name(&self) -> String {
        server_name(self.revision.as_str(), &self.cluster)
    }

    /// Names that its serving certificate carries beside the server name.
    #[must_use]
    pub fn istio_names(&self) -> [&'static str; 3] {
        ["istiod.istio-system.svc", "istiod.istio-system.svc.cluster.local", "localhost"]
    }

    /// `ADVERTISED:PORT` of the gRPC listener, one for each advertised address.
    #[must_use]
    pub fn control_plane_addresses(&self) -> Vec<SocketAddr> {
        self.advertise.iter().map(|ip| SocketAddr::new(*ip, self.grpc_address.port())).collect()
    }

    /// The server that the written kubeconfig names.
    #[must_use]
    pub fn kubeconfig_server(&self) -> String {
        match (&self.api_public_address, self.advertise.first()) {
            (Some(public), _) => public.clone(),
            (None, Some(ip)) => SocketAddr::new(*ip, self.api_address.port()).to_string(),
            (None, None) => self.api_address.to_string(),
        }
    }
}

/// A control plane's name on the wire.
#[must_use]
pub fn server_name(revision: &str, cluster: &ClusterId) -> String {
    format!("{revision}.{cluster}.federation.isthmus.internal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit_and_refused_without() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("90d"), Ok(Duration::from_secs(90 * 86_400)));
        for bad in ["", "10", "h", "10 s", "99999999999999999999s", "99999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_cluster_name_is_refused_by_name() {
        let error = Config::try_parse_from([
            "p",
            "--standalone",
            "--cluster",
            "East",
            "--data-dir",
            "d",
            "--cacerts",
            "c",
            "--advertise",
            "10.1.0.2",
        ])
        .unwrap_err()
        .to_string();
        assert!(error.contains(r#"cluster name "East""#), "{error}");
    }
}
