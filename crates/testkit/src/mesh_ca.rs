//! A root with one intermediate for each of two clusters, made anew for each test.

use std::path::Path;
use std::time::{Duration, SystemTime};

use isthmus_ca::{Authority, Cacerts, Intermediate, Names, Policy, Root};
use isthmus_lifecycle::{Clock, SystemClock};
use isthmus_model::{SpiffeId, TrustDomain};
use isthmus_tls::{Identity, Material, Trust};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The CA of a mesh with the clusters `east` and `west`. Two of these do not trust each other.
#[derive(Debug)]
pub struct MeshCa {
    root: Root,
    east: Signer,
    west: Signer,
}

#[derive(Debug)]
struct Signer {
    cacerts: Cacerts,
    authority: Authority,
}

impl Default for MeshCa {
    fn default() -> Self {
        Self::new()
    }
}

impl MeshCa {
    /// For the trust domain `cluster.local`.
    #[must_use]
    pub fn new() -> Self {
        Self::in_domain("cluster.local")
    }

    /// For another trust domain.
    ///
    /// # Panics
    /// When it is not one.
    #[must_use]
    pub fn in_domain(trust_domain: &str) -> Self {
        let domain: TrustDomain = trust_domain.parse().expect("a test names a trust domain");
        // A day old, so that it can have issued what has expired since.
        let now = SystemClock.now() - DAY;
        let (root, _) = Root::create(&domain, 365 * DAY, now).expect("a root can be made");
        let signer = |cluster: &str| {
            let cluster = cluster.parse().expect("this is a cluster name");
            let cacerts =
                root.intermediate(&Intermediate::new(cluster), now).expect("an intermediate can be made");
            let authority = Authority::new(&cacerts, Policy::default()).expect("what was just made loads");
            Signer { cacerts, authority }
        };
        let (east, west) = (signer("east"), signer("west"));
        Self { root, east, west }
    }

    fn signer(&self, cluster: &str) -> &Signer {
        match cluster {
            "east" => &self.east,
            "west" => &self.west,
            other => panic!("the test mesh has no cluster {other:?}: it has east and west"),
        }
    }

    /// The root, PEM.
    #[must_use]
    pub fn roots_pem(&self) -> &str {
        self.root.pem()
    }

    /// Its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        self.root.trust_domain()
    }

    /// What members trust.
    #[must_use]
    pub fn trust(&self) -> Trust {
        Trust::mesh(self.trust_domain().clone(), self.roots_pem()).expect("the root is a root")
    }

    /// The signer of `east` or `west`.
    #[must_use]
    pub fn authority(&self, cluster: &str) -> &Authority {
        &self.signer(cluster).authority
    }

    /// Writes the signer of a cluster in the `cacerts` layout, for a program under test.
    ///
    /// # Panics
    /// When the file system refuses.
    pub fn write_cacerts(&self, cluster: &str, directory: &Path) {
        self.signer(cluster).cacerts.write(directory).expect("a test's directory can be written");
    }

    /// A workload's key, chain and roots: `NAMESPACE/ACCOUNT` in the own trust domain, signed by this cluster.
    ///
    /// # Panics
    /// When the name is not of that form.
    #[must_use]
    pub fn workload_material(&self, cluster: &str, account: &str) -> Material {
        self.material(cluster, &self.workload_names(account), DAY)
    }

    fn workload_names(&self, account: &str) -> Names {
        let (namespace, name) = account.split_once('/').expect("an account is written NAMESPACE/NAME");
        let uri = format!("spiffe://{}/ns/{namespace}/sa/{name}", self.trust_domain());
        Names::workload(uri.parse::<SpiffeId>().expect("the account makes an identity"))
    }

    /// A workload's live identity.
    #[must_use]
    pub fn workload(&self, cluster: &str, account: &str) -> Identity {
        live(&self.workload_material(cluster, account))
    }

    /// A control plane's live identity: `default.CLUSTER.federation.isthmus.internal`, `istiod.istio-system.svc`,
    /// `localhost`, 127.0.0.1.
    ///
    /// # Panics
    /// Never, for `east` and `west`.
    #[must_use]
    pub fn control_plane(&self, cluster: &str) -> Identity {
        let uri = format!("spiffe://{}/ns/istio-system/sa/istiod", self.trust_domain());
        let names = Names::serving(
            Some(uri.parse().expect("this is an identity")),
            vec![
                format!("default.{cluster}.federation.isthmus.internal"),
                "istiod.istio-system.svc".to_string(),
                "localhost".to_string(),
            ],
            vec![[127, 0, 0, 1].into()],
        );
        live(&self.material(cluster, &names, DAY))
    }

    /// A workload whose certificate expired an hour ago.
    ///
    /// # Panics
    /// When the name is not of the form `NAMESPACE/ACCOUNT`.
    #[must_use]
    pub fn expired_workload(&self, cluster: &str, account: &str) -> Identity {
        let names = self.workload_names(account);
        live(&self.issue(cluster, &names, HOUR, SystemClock.now() - 2 * HOUR))
    }

    /// Any leaf.
    ///
    /// # Panics
    /// When the cluster may not vouch for the names.
    #[must_use]
    pub fn material(&self, cluster: &str, names: &Names, lifetime: Duration) -> Material {
        self.issue(cluster, names, lifetime, SystemClock.now())
    }

    fn issue(&self, cluster: &str, names: &Names, lifetime: Duration, at: SystemTime) -> Material {
        let issued = self.authority(cluster).issue_own(names, lifetime, at);
        let (made, _) = issued.expect("the names are allowed");
        Material { key: made.key_pem, chain: made.chain_pem, roots: made.roots_pem }
    }
}

fn live(material: &Material) -> Identity {
    Identity::from_material(material).expect("what was just issued is an identity")
}
