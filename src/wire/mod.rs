//! What the protocols look like on the wire: decoded just far enough to say what a request touches.
//! PURE: no socket, no file, no clock. Not here: what is then done about it (see `route`, `relay`).

pub mod http;
pub mod mount;
pub mod nfs3;
pub mod portmap;
pub mod program;
pub mod rpc;
pub mod xdr;
