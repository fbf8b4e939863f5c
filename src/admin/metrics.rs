//! Everything that can be measured, as Prometheus reads it: what was counted, and what is so at this
//! moment. Both in the order of their names, so that two answers can be compared. Not here: what is counted
//! where it happens (the rooms below, by way of `metrics`).

use std::collections::BTreeMap;
use std::fmt::Display;

use super::status::{ShareStatus, Status};
use crate::link::Direction;
use crate::verify::Report;

/// The whole answer; `counted` is in the same format.
pub(super) fn exposition(status: &Status, counted: &str) -> String {
    let mut page = Page::default();
    page.add(counted);
    site(status, &mut page);
    links(status, &mut page);
    shares(status, &mut page);
    copies(status, &mut page);
    page.text()
}

fn site(status: &Status, page: &mut Page) {
    let Status { version, map, certificate, http, .. } = status;
    let one = |value: &dyn Display| vec![(String::new(), value.to_string())];
    let version = vec![(labels(&[("version", version)]), "1".to_owned())];
    page.gauge("nearshare_build_info", "Always 1; the label says which release runs.", version);
    page.gauge(
        "nearshare_start_time_seconds",
        "When the process started, since 1970.",
        one(&seconds(status.since_unix_ms)),
    );
    page.gauge("nearshare_map_serial", "The `serial` of the map in use.", one(&map.serial));
    page.gauge(
        "nearshare_wrong",
        "Things that somebody should look at: what `nearshare status` lists under `wrong`.",
        one(&status.wrong().len()),
    );
    page.gauge(
        "nearshare_certificate_expiry_timestamp_seconds",
        "From when on other sites refuse this one's certificate, since 1970.",
        one(&seconds(certificate.until_unix_ms)),
    );
    if let Some(http) = http {
        page.gauge(
            "nearshare_server_up",
            "Whether the server behind the door answers, as far as is known.",
            one(&u8::from(http.up)),
        );
    }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

fn links(status: &Status, page: &mut Page) {
    let rows = status.links.iter().map(|link| {
        let direction = match link.direction {
            Direction::Dialled => "dialled",
            Direction::Accepted => "accepted",
        };
        (
            labels(&[("site", link.site.as_str()), ("direction", direction)]),
            u8::from(link.up).to_string(),
        )
    });
    page.gauge("nearshare_link_up", "Whether the link to another site is there.", rows.collect());
}

fn shares(status: &Status, page: &mut Page) {
    let share = |share: &ShareStatus| labels(&[("share", share.share.as_str())]);
    let of = |value: fn(&ShareStatus) -> Option<u64>| {
        let rows = status.shares.iter();
        rows.filter_map(|row| Some((share(row), value(row)?.to_string()))).collect::<Vec<_>>()
    };
    let held = |row: &ShareStatus| row.home.is_some() || row.copy.is_some();
    let states = status.shares.iter().map(|row| {
        let labels = labels(&[
            ("share", row.share.as_str()),
            ("role", row.role),
            ("primary", row.primary.as_str()),
            ("state", row.state.as_str()),
        ]);
        (labels, "1".to_owned())
    });
    page.gauge(
        "nearshare_share_state",
        "Always 1; the label says what the share does here: ok, scanning, comparing, filling, following, \
         waiting, stopped, cut-off or remote.",
        states.collect(),
    );
    page.gauge(
        "nearshare_share_wrong",
        "1 while the share cannot go on, or not as the map asks for.",
        of(|row| Some(row.wrong.is_some().into())),
    );
    let here = status.shares.iter().filter(|row| held(row));
    let (objects, bytes) = here
        .map(|row| ((share(row), row.objects.to_string()), (share(row), row.bytes.to_string())))
        .unzip();
    page.gauge("nearshare_share_objects", "Objects of the share in the catalog here.", objects);
    page.gauge("nearshare_share_bytes", "Bytes of the share's files in the catalog here.", bytes);
    page.gauge(
        "nearshare_share_locks",
        "WebDAV locks of the share that nearshare keeps here, at the primary, in place of the server.",
        of(|row| row.locks.map(|count| count as u64)),
    );
    page.gauge(
        "nearshare_share_kept",
        "Things kept aside under .nearshare/kept/ here instead of destroyed, 100000 of more.",
        of(|row| (row.home.is_some() || row.copy.is_some()).then_some(row.kept)),
    );
    page.gauge(
        "nearshare_share_verify_wrong",
        "Files that the last `nearshare verify` found wrong on the disk here and that were not put right.",
        of(|row| row.verify.as_ref().map(Report::all_wrong)),
    );
    page.gauge(
        "nearshare_share_unread",
        "Entries that the primary cannot read now, so that the copies have them as they were before.",
        of(|row| row.home.as_ref().map(|home| home.unread as u64)),
    );
    page.gauge(
        "nearshare_share_in_doubt",
        "Places whose changes the server never answered.",
        of(|row| {
            let home = row.home.as_ref().map(|home| home.suspects);
            home.or(row.copy.as_ref().map(|copy| copy.suspects)).map(|count| count as u64)
        }),
    );
}

/// How far a copy is behind, at the primary's site for all of them and at a copy for itself.
struct Lag {
    labels: String,
    records: u64,
    bytes: u64,
    seconds: f64,
    contents: u64,
}

fn copies(status: &Status, page: &mut Page) {
    let mut lags = Vec::new();
    for row in &status.shares {
        let labels = |site: &str| labels(&[("share", row.share.as_str()), ("site", site)]);
        lags.extend(row.copies.iter().map(|copy| Lag {
            labels: labels(copy.site.as_str()),
            records: copy.lag_records,
            bytes: copy.lag_bytes,
            seconds: copy.lag_seconds,
            contents: copy.debts,
        }));
        lags.extend(row.copy.iter().map(|copy| Lag {
            labels: labels(status.site.as_str()),
            records: copy.lag_records,
            bytes: copy.debt_bytes,
            seconds: copy.lag_seconds,
            contents: copy.debts,
        }));
    }
    let of = |value: fn(&Lag) -> String| {
        lags.iter().map(|lag| (lag.labels.clone(), value(lag))).collect::<Vec<_>>()
    };
    page.gauge(
        "nearshare_copy_lag_records",
        "Records of the journal that the copy at `site` lacks; the primary's site says so of every copy, \
         a copy of itself.",
        of(|lag| lag.records.to_string()),
    );
    page.gauge(
        "nearshare_copy_lag_bytes",
        "Bytes of contents that the copy at `site` lacks.",
        of(|lag| lag.bytes.to_string()),
    );
    page.gauge(
        "nearshare_copy_lag_seconds",
        "Age of the oldest record that the copy at `site` lacks.",
        of(|lag| lag.seconds.to_string()),
    );
    page.gauge(
        "nearshare_copy_contents_missing",
        "Contents that the copy at `site` has yet to fetch.",
        of(|lag| lag.contents.to_string()),
    );
}

/// Samples by the name of their metric.
#[derive(Default)]
struct Page(BTreeMap<String, Family>);

#[derive(Default)]
struct Family {
    /// What is said of it, with the line ends.
    head: String,
    samples: Vec<String>,
}

impl Page {
    /// Takes a text that begins every metric with a comment, as ours do.
    fn add(&mut self, text: &str) {
        let mut name = String::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let mut words = line.split(' ');
            if words.next() == Some("#") {
                name = words.nth(1).unwrap_or_default().to_owned();
                self.0.entry(name.clone()).or_default().head += &format!("{line}\n");
            } else {
                self.0.entry(name.clone()).or_default().samples.push(line.to_owned());
            }
        }
    }

    /// `samples`: labels and value. A metric without any is left out.
    fn gauge(&mut self, name: &str, help: &str, samples: Vec<(String, String)>) {
        if samples.is_empty() {
            return;
        }
        let head = format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
        let samples = samples.into_iter().map(|(labels, value)| format!("{name}{labels} {value}"));
        self.0.insert(name.to_owned(), Family { head, samples: samples.collect() });
    }

    fn text(mut self) -> String {
        let mut text = String::new();
        for family in self.0.values_mut() {
            family.samples.sort();
            text += &format!("{}{}\n\n", family.head, family.samples.join("\n"));
        }
        text
    }
}

/// `{share="docs",site="hq"}`. Names of sites and shares have nothing in them that would have to be escaped,
/// and neither has a version.
fn labels(labels: &[(&str, &str)]) -> String {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    format!("{{{}}}", labels.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_put_in_order() {
        let mut page = Page::default();
        page.add(
            "# HELP b Bees.\n# TYPE b counter\nb{x=\"2\"} 1\nb{x=\"1\"} 0\n\n# TYPE a gauge\na 5\n\n",
        );
        page.gauge("aa", "Seen.", vec![(labels(&[("share", "docs")]), "1".into())]);
        page.gauge("none", "Never seen.", Vec::new());
        let expected = "# TYPE a gauge\na 5\n\n# HELP aa Seen.\n# TYPE aa gauge\naa{share=\"docs\"} 1\n\n\
                        # HELP b Bees.\n# TYPE b counter\nb{x=\"1\"} 0\nb{x=\"2\"} 1\n\n";
        assert_eq!(page.text(), expected);
    }
}
