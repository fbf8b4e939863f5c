//! Which seeds a seeded test runs; of the integration tests' as well, which take this file as it is.
//! `NEARSHARE_SEEDS=N` runs so many, `NEARSHARE_SEED=N` one.

use std::ops::RangeInclusive;

/// The seeds to run: `NEARSHARE_SEED` alone, or `NEARSHARE_SEEDS` of them (`default` when unset).
pub fn seeds(default: u64) -> Seeds {
    Seeds::of(picked(), number("NEARSHARE_SEEDS"), default)
}

/// The only seed to run, if one was named.
pub fn picked() -> Option<u64> {
    number("NEARSHARE_SEED")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Says how to run a seed again when what is done with it panics.
pub struct Seeds {
    left: RangeInclusive<u64>,
    at: Option<Again>,
}

impl Seeds {
    fn of(picked: Option<u64>, many: Option<u64>, default: u64) -> Self {
        let left = picked.map_or(1..=many.unwrap_or(default), |seed| seed..=seed);
        Self { left, at: None }
    }
}

impl Iterator for Seeds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let seed = self.left.next();
        self.at = seed.map(Again);
        seed
    }
}

/// The same, of one seed, for tests with seeds in several threads.
pub struct Again(pub u64);

impl Again {
    fn how(&self) -> String {
        format!("seed {0} failed: NEARSHARE_SEED={0} runs it again", self.0)
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.how());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_run_alone_and_so_many_are_run_from_the_first() {
        let of = |picked, many| Seeds::of(picked, many, 3).collect::<Vec<u64>>();
        assert_eq!(of(None, None), [1, 2, 3]);
        assert_eq!(of(None, Some(2)), [1, 2]);
        assert_eq!(of(Some(17), Some(2)), [17]);
        assert_eq!(Again(17).how(), "seed 17 failed: NEARSHARE_SEED=17 runs it again");
    }
}
