//! nearshare: a transparent caching proxy for file servers. Reads are answered from the near copy,
//! writes go to the site with the primary, every copy follows. ARCHITECTURE.md is the map of the
//! rooms; each imports only from rooms below it.

// Unit tests may read clocks and sleep (see clippy.toml).
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod admin;
pub mod body;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod door;
pub mod effect;
pub mod embedded;
pub mod follow;
pub mod hash;
pub mod hold;
pub mod id;
pub mod link;
pub mod map;
pub mod notice;
pub mod object;
pub mod plant;
pub mod relay;
pub mod route;
#[cfg(test)]
mod seeds;
pub mod serve;
pub mod server;
#[cfg(test)]
mod sim;
pub mod socket;
pub mod tree;
pub mod verify;
pub mod wire;
pub mod work;
