//! The table against the merge strategies of k8s-openapi.
