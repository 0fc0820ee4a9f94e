//! Ejection of endpoints that fail.

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use isthmus_resources::istio::OutlierDetection;

use crate::wire::{duration, number};

/// Istio's translation. For TCP a failed connect (time-out and failed handshake included) is of local origin: Envoy counts it
/// with 5xx and gateway errors, or alone when the two are split, so that it ejects in every setting.
pub(crate) fn detection(outlier: &OutlierDetection) -> pb::OutlierDetection {
    let mut wire = pb::OutlierDetection {
        interval: outlier.interval.map(|value| duration(value.0)),
        base_ejection_time: outlier.base_ejection_time.map(|value| duration(value.0)),
        max_ejection_percent: positive(outlier.max_ejection_percent),
        // success rates need more traffic than a sidecar sees
        enforcing_success_rate: Some(number(0)),
        split_external_local_origin_errors: outlier.split_external_local_origin_errors,
        ..Default::default()
    };
    let older = outlier.consecutive_errors.and_then(|count| u32::try_from(count).ok());
    if let Some(count) = outlier.consecutive_gateway_errors.or(older) {
        wire.consecutive_gateway_failure = Some(number(count));
        wire.enforcing_consecutive_gateway_failure = Some(number(if count > 0 { 100 } else { 0 }));
    }
    if let Some(count) = outlier.consecutive_5xx_errors {
        wire.consecutive_5xx = Some(number(count));
        wire.enforcing_consecutive_5xx = Some(number(if count > 0 { 100 } else { 0 }));
    }
    if outlier.split_external_local_origin_errors {
        wire.enforcing_local_origin_success_rate = Some(number(0));
        if let Some(count) = outlier.consecutive_local_origin_failures {
            wire.consecutive_local_origin_failure = Some(number(count));
            wire.enforcing_consecutive_local_origin_failure = Some(number(if count > 0 { 100 } else { 0 }));
        }
    }
    wire
}

fn positive(value: i32) -> Option<envoy_types::pb::google::protobuf::UInt32Value> {
    u32::try_from(value).ok().filter(|value| *value > 0).map(|value| number(value.min(100)))
}
