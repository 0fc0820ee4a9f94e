//! A small Kubernetes-style API over the store: kubectl and kube clients work against it.
