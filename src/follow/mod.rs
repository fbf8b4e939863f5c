//! The follow room.
