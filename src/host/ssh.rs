//! SSH through libssh2: the only place that knows the crate ssh2.
