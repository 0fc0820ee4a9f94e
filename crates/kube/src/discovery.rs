//! What an API server serves.

use http::Method;
use isthmus_resources::Kind;
use serde_json::Value;

use crate::api::ApiError;
use crate::client::Cluster;

impl Cluster {
    /// The version in which a kind is served, of those that we read, the best first; none when the server says that there is no such
    /// kind. A server that cannot say is an error: what is unknown is not absent.
    ///
    /// # Errors
    /// When the server cannot be asked or does not allow it.
    pub async fn served(&self, kind: Kind) -> Result<Option<&'static str>, ApiError> {
        let names = kind.names();
        if !kind.is_custom() {
            return Ok(Some(names.versions[0]));
        }
        let action = format!("asking whether {} is installed", names.kind);
        let groups = self.send(action.clone(), Method::GET, "/apis", None, None).await?;
        let of_group = array(&groups["groups"]).find(|group| group["name"] == names.group);
        let versions = of_group.map(|group| &group["versions"]).unwrap_or(&Value::Null);
        for version in names.versions {
            if !array(versions).any(|served| served["version"] == *version) {
                continue;
            }
            let path = format!("/apis/{}/{version}", names.group);
            match self.send(action.clone(), Method::GET, &path, None, None).await {
                Ok(list) if array(&list["resources"]).any(|one| one["name"] == names.plural) => {
                    return Ok(Some(version));
                }
                // Not found: the version went away between the two questions.
                Ok(_) | Err(ApiError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
