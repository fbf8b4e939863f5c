//! The copy's side without a link: the applier on real disks and real catalogs.

mod comparing;
mod faulty;
mod fetching;
mod foreign;
mod power;
mod rig;
mod settling;
mod share;
mod speed;
mod standing;
mod storm;
mod trouble;
mod verify;
