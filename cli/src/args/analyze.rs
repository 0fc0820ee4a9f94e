//! Flags of `isthmus analyze`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use isthmus_model::ClusterId;

use super::preview::{ClusterPath, cluster_name, cluster_path};
use crate::analyze::Level;

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus analyze                               # the cluster of the current context
  isthmus --all-contexts analyze                # every cluster, each with what the others have
  isthmus analyze mesh/                         # files alone, without a cluster
  isthmus analyze --live new-route.yaml         # files as if they were applied
  isthmus analyze east/ --own-cluster east --cluster west=west/ --mesh-networks networks.yaml
  isthmus analyze mesh/ -o json | jq '.[] | select(.level == \"Error\") | .reference'
  isthmus analyze --list                        # all that can be found

Codes IST… are Istio's and mean what they mean to `istioctl analyze`; ISM… are Isthmus' own. Without an installation of Isthmus it \
reads Istio's cluster as well.

Of files, references into namespaces that they hold nothing of are not judged but counted (ISM0003). Deployments and their like count \
as the workloads that they make. What is known to be meant is left out by --suppress, or by annotation \
galley.istio.io/analyze-suppress (codes, or `*`) of the object.

Exit codes: 0 nothing at or above --failure-threshold, 1 something, or it could not be read, 2 wrong usage";

#[derive(Debug, ClapArgs)]
pub(crate) struct AnalyzeArgs {
    /// Files, directories (their .yaml, .yml and .json files, at any depth), or `-` for standard input [default: none, and --live]
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// The same; may be repeated
    #[arg(short = 'f', long = "file", value_name = "PATH", num_args = 1..)]
    pub(crate) files: Vec<PathBuf>,
    /// Read the API server too; files count as if they were applied
    #[arg(long)]
    pub(crate) live: bool,
    /// Objects of another cluster that the mesh sees; may be repeated
    #[arg(long = "cluster", value_name = "NAME=PATH", value_parser = cluster_path)]
    pub(crate) clusters: Vec<ClusterPath>,
    /// Name of the files' own cluster
    #[arg(long, value_name = "NAME", value_parser = cluster_name, default_value = "Kubernetes")]
    pub(crate) own_cluster: ClusterId,
    /// Istio's MeshConfig, or the ConfigMap that holds it
    #[arg(long, value_name = "FILE")]
    pub(crate) mesh_config: Option<PathBuf>,
    /// Istio's MeshNetworks, or the ConfigMap that holds them
    #[arg(long, value_name = "FILE")]
    pub(crate) mesh_networks: Option<PathBuf>,
    /// Show what is about objects of this namespace alone; everything is read
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    // What an Istio user types; everything is shown anyhow.
    #[arg(short = 'A', long, hide = true, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    /// Leave out: a code, for objects whose `KIND NAMESPACE/NAME` fits (`*` stands for anything); may be repeated
    #[arg(short = 'S', long = "suppress", value_name = "CODE=OBJECT", value_parser = suppression)]
    pub(crate) suppress: Vec<Suppression>,
    /// The least level that is shown
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = Level::Info)]
    pub(crate) output_threshold: Level,
    /// The least level that makes the exit code 1
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = Level::Error)]
    pub(crate) failure_threshold: Level,
    /// List what can be found, with codes and levels, and end
    #[arg(short = 'L', long)]
    pub(crate) list: bool,
    /// Form of the output
    #[arg(short = 'o', long, value_enum, default_value_t = Form::Log)]
    pub(crate) output: Form,
}

/// Form of the findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Lines for people
    #[value(alias = "text")]
    Log,
    /// A list of objects with code, level, origin, reference, message, field and advice
    Json,
    /// The same in YAML
    Yaml,
}

/// What is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suppression {
    pub(crate) code: String,
    /// `KIND NAMESPACE/NAME`, with `*` for anything.
    pub(crate) object: String,
}

fn suppression(text: &str) -> Result<Suppression, String> {
    match text.split_once('=') {
        Some((code, object)) if !code.is_empty() && !object.is_empty() => {
            Ok(Suppression { code: code.trim().to_string(), object: object.trim().to_string() })
        }
        _ => Err(format!("{text:?} is not CODE=OBJECT, such as \"IST0173=DestinationRule shop/*\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suppression_needs_a_code_and_an_object() {
        assert!(suppression("IST0101=VirtualService a/*").is_ok());
        assert!(suppression("IST0101").is_err() && suppression("=x").is_err() && suppression("x=").is_err());
    }
}
