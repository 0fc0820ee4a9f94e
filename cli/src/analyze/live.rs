//! Objects of API servers.

use isthmus_kube::api::ObjectType;
use isthmus_kube::mesh::SYSTEM_NAMESPACE;
use isthmus_model::ClusterId;
use isthmus_resources::{Kind, Object};

use crate::api::Api;
use crate::args::ServerArgs;
use crate::objects::{Place, Read};
use crate::output;

/// What no analysis looks at.
const LEFT_OUT: [Kind; 3] = [Kind::Secret, Kind::ConfigMap, Kind::IstioOperator];

/// One cluster's objects.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) name: ClusterId,
    pub(super) read: Read,
    /// Clusters that it imports services from.
    pub(super) peers: Vec<String>,
    /// Whether an API server gave them: then there are no others.
    pub(super) live: bool,
}

/// Reads the clusters that the command line names.
pub(super) async fn read(server: &ServerArgs) -> anyhow::Result<Vec<Cluster>> {
    let mut clusters = Vec::new();
    for api in Api::connect_all(server).await? {
        clusters.push(of(&api).await?);
    }
    Ok(clusters)
}

async fn of(api: &Api) -> anyhow::Result<Cluster> {
    let mut read = Read::default();
    let progress = output::Progress::new();
    for kind in Kind::ALL.into_iter().filter(|kind| !LEFT_OUT.contains(kind)) {
        let mut of = ObjectType::from(kind);
        progress.say(&format!("reading {} of {} …", of.plural, api.context()));
        let Some(version) = api.within(api.cluster.served(kind)).await? else { continue };
        of.version = version;
        for object in api.within(api.cluster.list_installed(of, None, None)).await? {
            read.take(Place::default(), object);
        }
    }
    let peers = read.objects.values().filter_map(|item| match &item.object {
        Object::Peer(peer) => Some(peer.meta.name.to_string()),
        _ => None,
    });
    let peers = peers.collect();
    Ok(Cluster { name: name(api, &read).await?, read, peers, live: true })
}

/// The cluster's name: what its control plane says, else that of the context.
async fn name(api: &Api, read: &Read) -> anyhow::Result<ClusterId> {
    let has_system =
        read.objects.contains_key(&(Kind::Namespace, String::new(), SYSTEM_NAMESPACE.to_string()));
    let said = match has_system {
        true => api.within(api.cluster.read_mesh()).await?.map(|mesh| mesh.cluster),
        false => None,
    };
    let named = said.and_then(|name| name.parse().ok());
    let of_context = || ClusterId::of_istio(api.context()).unwrap_or_else(|_| ClusterId::unnamed());
    Ok(named.unwrap_or_else(of_context))
}
