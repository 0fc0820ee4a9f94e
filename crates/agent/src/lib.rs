//! Joining identity, xDS, DNS, capture, proxy and health for one workload.
