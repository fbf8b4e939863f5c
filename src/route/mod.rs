//! The route room.
