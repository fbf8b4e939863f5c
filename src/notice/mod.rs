//! The notice room.
