//! rustls configuration from a live identity, SPIFFE peer verification for each trust domain.
