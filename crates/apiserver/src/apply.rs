//! Server-side apply: who owns which field, and merging by ownership.
//!
//! The rules are those of Kubernetes' structured merge: an applier owns what it applies, loses what it no longer
//! applies (the field goes when nobody else owns it), and meets a conflict when it would change another's field.

mod fields;
mod managers;
mod merge;

pub(crate) use managers::{Manager, Operation, apply, track_update};

#[cfg(test)]
mod tests;
