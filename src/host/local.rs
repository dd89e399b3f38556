//! This machine as a host: commands run by `sh -c`, for tests and the storage lab.
