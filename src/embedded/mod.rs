//! The embedded room.
