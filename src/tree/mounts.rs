//! File systems mounted inside a share, as the kernel lists them: for `status`. Not here: that nothing goes
//! into them (see `look`).

use crate::id::RelPath;

/// So many are named: a host may mount one for each user.
const NAMED_MAX: usize = 16;

/// What is left out of the share whose root is at `root`, in words.
pub(super) fn left_out(root: &[u8]) -> Vec<String> {
    // The thread's own: its root path is of the same namespace.
    let points = match std::fs::read("/proc/thread-self/mountinfo") {
        Ok(mountinfo) => below(&mountinfo, root),
        Err(error) => return vec![format!("what is mounted in it, which cannot be told: {error}")],
    };
    let named = points.iter().take(NAMED_MAX);
    let named = named.map(|path| format!("{path}, where another file system is mounted"));
    let more = points.len().saturating_sub(NAMED_MAX);
    named.chain((more > 0).then(|| format!("{more} more mount points"))).collect()
}

/// The outermost mount points below `root`, in order.
fn below(mountinfo: &[u8], root: &[u8]) -> Vec<RelPath> {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    let mut points: Vec<RelPath> = mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .filter_map(|point| {
            let point = unescaped(point);
            RelPath::parse(point.strip_prefix(root)?.strip_prefix(b"/")?).ok()
        })
        .filter(|path| !path.is_root() && !path.has_ours())
        .collect();
    points.sort();
    // What is mounted over or in another one comes right behind it.
    points.dedup_by(|next, kept| next.starts_with(kept));
    points
}

/// Blanks, line ends and backslashes are a backslash and three octal digits: see proc_pid_mountinfo(5).
fn unescaped(mut field: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(field.len());
    while let Some((&byte, rest)) = field.split_first() {
        let code = rest.get(..3).filter(|_| byte == b'\\').and_then(|digits| {
            digits.iter().try_fold(0u8, |code, digit| {
                let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
                code.checked_mul(8)?.checked_add(digit)
            })
        });
        path.push(code.unwrap_or(byte));
        field = if code.is_some() { &rest[3..] } else { rest };
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        let table = [
            "/",
            "/srv",
            "/srv/www",
            "/srv/www/b\\040c",
            "/srv/www/a",
            "/srv/www/a/inner",
            "/srv/www/a",
            "/srv/www/ab",
            "/srv/www/\\134040",
            "/srv/www/.nearshare/kept",
            "/srv/wwwx/y",
            "/srv/www/a\\777",
        ];
        let lines =
            table.map(|point| format!("36 35 98:0 /mnt1 {point} rw,noatime - ext4 /dev/root rw"));
        let told = |root: &str| {
            below(lines.join("\n").as_bytes(), root.as_bytes()).iter().map(ToString::to_string).collect()
        };
        let found: Vec<String> = told("/srv/www");
        assert_eq!(found, ["/\\\\040", "/a", "/a\\\\777", "/ab", "/b c"]);
        let found: Vec<String> = told("/");
        assert_eq!(found, ["/srv"]);
        assert!(below(b"", b"/srv/www").is_empty());
    }
}
