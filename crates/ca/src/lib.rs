//! Issuing, CSR policy, intermediates, trust bundles, tokens.
