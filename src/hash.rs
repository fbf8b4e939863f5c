//! Hashed maps and sets for the rooms whose behaviour may depend on the order in which they list what
//! they hold: as the standard library's, randomly keyed, but in a simulation keyed by its seed, so that
//! the same seed lists in the same order.

#[cfg(not(test))]
pub type State = std::hash::RandomState;
#[cfg(test)]
pub use seeded::State;

pub type HashMap<K, V> = std::collections::HashMap<K, V, State>;
pub type HashSet<K> = std::collections::HashSet<K, State>;

/// Takes one from a count; those that reach none are not kept.
pub fn decrement<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod seeded {
    use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

    use crate::work::single;

    /// Keyed when it is made.
    #[derive(Clone)]
    pub struct State(u64);

    impl Default for State {
        fn default() -> Self {
            Self(single::key().unwrap_or_else(|| RandomState::new().build_hasher().finish()))
        }
    }

    impl BuildHasher for State {
        type Hasher = DefaultHasher;
        fn build_hasher(&self) -> DefaultHasher {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(self.0);
            hasher
        }
    }
}
