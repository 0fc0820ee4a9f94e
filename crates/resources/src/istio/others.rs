//! Kinds that are stored, validated by their schema and not enforced yet.

use serde::Deserialize;
use serde_json::{Map, Value};

macro_rules! stored {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
            #[serde(transparent)]
            pub struct $name {
                /// The specification as written.
                pub fields: Map<String, Value>,
            }
        )*
    };
}

stored! {
    /// `telemetry.istio.io` Telemetry.
    Telemetry,
    /// `networking.istio.io` EnvoyFilter.
    EnvoyFilter,
    /// `networking.istio.io` ProxyConfig.
    ProxyConfig,
    /// `extensions.istio.io` WasmPlugin.
    WasmPlugin,
    /// `install.istio.io` IstioOperator.
    IstioOperator,
}
