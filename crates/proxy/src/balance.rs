//! Which endpoint a connection goes to: priorities, localities, policies, health and ejection.

pub(crate) mod endpoint;
pub(crate) mod outlier;
pub(crate) mod pool;

pub(crate) use endpoint::{Active, Endpoint, Host};
pub(crate) use pool::{Level, Pool};
