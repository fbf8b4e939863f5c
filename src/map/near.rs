//! "Did you mean": the known name that is nearest to a mistyped one.

/// Names longer than this, in characters, are no slip of the finger and are not compared.
const COMPARED_MAX: usize = 64;
/// Fewer characters, at a name's beginning, say too little.
const BEGINNING_MIN: usize = 3;

/// The candidate that one slip per four characters, and one more, turns into `name`, or else one that
/// `name` is the beginning of. The first in the candidates' order when several are as near; `None`
/// when all are further away.
pub(super) fn nearest<'c>(
    name: &str,
    candidates: impl Iterator<Item = &'c str> + Clone,
) -> Option<&'c str> {
    let length = name.chars().count();
    if length > COMPARED_MAX {
        return None;
    }
    let limit = 1 + length / 4;
    // A character is at most four bytes: what differs by more in length is no use comparing.
    let near = candidates.clone().filter(|known| known.len().abs_diff(name.len()) <= 4 * limit);
    let distances = near.map(|known| (strsim::osa_distance(name, known), known));
    let slip =
        distances.filter(|(distance, _)| *distance <= limit).min_by_key(|(distance, _)| *distance);
    let mut begun = candidates.filter(|known| length >= BEGINNING_MIN && known.starts_with(name));
    slip.map(|(_, known)| known).or_else(|| begun.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_forgiven_and_a_guess_is_not() {
        let known = ["http", "link", "link_listen", "nfs", "zone"];
        for (typed, meant) in [
            ("zoen", Some("zone")),
            ("htp", Some("http")),
            ("links", Some("link")),
            ("link-listen", Some("link_listen")),
            ("nsf", Some("nfs")),
            ("HTTP", None),
            ("link_list", Some("link_listen")),
            ("lin", Some("link")),
            ("link_", Some("link")),
            ("link_l", Some("link")),
            ("li", None),
            ("smb", None),
            ("", None),
            (&"x".repeat(COMPARED_MAX + 1), None),
        ] {
            assert_eq!(nearest(typed, known.into_iter()), meant, "{typed}");
        }
    }
}
