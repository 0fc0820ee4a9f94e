//! The Istio and Kubernetes kinds we read: types, CRD schemas, validation, conversion to the model.
