//! How fast the applier alone fills a copy with small files. FILES says how many; with 20,000 in a
//! release build the rate printed is worth something.

use std::time::Instant;

use super::rig::Rig;
use super::share::Share;

#[test]
fn a_first_fill_of_small_files_takes_time_in_proportion() {
    let files: usize = std::env::var("FILES").ok().and_then(|n| n.parse().ok()).unwrap_or(600);
    let mut share = Share::new();
    for n in 0..files {
        if n % 100 == 0 {
            share.dir(&format!("d{:04}", n / 100));
            share.publish();
        }
        let path = format!("d{:04}/f{:02}", n / 100, n % 100);
        // Not all over again for each file: the directory's times are told once.
        let entry = share.entry(&path);
        share.file_at(entry, format!("{n:04096}").as_bytes());
    }
    let (base, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut rig = Rig::on(base.path().into(), state.path().join("state"), None);
    let begun = Instant::now();
    rig.compare(&mut share);
    let compared = begun.elapsed();
    rig.pay_all(&share);
    let filled = begun.elapsed();
    eprintln!(
        "{files} files of 4 KiB: compared in {compared:?}, filled in {filled:?}, {:.0} files/s",
        files as f64 / filled.as_secs_f64()
    );
    rig.assert_settled(&share);
    rig.crash();
}
