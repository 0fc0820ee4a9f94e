//! Durable keys: get, put-if-unchanged, watch, lease; an embedded file store and etcd behind one suite.
