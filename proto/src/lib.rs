//! Wire contracts: generated types of our own and of Istio's small services.
