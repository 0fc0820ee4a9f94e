//! The descriptors of all messages that can be shown.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!("envoy.binpb").as_slice())
        .expect("the descriptors of this crate are complete: its tests make them")
});

/// The message that a type URL names, with or without a host before its last slash.
pub(crate) fn message(type_url: &str) -> Option<MessageDescriptor> {
    let name = type_url.rsplit('/').next().unwrap_or(type_url);
    POOL.get_message_by_name(name)
}
