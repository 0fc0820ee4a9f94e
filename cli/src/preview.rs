//! `isthmus preview`: what a proxy would get, from files: the parts of a control plane between its sources and its streams.

pub(crate) mod cluster;
pub(crate) mod mesh;
mod proxy;
mod show;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use isthmus_envoy::Translator;
use isthmus_model::ClusterId;
use isthmus_resources::mesh::{MeshConfig, Networks};
use serde_json::Value;

use crate::args::{ClusterPath, Form, Format, PreviewArgs};
use crate::objects::Read;
use crate::{files, output};

use cluster::Source;

/// What is said to the reader, on standard error, and how much was refused.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    refused: usize,
    said: usize,
    silent: bool,
}

/// Remarks beyond this many are counted only.
const MOST: usize = 200;

impl Remarks {
    /// Nobody listens.
    pub(crate) fn silent() -> Self {
        Self { silent: true, ..Self::default() }
    }

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
        if self.said <= MOST && !self.silent {
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
    let (config, ignored) = mesh_config(args.mesh_config.as_deref())?;
    remark_ignored(args.mesh_config.as_deref(), &ignored, remarks);
    let (networks, ignored) = mesh_networks(args.mesh_networks.as_deref())?;
    remark_ignored(args.mesh_networks.as_deref(), &ignored, remarks);
    let mut own = read(args.files.iter(), remarks)?;
    let mut subject = proxy::Subject::find(args, &mut own.objects)?;
    let mut sources = vec![Source::own(args.proxy_cluster.clone(), own.objects(), &config, remarks)];
    for (cluster, paths) in by_name(&args.clusters, &args.proxy_cluster)? {
        let other = read(paths.into_iter().map(|path| &path.path), remarks)?;
        sources.push(Source::other(cluster, other.objects(), &config, remarks));
    }
    let settings = mesh::settings(&args.proxy_cluster);
    let snapshot = mesh::snapshot(sources, &config, networks);
    mesh::remark(&snapshot, remarks);
    let proxy = subject.proxy(args, &config)?;
    let view = Translator::new(settings).view(&snapshot, &proxy);
    show::select(&view, args.kind, args.name.as_deref())
}

/// One cluster's objects; what is to be said of them is said.
fn read<'a>(paths: impl Iterator<Item = &'a PathBuf>, remarks: &mut Remarks) -> anyhow::Result<Read> {
    let mut read = Read::default();
    for path in paths {
        read.add(path)?;
        for note in read.notes.drain(..) {
            match note.is_refusal() {
                true => remarks.refuse(&note.to_string()),
                false => remarks.warn(&note.to_string()),
            }
        }
        // Nobody asks for lines here.
        read.texts.clear();
    }
    read.left_out().iter().for_each(|said| remarks.warn(said));
    Ok(read)
}

/// Other clusters with all their paths.
pub(crate) fn by_name<'a>(
    clusters: &'a [ClusterPath],
    own: &ClusterId,
) -> anyhow::Result<Vec<(ClusterId, Vec<&'a ClusterPath>)>> {
    let mut found: Vec<(ClusterId, Vec<&ClusterPath>)> = Vec::new();
    for one in clusters {
        if one.cluster == *own {
            bail!("--cluster {own}=…: {own} is the files' own cluster, which another flag names; see --help");
        }
        match found.iter_mut().find(|(cluster, _)| *cluster == one.cluster) {
            Some((_, paths)) => paths.push(one),
            None => found.push((one.cluster.clone(), vec![one])),
        }
    }
    Ok(found)
}

/// MeshConfig, with what of it is not honoured.
pub(crate) fn mesh_config(file: Option<&Path>) -> anyhow::Result<(MeshConfig, Vec<String>)> {
    let Some(file) = file else { return Ok(Default::default()) };
    MeshConfig::read(&files::text(file)?).with_context(|| file.display().to_string())
}

/// MeshNetworks, with what of them is not honoured.
pub(crate) fn mesh_networks(file: Option<&Path>) -> anyhow::Result<(Networks, Vec<String>)> {
    let Some(file) = file else { return Ok(Default::default()) };
    Networks::read(&files::text(file)?).with_context(|| file.display().to_string())
}

fn remark_ignored(file: Option<&Path>, ignored: &[String], remarks: &mut Remarks) {
    if let (Some(file), false) = (file, ignored.is_empty()) {
        remarks.warn(&format!("{}: not honoured: {}", file.display(), ignored.join(", ")));
    }
}
