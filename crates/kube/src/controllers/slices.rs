//! EndpointSlices from Services' selectors over Pods: what is planned is written.

use std::collections::BTreeSet;

use isthmus_resources::derived::slices::{Action, Slices};
use isthmus_resources::{Kind, Object};

use crate::api::{ApiError, Preconditions};
use crate::client::Cluster;

/// Writes what differs; false when something remains to be done.
pub(super) async fn write(slices: &mut Slices, cluster: &Cluster) -> bool {
    let mut remaining = BTreeSet::new();
    for service in slices.take_dirty() {
        for action in slices.plan(&service) {
            match act(slices, cluster, action).await {
                // The namespace or the Service is on its way out.
                Ok(()) | Err(ApiError::NotFound { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, "endpoint slice not written");
                    remaining.insert(service.clone());
                }
            }
        }
    }
    slices.mark(remaining);
    slices.is_settled()
}

async fn act(slices: &mut Slices, cluster: &Cluster, action: Action) -> Result<(), ApiError> {
    match action {
        Action::Put(object) => {
            let written = cluster.put(Kind::EndpointSlice, object).await?;
            if let Ok(Object::EndpointSlice(slice)) = isthmus_resources::parse(written) {
                slices.written(slice);
            }
        }
        Action::Delete(place) => {
            let preconditions = Preconditions::default();
            cluster.delete(Kind::EndpointSlice, Some(&place.0), &place.1, preconditions).await?;
            slices.deleted(&place);
        }
    }
    Ok(())
}
