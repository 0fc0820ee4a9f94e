//! What can be typed. The help of each command shows it in use.

mod analyze;
mod gw;
mod preview;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use isthmus_model::{ClusterId, NamespacedName, NetworkId, TrustDomain};

pub(crate) use analyze::{AnalyzeArgs, Form as AnalyzeForm, Suppression};
pub(crate) use gw::{By, GwCommand, Order, TopArgs};
pub(crate) use preview::{ClusterPath, Form, Part, PreviewArgs, Whose};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "isthmus",
    version,
    about = "Joins clusters and virtual machines into one mesh",
    long_about = "Joins clusters and virtual machines into one mesh.\n\n\
        isthmus makes the mesh's certificates, links clusters, writes the tokens with which machines join, and shows what \
        the mesh is doing. It speaks to API servers with a kubeconfig, as kubectl does: that of a Kubernetes cluster, or the \
        admin.kubeconfig that `isthmus-primary --standalone` writes into its data directory.",
    after_help = "\
A mesh of two clusters, from nothing:
  isthmus ca root --out root                   # on a machine that then goes offline
  isthmus ca intermediate --root root --cluster east --out east-ca
  isthmus ca intermediate --root root --cluster west --out west-ca
  isthmus --context east link create --to west             # prints a token …
  isthmus --context west link accept TOKEN                 # … for the other side
  isthmus --context west vm token --group shop/database    # for a machine to join
  isthmus --all-contexts status

Exit codes: 0 done, 1 failed, 2 wrong usage",
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Args {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which API server.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ServerArgs {
    /// Kubeconfig file [default: what $KUBECONFIG lists, else ~/.kube/config]
    #[arg(long, value_name = "FILE", global = true, help_heading = "API server")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context in it: which cluster [default: its current context]
    #[arg(long, value_name = "NAME", global = true, help_heading = "API server")]
    pub(crate) context: Option<String>,
    /// For status, analyze and link list: every context of the kubeconfig
    #[arg(long, global = true, conflicts_with = "context", help_heading = "API server")]
    pub(crate) all_contexts: bool,
    /// Longest wait for an answer
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "15s", global = true, help_heading = "API server")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the mesh's root certificate, and an intermediate for each cluster
    #[command(subcommand)]
    Ca(CaCommand),
    /// Bring virtual machines in
    #[command(subcommand)]
    Vm(VmCommand),
    /// Bring hosts of workloads in
    #[command(subcommand)]
    Host(HostCommand),
    /// Look into a gateway on this host
    #[command(subcommand)]
    Gw(GwCommand),
    /// Join two clusters
    #[command(subcommand)]
    Link(LinkCommand),
    /// Show a control plane's peers, gateways, proxies, machines and certificates
    #[command(after_help = "\
Examples:
  isthmus status
  isthmus --all-contexts status
  kubectl port-forward -n istio-system POD 15014 &         # beside Kubernetes
  isthmus status --control-plane http://127.0.0.1:15014
  isthmus --context east status -o json | jq '.peers[] | {cluster, state, ageMs}'")]
    Status(StatusArgs),
    /// Show what one proxy was given: listeners, clusters, endpoints, names
    #[command(
        name = "proxy-config",
        visible_alias = "pc",
        after_help = "\
Examples:
  isthmus proxy-config clusters productpage-v1.default
  isthmus proxy-config endpoints productpage-v1.default -o json   # Envoy's own JSON
  isthmus status                      # lists the proxies and their names"
    )]
    ProxyConfig(ProxyConfigArgs),
    /// Check files of objects before they are applied, without a cluster
    #[command(after_help = "\
Examples:
  isthmus validate -f mesh.yaml
  isthmus validate -f policies/ -f services/
  kubectl get virtualservices -A -o yaml | isthmus validate -f -")]
    Validate(ValidateArgs),
    /// Find what is wrong with a mesh's configuration: in a cluster, in files, or both
    #[command(after_help = analyze::EXAMPLES)]
    Analyze(Box<AnalyzeArgs>),
    /// Print the definitions of Istio's kinds and of Peer, for a Kubernetes cluster
    #[command(after_help = "\
Examples:
  isthmus crds | kubectl apply --server-side -f -
  isthmus crds | kubectl diff -f -

A control plane with --standalone has them already.")]
    Crds,
    /// Show the Envoy resources that a proxy would get from files, without a cluster
    #[command(after_help = preview::EXAMPLES)]
    Preview(Box<PreviewArgs>),
    /// Print the version
    Version(OutputArgs),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  isthmus completion bash > ~/.local/share/bash-completion/completions/isthmus
  source <(isthmus completion zsh)")]
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Make the root that all clusters of a mesh share; its key goes offline
    #[command(after_help = "\
Examples:
  isthmus ca root --out root
  isthmus ca root --out root --trust-domain shop.example --lifetime 7300d

Writes root-cert.pem and root-key.pem. No running program ever needs root-key.pem: keep the directory on a machine or a \
medium that is not on the network, and bring it out for `isthmus ca intermediate`.")]
    Root(CaRootArgs),
    /// Sign the certificate authority of one cluster
    #[command(after_help = "\
Examples:
  isthmus ca intermediate --root root --cluster east --out east-ca
  isthmus-primary --standalone --cluster east --cacerts east-ca …
  kubectl create secret generic cacerts -n istio-system --from-file=east-ca   # on Kubernetes

Writes ca-cert.pem, ca-key.pem, root-cert.pem and cert-chain.pem, as Istio lays them out. The intermediate may sign \
workloads of the trust domain, and control planes of its own cluster only: another cluster's name in a certificate of \
its is refused by every TLS library.")]
    Intermediate(CaIntermediateArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CaRootArgs {
    /// Directory to make
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Trust domain of the mesh's identities: spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub(crate) trust_domain: TrustDomain,
    /// How long it is valid
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "3650d")]
    pub(crate) lifetime: Duration,
    /// Replace a root that is there: everything that it signed becomes worthless
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CaIntermediateArgs {
    /// Directory of the root, made by `isthmus ca root`
    #[arg(long, value_name = "DIR")]
    pub(crate) root: PathBuf,
    /// Cluster that will sign with it
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: ClusterId,
    /// Directory to make
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// How long it is valid; never longer than the root
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "730d")]
    pub(crate) lifetime: Duration,
    /// Further DNS name (and all below it) that its control planes may have; may be repeated
    #[arg(long = "dns-name", value_name = "NAME", conflicts_with = "unconstrained")]
    pub(crate) dns_names: Vec<String>,
    /// Let it vouch for any DNS name
    #[arg(long)]
    pub(crate) unconstrained: bool,
    /// Replace one that is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Print a token with which one machine joins a WorkloadGroup, once, within an hour
    #[command(after_help = "\
Examples:
  isthmus vm token --group shop/database
  TOKEN=$(isthmus vm token --group shop/database)
  ssh machine isthmus-vm-agent join \"$TOKEN\"

The machine's WorkloadEntry is made from the WorkloadGroup when it joins. Its identity is the group's service account and \
renews itself from then on: no second token is needed.")]
    Token(VmTokenArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct VmTokenArgs {
    /// WorkloadGroup that the machine joins
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(crate) group: NamespacedName,
    /// How long it can be used
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub(crate) ttl: Duration,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Print a token with which a host runs workloads of these service accounts
    #[command(after_help = "\
Examples:
  isthmus host token --service-account shop/cart,shop/checkout --out host.token
  isthmus-sidecar run --token-file host.token --service-account shop/cart \\
    --labels app=cart --port http=8080 -- ./cart
  isthmus host token --service-account istio-system/istio-eastwestgateway --out gw.token

The token stays valid until it expires or its Secret is deleted:
  kubectl -n istio-system get secrets --field-selector type=isthmus.io/host")]
    Token(HostTokenArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct HostTokenArgs {
    /// Service accounts that workloads on the host may run as
    #[arg(long = "service-account", value_name = "NAMESPACE/NAME", value_delimiter = ',', required = true)]
    pub(crate) service_accounts: Vec<NamespacedName>,
    /// How long it can be used
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "90d")]
    pub(crate) ttl: Duration,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// Where the machine is.
#[derive(Debug, ClapArgs)]
pub(crate) struct MachineArgs {
    /// Network that the machine is in [default: the group's, else the cluster's]
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<NetworkId>,
    /// Control plane as the machine reaches it; may be repeated [default: its own addresses, or its gateways' when the
    /// machine is in another network]
    #[arg(long = "address", value_name = "HOST:PORT", value_parser = host_port)]
    pub(crate) addresses: Vec<String>,
    /// Write the token into this file, readable by its owner only [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LinkCommand {
    /// Offer a link to another cluster: prints a token for its administrator
    #[command(after_help = "\
Examples:
  isthmus --context east link create --to west
  isthmus --context west link accept \"$(isthmus --context east link create --to west)\"

Both clusters must have certificates under one root and the same mesh ID. The accepting side calls, through the offering \
side's east-west gateways; no API server credentials cross the border.")]
    Create(LinkCreateArgs),
    /// Accept a link that another cluster offered
    #[command(after_help = "\
Examples:
  isthmus --context west link accept isthmus-link.v1.eyJ…
  isthmus --context west link accept - < token      # keeps it out of the process list")]
    Accept(LinkAcceptArgs),
    /// List links and their state
    #[command(after_help = "\
Examples:
  isthmus link list
  isthmus --all-contexts link list -o json")]
    List(OutputArgs),
    /// Remove this side of a link
    #[command(after_help = "\
Examples:
  isthmus --context east link remove west
  isthmus --context west link remove east")]
    Remove {
        /// The other cluster
        cluster: ClusterId,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LinkCreateArgs {
    /// Cluster that may accept
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) to: ClusterId,
    /// Gateway as the other side reaches it; may be repeated [default: external IPs of this network's gateways]
    #[arg(long = "gateway", value_name = "HOST:PORT", value_parser = host_port)]
    pub(crate) gateways: Vec<String>,
    /// Replace an offer or link that is there: its token becomes worthless
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LinkAcceptArgs {
    /// What `isthmus link create` printed, or `-` to read it from standard input
    #[arg(value_name = "TOKEN")]
    pub(crate) token: String,
    /// Replace a link that is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) pages: PagesArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Where a control plane's own pages are.
#[derive(Debug, ClapArgs)]
pub(crate) struct PagesArgs {
    /// A control plane's monitoring port, instead of the API server: for one beside Kubernetes
    #[arg(long, value_name = "URL")]
    pub(crate) control_plane: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ProxyConfigArgs {
    /// What to show
    #[arg(value_enum)]
    pub(crate) what: ProxyPart,
    /// Proxy, as `isthmus status` names it
    #[arg(value_name = "NAME.NAMESPACE", value_parser = proxy_name)]
    pub(crate) proxy: ProxyName,
    #[command(flatten)]
    pub(crate) pages: PagesArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProxyPart {
    /// What it listens on
    #[value(alias = "listener")]
    Listeners,
    /// Where it can send to
    #[value(alias = "cluster")]
    Clusters,
    /// Addresses behind its clusters
    #[value(alias = "endpoint")]
    Endpoints,
    /// Names that its DNS proxy answers
    #[value(alias = "name")]
    Names,
    /// All of it
    All,
}

/// A proxy's name.
#[derive(Debug, Clone)]
pub(crate) struct ProxyName {
    pub(crate) name: String,
    pub(crate) namespace: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ValidateArgs {
    /// File, directory (its .yaml, .yml and .json files), or `-` for standard input; may be repeated
    #[arg(short = 'f', long = "file", value_name = "PATH", required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct OutputArgs {
    /// Form of the output
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
    Yaml,
}

/// `90d`, `12h`, `30m`, `15s`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration: write a number and d, h, m or s, such as 90d or 1h");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    // A century is beyond any lifetime, and far from overflow.
    match number.checked_mul(seconds).filter(|total| (1..=3_155_760_000).contains(total)) {
        Some(total) => Ok(Duration::from_secs(total)),
        None => Err(format!("{text:?} is outside 1s to 36525d")),
    }
}

fn host_port(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not HOST:PORT, such as 192.0.2.1:15012 or [2001:db8::1]:15012");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty()
        || bare_v6
        || host.contains(char::is_whitespace)
        || !port.parse().is_ok_and(|n: u16| n > 0)
    {
        return Err(wrong());
    }
    Ok(text.to_string())
}

fn proxy_name(text: &str) -> Result<ProxyName, String> {
    match text.rsplit_once('.') {
        Some((name, namespace)) if !name.is_empty() && !namespace.is_empty() && !text.contains('/') => {
            Ok(ProxyName { name: name.to_string(), namespace: namespace.to_string() })
        }
        _ => Err(format!("{text:?} is not NAME.NAMESPACE, such as reviews-v1.default")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_leaf_but_the_plainest_shows_examples() {
        Args::command().debug_assert();
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.has_subcommands() {
                command.get_subcommands().for_each(|sub| check(sub, &path));
            } else if command.get_name() != "version" {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Examples:"), "{path} has no examples");
            }
        }
        Args::command().get_subcommands().for_each(|sub| check(sub, "isthmus"));
    }

    #[test]
    fn durations_addresses_and_proxy_names_parse_or_say_what_is_right() {
        assert_eq!(duration("90d").unwrap(), Duration::from_secs(90 * 86_400));
        for bad in ["", "5", "1w", "0s", "-1h", "99999999999999999999d", "40000d", "ü"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(host_port("192.0.2.1:15012").is_ok() && host_port("[2001:db8::1]:1").is_ok());
        for bad in ["x", ":1", "a:0", "a:70000", "2001:db8::1:5", "a b:1"] {
            assert!(host_port(bad).unwrap_err().contains("is not HOST:PORT"), "{bad}");
        }
        let name = proxy_name("reviews.v1.default").unwrap();
        assert_eq!((name.name.as_str(), name.namespace.as_str()), ("reviews.v1", "default"));
        assert!(proxy_name("reviews").is_err() && proxy_name("default/reviews").is_err());
    }
}
