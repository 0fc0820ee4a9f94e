//! Who asks, and what they may do.

pub(crate) mod rules;
pub(crate) mod token;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Group of those who may do everything.
pub(crate) const MASTERS: &str = "system:masters";
/// Group of everybody who said who they are.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// Group of the control plane itself, in process.
pub(crate) const CONTROL_PLANE: &str = "isthmus:control-plane";

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    pub(crate) fn new(user: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        groups.push(AUTHENTICATED.to_string());
        Self { user: user.to_string(), groups, ..Self::default() }
    }

    /// From a verified client certificate: common name and organizations. Nothing without a common name.
    pub(crate) fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_string();
        let mut groups: Vec<String> =
            subject.iter_organization().filter_map(|name| name.as_str().ok().map(str::to_string)).collect();
        groups.push(AUTHENTICATED.to_string());
        Some(Self { user, groups, ..Self::default() })
    }

    pub(crate) fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    /// The ServiceAccount behind the name, if it is one.
    pub(crate) fn service_account(&self) -> Option<(&str, &str)> {
        self.user.strip_prefix("system:serviceaccount:")?.split_once(':')
    }

    /// As `authentication.k8s.io/v1` UserInfo.
    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({"username": self.user, "groups": self.groups});
        if !self.uid.is_empty() {
            value["uid"] = self.uid.clone().into();
        }
        if !self.extra.is_empty() {
            value["extra"] = json!(self.extra);
        }
        value
    }
}
