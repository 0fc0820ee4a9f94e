//! Watching any Kubernetes-style API into source events; leases, status writes, controllers.
