//! Configuration of one namespace.

/// Traffic and security configuration that one namespace holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceConfig {}
