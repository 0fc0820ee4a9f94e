//! xDS subscriptions: state of the world, delta and on-demand; server with shared response bytes, reconnecting client.
