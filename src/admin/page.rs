//! The status as one page for a browser: no script, nothing fetched from elsewhere, renewed every
//! two seconds.

use super::words::{Report, Row};

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em;color:#222}\
h1{font-size:1.3em;padding:.5em .7em;border-radius:.3em;background:#e3f4e3}\
h1.wrong{background:#fbe3e0}\
h2{font-size:1em;margin:1.4em 0 .3em;color:#666}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;vertical-align:top;padding:.3em .7em;border-top:1px solid #ddd}\
th{width:10em;font-weight:600}\
tr.wrong{background:#fbe3e0}\
small{display:block;color:#555}";

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let class = if report.ok { "ok" } else { "wrong" };
    let verdict = escaped(&report.verdict);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"refresh\" content=\"2\"><title>nearshare: {verdict}</title>\
         <style>{STYLE}</style></head><body>\n<h1 class=\"{class}\">{verdict}</h1>\n"
    );
    for section in &report.sections {
        html += &format!("<h2>{}</h2>\n<table>\n", escaped(section.title));
        for row in &section.rows {
            html += &self::row(row);
        }
        html += "</table>\n";
    }
    html + "</body></html>\n"
}

fn row(row: &Row) -> String {
    let class = if row.wrong { " class=\"wrong\"" } else { "" };
    let more: String = row.more.iter().map(|line| format!("<small>{}</small>", escaped(line))).collect();
    format!("<tr{class}><th>{}</th><td>{}{more}</td></tr>\n", escaped(&row.name), escaped(&row.said))
}

/// Text for an element or a quoted attribute (HTML standard, section 13.3).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::words::Section;

    #[test]
    fn nothing_that_is_shown_can_become_markup() {
        let hostile = "<script>\"'&";
        let row =
            Row { name: hostile.into(), wrong: true, said: hostile.into(), more: vec![hostile.into()] };
        let sections = vec![Section { title: "links", rows: vec![row] }];
        let html = page(&Report { ok: false, verdict: hostile.into(), sections });
        assert!(!html.contains("<script"), "{html}");
        assert_eq!(html.matches("&lt;script&gt;&quot;&#39;&amp;").count(), 5);
    }
}
