//! Nothing that others write makes a reader panic, and what it reads it writes again the same: one property for each
//! reader, with true samples that are damaged (`support/mutations.rs`) and with noise.
//!
//! Readers that are nobody else's business have theirs beside them; `cargo test fuzz` runs all. `PROPTEST_CASES` says how
//! many cases each has: 256 by itself.
#![allow(clippy::unwrap_used)]

#[path = "fuzz/answers.rs"]
mod answers;
#[path = "support/mutations.rs"]
mod mutations;
#[path = "fuzz/notes.rs"]
mod notes;
#[path = "fuzz/values.rs"]
mod values;
