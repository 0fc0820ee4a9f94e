//! Passes mesh TLS between networks by server name, without terminating it.
