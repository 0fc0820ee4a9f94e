//! `isthmus analyze`: what is wrong with a mesh's configuration, of files, of API servers, or of files as if they were applied.
//!
//! Objects are read, validated and put together by the code of `isthmus preview` and of the control plane; what is added here looks at
//! the references between them.

mod checks;
mod code;
mod live;
mod report;
mod show;
mod world;

use std::collections::BTreeSet;

use anyhow::bail;
use isthmus_model::ClusterId;
use isthmus_resources::mesh::{MeshConfig, Networks};
use serde_json::Value;

use crate::args::{AnalyzeArgs, ServerArgs};
use crate::objects::{Item, Read};
use crate::preview::{self, cluster::Source};

pub(crate) use code::Level;
use report::{Finding, Report};
use world::World;

/// Reads, looks, shows.
pub(crate) async fn run(server: &ServerArgs, args: &AnalyzeArgs) -> anyhow::Result<()> {
    if args.list {
        return show::codes(args.output);
    }
    let mut paths: Vec<_> = args.paths.iter().chain(&args.files).collect();
    let mut seen = BTreeSet::new();
    paths.retain(|path| seen.insert(*path));
    let live = args.live || paths.is_empty();
    let mut files = Read::default();
    for path in &paths {
        files.add(path)?;
    }
    let mut clusters = match live {
        true => live::read(server).await?,
        false => vec![live::Cluster {
            name: args.own_cluster.clone(),
            read: Read::default(),
            peers: Vec::new(),
            live: false,
        }],
    };
    if clusters.len() > 1 && !paths.is_empty() {
        bail!(
            "--all-contexts are several clusters, and files belong to one; give one of them with --context NAME"
        );
    }
    let own = clusters.len();
    for (cluster, paths) in preview::by_name(&args.clusters, &args.own_cluster)? {
        let mut read = Read::default();
        for path in paths {
            read.add(&path.path)?;
        }
        clusters.push(live::Cluster { name: cluster, read, peers: Vec::new(), live: false });
    }
    let config = preview::mesh_config(args.mesh_config.as_deref())?;
    let networks = preview::mesh_networks(args.mesh_networks.as_deref())?;
    if !live && files.objects.is_empty() && files.notes.is_empty() && files.others.is_empty() {
        bail!(
            "no objects in {}",
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        );
    }
    // Files count as if they were applied; an object of both is no object in two places.
    let mut all = Vec::new();
    let mut objects = 0;
    for at in 0..own {
        let mut read = std::mem::take(&mut clusters[at].read);
        if at == 0 {
            read.objects.extend(files.objects.clone());
            read.notes.extend(files.notes.clone());
            read.others.extend(files.others.clone());
            read.texts = std::mem::take(&mut files.texts);
        }
        clusters[at].read = read;
        objects += clusters[at].read.objects.len();
        let found = look(&clusters, at, &config.0, &networks.0);
        all.push((clusters[at].name.clone(), found));
    }
    for (file, ignored) in [(&args.mesh_config, config.1), (&args.mesh_networks, networks.1)] {
        if let (Some(file), false) = (file, ignored.is_empty()) {
            crate::output::advise(&format!(
                "warning: {}: not honoured: {}",
                file.display(),
                ignored.join(", ")
            ));
        }
    }
    show::findings(args, all, own > 1, objects)
}

/// Everything about one cluster, with what the others have.
fn look(clusters: &[live::Cluster], at: usize, config: &MeshConfig, networks: &Networks) -> Vec<Finding> {
    let own = &clusters[at];
    let others = || clusters.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, other)| other);
    let mut remarks = preview::Remarks::silent();
    let mut sources = vec![Source::own(own.name.clone(), own.read.objects(), config, &mut remarks)];
    for other in others() {
        sources.push(Source::other(other.name.clone(), other.read.objects(), config, &mut remarks));
    }
    let snapshot = preview::mesh::snapshot(sources, config, networks.clone());
    let items = visible(&own.read, config);
    let of_others =
        others().map(|other| (other.name.clone(), other.read.objects.values().cloned().collect()));
    let of_others: Vec<(ClusterId, Vec<Item>)> = of_others.collect();
    let templates: Vec<Value> =
        own.read.others.iter().chain(others().flat_map(|other| &other.read.others)).cloned().collect();
    let mut world = World::new(snapshot, own.name.clone(), items, &templates, of_others, networks.clone());
    world.live = own.live;
    let read = |peer: &&String| !others().any(|other| other.name.as_str() == peer.as_str());
    world.peers = own.peers.iter().filter(read).cloned().collect();
    let mut report = Report::default();
    report.notes(&own.read.notes);
    checks::all(&world, &mut report);
    report.finish(&[&own.read])
}

/// Objects as the mesh's defaults make them.
fn visible(read: &Read, config: &MeshConfig) -> Vec<Item> {
    let mut items: Vec<Item> = read.objects.values().cloned().collect();
    items.iter_mut().for_each(|item| config.make_visible(&mut item.object));
    items
}
