//! A site's durable index of its shares' objects, and each share's journal (ARCHITECTURE.md).

mod model;

pub use model::{Change, Debt, Head, Inline, Record, Release, Touch};
