//! The connections of other sites' clients on which somebody has proven who he is: each has one of its own to
//! the server here.

use std::sync::{Arc, Mutex, PoisonError};

use crate::hash::HashMap;
use crate::id::SiteId;
use crate::server::Bond;

#[derive(Default)]
pub struct Bonds(Mutex<HashMap<(SiteId, u128), Arc<Bond>>>);

/// Most that are known at once. Nobody tells of those that have ended: they go when there are so many, if nothing
/// runs and nothing is kept for them.
const MOST: usize = 1024;

impl Bonds {
    /// Of one that is too many nothing is kept: its client is asked who he is again and again.
    pub fn of(&self, site: &SiteId, id: u128) -> Arc<Bond> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (site.clone(), id);
        if let Some(bond) = all.get(&key) {
            return bond.clone();
        }
        if all.len() >= MOST {
            all.retain(|_, bond| Arc::strong_count(bond) > 1 || bond.is_kept());
        }
        let bond = Bond::with_id(id);
        if all.len() < MOST {
            all.insert(key, bond.clone());
        } else {
            tracing::warn!(peer = %site, most = MOST, "too many connections have one of their own to the server");
        }
        bond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_has_one_bond_and_there_are_so_many() {
        let bonds = Bonds::default();
        let (osaka, lyon) = ("osaka".parse().unwrap(), "lyon".parse().unwrap());
        let one = bonds.of(&osaka, 1);
        assert!(Arc::ptr_eq(&one, &bonds.of(&osaka, 1)));
        assert!(!Arc::ptr_eq(&one, &bonds.of(&osaka, 2)) && !Arc::ptr_eq(&one, &bonds.of(&lyon, 1)));
        // Those that run stay, the others make room.
        let running: Vec<_> = (10..1000).map(|id| bonds.of(&lyon, id)).collect();
        (2000..4000).for_each(|id| drop(bonds.of(&osaka, id)));
        assert!(bonds.0.lock().unwrap().len() <= MOST);
        assert!(running.iter().all(|bond| Arc::ptr_eq(bond, &bonds.of(&lyon, bond.id()))));
        let _more: Vec<_> = (5000..6000).map(|id| bonds.of(&osaka, id)).collect();
        assert_eq!(bonds.0.lock().unwrap().len(), MOST);
        assert!(!Arc::ptr_eq(&bonds.of(&osaka, 9999), &bonds.of(&osaka, 9999)));
    }
}
