//! What each kind of caller may do. This is the whole policy; there are no RBAC objects.
//!
//! | caller | may |
//! |---|---|
//! | group `system:masters` | everything |
//! | the control plane, in process | read everything; write what it produces (below) |
//! | a ServiceAccount | get itself; read Pods and WorkloadEntries of its namespace; ask who it is |
//! | any other certificate | discovery; ask who it is and what it may do |
//! | anonymous | `/livez`, `/readyz`, `/healthz`, `/version` |

use super::{CONTROL_PLANE, Identity, MASTERS};

/// A question to the rules about a resource.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Action<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

const READ: &[&str] = &["get", "list", "watch"];

/// Whether a caller may do something with a resource.
pub(crate) fn allowed(who: &Identity, action: &Action<'_>) -> bool {
    if who.in_group(MASTERS) {
        return true;
    }
    if who.in_group(super::AUTHENTICATED) && asks_about_itself(action) {
        return true;
    }
    if who.in_group(CONTROL_PLANE) {
        return READ.contains(&action.verb) || control_plane_writes(action);
    }
    match who.service_account() {
        Some((namespace, name)) => workload_reads(namespace, name, action),
        None => false,
    }
}

/// Whether a caller may see a path that is no resource: discovery for everybody known, the rest for admins.
pub(crate) fn path_allowed(who: &Identity, path: &str) -> bool {
    const OPEN: &[&str] = &["/api", "/apis", "/openapi", "/version", "/livez", "/readyz", "/healthz"];
    let below =
        |root: &&str| path == *root || path.strip_prefix(*root).is_some_and(|rest| rest.starts_with('/'));
    who.in_group(MASTERS) || OPEN.iter().any(below)
}

fn asks_about_itself(action: &Action<'_>) -> bool {
    action.verb == "create"
        && matches!(
            (action.group, action.resource),
            ("authentication.k8s.io", "selfsubjectreviews")
                | ("authorization.k8s.io", "selfsubjectaccessreviews")
        )
}

/// The control plane registers workloads, makes EndpointSlices, keeps its leases, consumes join tokens, writes status
/// and installs its definitions. Users' own configuration it only reads.
fn control_plane_writes(action: &Action<'_>) -> bool {
    let system = action.namespace == "istio-system";
    match (action.group, action.resource) {
        (_, _) if action.subresource == "status" => true,
        ("", "pods" | "events" | "endpoints" | "nodes") => true,
        ("discovery.k8s.io", "endpointslices") | ("coordination.k8s.io", "leases") => true,
        ("networking.istio.io", "workloadentries") => true,
        // Addresses that it allocates are kept in the object's status or annotations.
        ("networking.istio.io", "serviceentries" | "workloadgroups") => action.verb == "patch",
        ("isthmus.io", _) => true,
        ("", "configmaps") => {
            // The name of what is created is not known here, as in Kubernetes.
            let named = ["istio-ca-root-cert", "kube-root-ca.crt"].contains(&action.name);
            system || named || action.verb == "create"
        }
        ("", "secrets") => system || action.verb == "delete",
        ("", "serviceaccounts") => system && (action.verb == "create" || action.subresource == "token"),
        ("", "namespaces") => {
            let own = action.name == "istio-system";
            (action.verb == "create" && (action.name.is_empty() || own)) || (action.verb == "patch" && own)
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => true,
        ("authentication.k8s.io", "tokenreviews") | ("authorization.k8s.io", "subjectaccessreviews") => true,
        _ => false,
    }
}

fn workload_reads(namespace: &str, name: &str, action: &Action<'_>) -> bool {
    if action.namespace != namespace || !action.subresource.is_empty() {
        return false;
    }
    match (action.group, action.resource) {
        ("", "serviceaccounts") => action.verb == "get" && action.name == name,
        ("", "pods") | ("networking.istio.io", "workloadentries") => READ.contains(&action.verb),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_reads_its_own_and_nothing_else() {
        let who = Identity::new("system:serviceaccount:a:web", &["system:serviceaccounts"]);
        let own =
            |verb, resource, namespace, name| Action { verb, resource, namespace, name, ..Action::default() };
        assert!(allowed(&who, &own("get", "serviceaccounts", "a", "web")));
        assert!(allowed(&who, &own("list", "pods", "a", "")));
        for action in [
            own("get", "serviceaccounts", "a", "other"),
            own("list", "serviceaccounts", "a", ""),
            own("list", "pods", "", ""),
            own("list", "pods", "b", ""),
            own("delete", "pods", "a", "x"),
            own("get", "secrets", "a", "x"),
            Action { subresource: "token", ..own("create", "serviceaccounts", "a", "web") },
            Action { group: "authentication.k8s.io", ..own("create", "tokenreviews", "", "") },
        ] {
            assert!(!allowed(&who, &action), "{action:?}");
        }
    }

    #[test]
    fn nobody_else_may_do_anything_but_discover() {
        let who = Identity::new("somebody", &["team"]);
        assert!(!allowed(&who, &Action { verb: "list", resource: "services", ..Action::default() }));
        assert!(path_allowed(&who, "/apis/x.io"));
        assert!(!path_allowed(&who, "/debug/isthmus/status"));
        assert!(!path_allowed(&who, "/metrics"));
    }
}
