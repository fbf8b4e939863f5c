//! litmus, the test suite of WebDAV servers.

use std::process::Command;

/// What each of its tests said, in order: `suite 7. name: pass`, with warnings and reasons, and with the URL
/// that it was given left out.
pub fn litmus(url: &str) -> Vec<String> {
    // It leaves a log where it runs.
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("timeout");
    let output = command.args(["120", "litmus", "-k", url]).current_dir(dir.path()).output();
    let output = output.unwrap_or_else(|error| panic!("timeout: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = results(&text);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(said.len() > 50, "litmus (run tests/setup): {}\n{text}{errors}", output.status);
    let (authority, path) = url.trim_start_matches("http://").split_once('/').unwrap();
    said.iter().map(|line| line.replace(authority, "HOST").replace(&format!("/{path}"), "/")).collect()
}

fn results(text: &str) -> Vec<String> {
    let (mut suite, mut test, mut said) = ("", String::new(), Vec::new());
    // A test begins on its line anew when it has said something.
    for part in text.split(['\n', '\r']) {
        if let Some(name) = part.strip_prefix("-> running `") {
            suite = name.trim_end_matches("':");
            continue;
        }
        if part.starts_with("->") || part.starts_with("<-") {
            continue;
        }
        let dots = |word: &str| word.len() > 3 && word.bytes().all(|byte| byte == b'.');
        let (number, rest) = part.trim().split_once(". ").unwrap_or(("", part.trim()));
        let rest = match number.parse::<u32>() {
            Ok(number) => {
                let (name, rest) = rest.split_once([' ', '.']).unwrap_or((rest, ""));
                test = format!("{suite} {number}. {name}");
                rest
            }
            Err(_) => part,
        };
        let words: Vec<&str> = rest.trim_start_matches(['.', ' ']).split(' ').collect();
        let rest = words.into_iter().filter(|word| !dots(word)).collect::<Vec<_>>().join(" ");
        let rest = rest.trim();
        if !rest.is_empty() && !test.is_empty() {
            said.push(format!("{test}: {rest}"));
        }
    }
    said
}
