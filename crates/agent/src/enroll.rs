//! From nothing, or from what an earlier run left on disk, to a member of the mesh with a live identity.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isthmus_lifecycle::{Backoff, Clock, TaskGroup};
use isthmus_model::NamespacedName;
use isthmus_model::token::{Grant, JoinToken};
use isthmus_tls::{FileError, Identity, InvalidLeaf, Material};
use thiserror::Error;

use crate::connect::{Connector, InvalidServerName};
use crate::data::{DataDir, DataError};
use crate::identity::{Metrics, Renewal, seconds_between};
use crate::join::{Applicant, JoinError, Joined, join};
use crate::state::Membership;

/// Why a machine is no member.
#[derive(Debug, Error)]
pub enum EnrollError {
    /// The data directory.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The files of the identity.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The identity itself.
    #[error(transparent)]
    Leaf(#[from] InvalidLeaf),
    /// Joining.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The remembered server name.
    #[error(transparent)]
    ServerName(#[from] InvalidServerName),
    /// Nothing on disk and no token.
    #[error("{}: no certificate is kept here, this machine has not joined yet: {hint}", path.display())]
    NotJoined {
        /// Data directory.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// The identity on disk is over and there is no token to replace it.
    #[error("{}: the certificate expired {ago_s} s ago; join again with a new token", path.display())]
    Expired {
        /// Data directory.
        path: PathBuf,
        /// Seconds since.
        ago_s: i64,
    },
}

/// What to become a member with.
#[derive(Clone)]
pub struct Enrollment {
    /// Where everything is remembered.
    pub data_dir: PathBuf,
    /// A token, when there is one. Redeemed only when disk has no usable identity.
    pub token: Option<JoinToken>,
    /// With a host token: the ServiceAccount to run as.
    pub service_account: Option<NamespacedName>,
    /// The machine's own name.
    pub hostname: String,
    /// Mark of all sockets to the control plane.
    pub mark: Option<u32>,
    /// Lifetime of certificates to ask for.
    pub leaf_ttl: Option<Duration>,
    /// How long to try when the control plane does not answer; none is for ever.
    pub patience: Option<Duration>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
}

/// A member of the mesh.
pub struct Enrolled {
    /// The locked data directory.
    pub data: DataDir,
    /// Place in the mesh.
    pub membership: Membership,
    /// Live identity.
    pub identity: Identity,
    /// Way to the control plane.
    pub connector: Connector,
    enrollment: Enrollment,
}

/// Uses the identity on disk, or redeems the token. Control planes may all be gone in the first case.
///
/// # Errors
/// When there is no usable identity and no token that the control plane accepts.
pub async fn enroll(enrollment: Enrollment) -> Result<Enrolled, EnrollError> {
    let data = DataDir::open(&enrollment.data_dir)?;
    enroll_in(data, enrollment).await
}

/// As [`enroll`], in a data directory that is open.
///
/// # Errors
/// As [`enroll`].
pub async fn enroll_in(data: DataDir, enrollment: Enrollment) -> Result<Enrolled, EnrollError> {
    let (membership, identity) = match remembered(&data, &enrollment)? {
        Some(found) => found,
        None => {
            let joined = redeem(&enrollment).await?;
            joined.material.save(&data.identity())?;
            // Last: its presence says that joining was completed.
            joined.membership.save(&data)?;
            (joined.membership, Identity::from_material(&joined.material)?)
        }
    };
    let connector = Connector::for_member(&identity, &membership, enrollment.mark)?;
    Ok(Enrolled { data, membership, identity, connector, enrollment })
}

impl Enrolled {
    /// Renews the identity in this group until it stops.
    pub fn keep_alive(&self, group: &TaskGroup, metrics: Metrics) {
        let reusable = self.enrollment.token.clone().filter(|token| matches!(token.grant, Grant::Host(_)));
        let renewal = Renewal {
            identity: self.identity.clone(),
            directory: self.data.identity(),
            connector: self.connector.clone(),
            cluster: self.membership.cluster.clone(),
            ttl: self.enrollment.leaf_ttl,
            rejoin: reusable.map(|token| (token, applicant(&self.enrollment))),
            clock: Arc::clone(&self.enrollment.clock),
            metrics,
        };
        group.spawn_infallible("certificate renewal", renewal.run(group.signal()));
    }
}

/// What an earlier run left, if it can be used.
fn remembered(
    data: &DataDir,
    enrollment: &Enrollment,
) -> Result<Option<(Membership, Identity)>, EnrollError> {
    let path = || enrollment.data_dir.clone();
    let with_token = enrollment.token.is_some();
    let Some(mut membership) = Membership::load(data)? else {
        let hint = "`isthmus-vm-agent join TOKEN` makes it a member; a sidecar or gateway needs --token-file, with a token of `isthmus host token`";
        return if with_token { Ok(None) } else { Err(EnrollError::NotJoined { path: path(), hint }) };
    };
    let material = match Material::load(&data.identity()) {
        Ok(material) => material,
        Err(error) if with_token => {
            tracing::warn!(%error, "identity on disk is unusable, joining again");
            None
        }
        Err(error) => return Err(error.into()),
    };
    let Some(material) = material else {
        let hint = "its identity is missing: join again with a new token";
        return if with_token { Ok(None) } else { Err(EnrollError::NotJoined { path: path(), hint }) };
    };
    let identity = Identity::from_material(&material)?;
    if !is_wanted(&membership, enrollment) {
        return Ok(None);
    }
    let now = enrollment.clock.now();
    let left = identity.leaf().map_or(0, |leaf| seconds_between(now, leaf.not_after()));
    if left <= 0 {
        return if with_token { Ok(None) } else { Err(EnrollError::Expired { path: path(), ago_s: -left }) };
    }
    // A newer token may know better ways to the same control plane.
    if let Some(token) = &enrollment.token
        && (membership.addresses != token.addresses || membership.server_name != token.server_name)
    {
        membership.addresses.clone_from(&token.addresses);
        membership.server_name = Arc::clone(&token.server_name);
        membership.save(data)?;
    }
    tracing::info!(valid_for_s = left, identity = %identity.leaf().map(|leaf| leaf.certificate().name()).unwrap_or_default(), "identity from disk");
    Ok(Some((membership, identity)))
}

/// Whether what is on disk is what this run asks for: another account, cluster or group means joining anew.
fn is_wanted(membership: &Membership, enrollment: &Enrollment) -> bool {
    let account = enrollment.service_account.as_ref().is_none_or(|asked| {
        asked.namespace == membership.namespace && asked.name == membership.service_account
    });
    let place = enrollment.token.as_ref().is_none_or(|token| {
        let group = match &token.grant {
            Grant::Vm(group) => membership.group.as_ref() == Some(group),
            Grant::Host(_) => membership.group.is_none(),
        };
        group && token.cluster == membership.cluster
    });
    account && place
}

async fn redeem(enrollment: &Enrollment) -> Result<Joined, EnrollError> {
    let Some(token) = &enrollment.token else {
        let hint = "use a token";
        return Err(EnrollError::NotJoined { path: enrollment.data_dir.clone(), hint });
    };
    let applicant = applicant(enrollment);
    let started = tokio::time::Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(300), Duration::from_secs(5));
    loop {
        let error = match join(token, &applicant).await {
            Ok(joined) => {
                tracing::info!(
                    cluster = %joined.membership.cluster,
                    network = %joined.membership.network,
                    identity = %joined.membership.spiffe(),
                    "joined the mesh"
                );
                return Ok(joined);
            }
            Err(error) => error,
        };
        let out_of_patience = enrollment.patience.is_some_and(|patience| started.elapsed() >= patience);
        if !error.is_temporary() || out_of_patience {
            return Err(error.into());
        }
        tracing::warn!(%error, "not joined yet, trying again");
        backoff.wait().await;
    }
}

fn applicant(enrollment: &Enrollment) -> Applicant {
    Applicant {
        service_account: enrollment.service_account.clone(),
        hostname: enrollment.hostname.clone(),
        mark: enrollment.mark,
    }
}
