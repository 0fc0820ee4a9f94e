//! The command isthmus: certificates, links, tokens, inspection.

fn main() {}
