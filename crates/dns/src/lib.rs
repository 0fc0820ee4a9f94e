//! Mesh name table, answers, forwarding.
