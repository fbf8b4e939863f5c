//! The commands, one file each. Not here: flags that are not a command's own, where logs go, and exit
//! codes of wrong usage (see `main`).

pub mod believe;
pub mod cert;
pub mod check;
pub mod demo;
pub mod kept;
pub mod promote;
pub mod reload;
pub mod run;
pub mod scan;
pub mod status;
pub mod verify;

mod control;
mod http;
