//! East-west server-name grammar and a bounded ClientHello reader.
