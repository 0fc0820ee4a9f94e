//! nftables rule sets held by a lease, original destination lookup.
