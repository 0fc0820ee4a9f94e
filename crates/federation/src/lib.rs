//! The peer protocol: records, cursors, tombstones; stream server and client.
