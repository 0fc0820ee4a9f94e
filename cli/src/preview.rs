//! `isthmus preview`: what a proxy would get, from files: the parts of a control plane between its sources and its streams.

mod cluster;
mod mesh;
mod objects;
mod proxy;
mod show;

use anyhow::{Context, bail};
use isthmus_envoy::Translator;
use isthmus_resources::mesh::{MeshConfig, Networks};
use serde_json::Value;

use crate::args::{ClusterPath, Form, Format, PreviewArgs};
use crate::{files, output};

use cluster::Source;
use objects::Read;

/// What is said to the reader, on standard error, and how much was refused.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    refused: usize,
    said: usize,
}

/// Remarks beyond this many are counted only.
const MOST: usize = 200;

impl Remarks {
    /// Something that does not count.
    fn refuse(&mut self, what: &str) {
        self.refused += 1;
        self.say("refused", what);
    }

    /// Something that counts less than it says, or otherwise.
    fn warn(&mut self, what: &str) {
        self.say("warning", what);
    }

    fn say(&mut self, severity: &str, what: &str) {
        self.said += 1;
        if self.said <= MOST {
            output::advise(&format!("{severity}: {what}"));
        }
    }

    /// The last word.
    pub(crate) fn end(&self) -> anyhow::Result<()> {
        if self.said > MOST {
            output::advise(&format!("… and {} more", self.said - MOST));
        }
        match self.refused {
            0 => Ok(()),
            1 => bail!("1 object was refused; the others count"),
            count => bail!("{count} objects were refused; the others count"),
        }
    }
}

/// Reads, translates, shows.
pub(crate) fn run(args: &PreviewArgs) -> anyhow::Result<()> {
    let mut remarks = Remarks::default();
    let shown = resources(args, &mut remarks)?;
    let form = match args.output {
        Form::Json => Format::Json,
        Form::Yaml => Format::Yaml,
    };
    output::structured(&shown, form)?;
    remarks.end()
}

/// What is asked for, as JSON.
pub(crate) fn resources(args: &PreviewArgs, remarks: &mut Remarks) -> anyhow::Result<Value> {
    let config = mesh_config(args, remarks)?;
    let networks = mesh_networks(args, remarks)?;
    let mut own = Read::default();
    for path in &args.files {
        own.add(path, remarks)?;
    }
    own.report(remarks);
    let mut subject = proxy::Subject::find(args, &mut own.objects)?;
    let mut sources = vec![Source::own(args.proxy_cluster.clone(), own, &config, remarks)];
    for (cluster, paths) in by_name(args)? {
        let mut other = Read::default();
        for path in paths {
            other.add(&path.path, remarks)?;
        }
        other.report(remarks);
        sources.push(Source::other(cluster, other, &config, remarks));
    }
    let settings = mesh::settings(&args.proxy_cluster);
    let snapshot = mesh::snapshot(sources, &config, networks);
    mesh::remark(&snapshot, remarks);
    let proxy = subject.proxy(args, &config)?;
    let view = Translator::new(settings).view(&snapshot, &proxy);
    show::select(&view, args.kind, args.name.as_deref())
}

/// Other clusters with all their paths.
fn by_name(args: &PreviewArgs) -> anyhow::Result<Vec<(isthmus_model::ClusterId, Vec<&ClusterPath>)>> {
    let mut found: Vec<(isthmus_model::ClusterId, Vec<&ClusterPath>)> = Vec::new();
    for one in &args.clusters {
        if one.cluster == args.proxy_cluster {
            bail!(
                "--cluster {0}=…: {0} is the proxy's own cluster, whose objects -f names; --proxy-cluster NAME names it",
                one.cluster
            );
        }
        match found.iter_mut().find(|(cluster, _)| *cluster == one.cluster) {
            Some((_, paths)) => paths.push(one),
            None => found.push((one.cluster.clone(), vec![one])),
        }
    }
    Ok(found)
}

fn mesh_config(args: &PreviewArgs, remarks: &mut Remarks) -> anyhow::Result<MeshConfig> {
    let Some(file) = &args.mesh_config else { return Ok(MeshConfig::default()) };
    let text = files::text(file)?;
    let (config, ignored) = MeshConfig::read(&text).with_context(|| file.display().to_string())?;
    if !ignored.is_empty() {
        remarks.warn(&format!("{}: not honoured: {}", file.display(), ignored.join(", ")));
    }
    Ok(config)
}

fn mesh_networks(args: &PreviewArgs, remarks: &mut Remarks) -> anyhow::Result<Networks> {
    let Some(file) = &args.mesh_networks else { return Ok(Networks::default()) };
    let text = files::text(file)?;
    let (networks, ignored) = Networks::read(&text).with_context(|| file.display().to_string())?;
    if !ignored.is_empty() {
        remarks.warn(&format!("{}: not honoured: {}", file.display(), ignored.join(", ")));
    }
    Ok(networks)
}
