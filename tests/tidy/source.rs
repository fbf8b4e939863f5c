//! Just enough reading of Rust for the house rules: code without its comments and strings, where
//! tests and functions begin and end, which paths are named. Every position is a byte offset into
//! the file, and stays so: what is left out is blanked, not removed.

use std::ops::Range;
use std::path::PathBuf;

pub struct Source {
    /// Relative to the repository, with `/`.
    pub name: String,
    pub text: String,
    /// `text` with comments, strings and character literals blanked by spaces; same length.
    pub code: Vec<u8>,
    /// Items under `#[cfg(test)]`, and `#[test]` functions.
    pub tests: Vec<Range<usize>>,
    /// Bodies of inline modules, outermost first.
    inline_modules: Vec<Range<usize>>,
}

pub struct Function {
    pub name: String,
    /// From `fn` to the closing brace.
    pub span: Range<usize>,
}

/// A path as written (`crate::id::Seq`), groups expanded.
pub struct Named {
    pub at: usize,
    pub parts: Vec<String>,
}

impl Source {
    pub fn read(root: &std::path::Path, name: &str) -> Self {
        let path: PathBuf = root.join(name);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(name, text)
    }

    pub fn parse(name: &str, text: String) -> Self {
        let code = blank(text.as_bytes());
        let mut source =
            Self { name: name.to_owned(), text, code, tests: Vec::new(), inline_modules: Vec::new() };
        source.tests = source.find_tests();
        source.inline_modules = source.find_inline_modules();
        source
    }

    pub fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
    }

    pub fn place(&self, at: usize) -> String {
        format!("{}:{}", self.name, self.line(at))
    }

    pub fn in_test(&self, at: usize) -> bool {
        self.tests.iter().any(|test| test.contains(&at))
    }

    /// Offsets of `word` in the code, as a whole word.
    pub fn words(&self, word: &str) -> Vec<usize> {
        find_all(&self.code, word.as_bytes())
            .filter(|at| {
                let before = at.checked_sub(1).map(|i| self.code[i]);
                let after = self.code.get(at + word.len()).copied();
                !before.is_some_and(is_word) && !after.is_some_and(is_word)
            })
            .collect()
    }

    /// How many modules lead from the crate root to `at`.
    pub fn depth(&self, at: usize) -> usize {
        let file = self.name.trim_start_matches("src/").trim_end_matches(".rs");
        let parts = file.split('/').filter(|part| !matches!(*part, "lib" | "main" | "mod"));
        parts.count() + self.inline_modules.iter().filter(|module| module.contains(&at)).count()
    }

    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for at in self.words("fn") {
            let name = self.code[at + 2..].trim_ascii_start();
            let length = name.iter().take_while(|byte| is_word(**byte)).count();
            if length == 0 {
                continue; // a function pointer's type
            }
            if let Some(body) = self.body_after(at) {
                let name = String::from_utf8_lossy(&name[..length]).into_owned();
                found.push(Function { name, span: at..body.end });
            }
        }
        found
    }

    /// Modules declared with `#[cfg(test)] mod x;`, as paths without `.rs`: all they hold is tests.
    pub fn test_modules(&self) -> Vec<String> {
        let declared = self.tests.iter().filter_map(|test| {
            let item = std::str::from_utf8(&self.code[test.clone()]).ok()?;
            item.strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name)
        });
        let dir = match self.name.strip_suffix("/mod.rs") {
            Some(dir) => dir,
            None => self.name.trim_end_matches(".rs"),
        };
        declared.map(|name| format!("{dir}/{}", name.trim())).collect()
    }

    pub fn paths(&self) -> Vec<Named> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.code.len() {
            let joined = at >= 2 && &self.code[at - 2..at] == b"::";
            let begins = is_word(self.code[at]) && (at == 0 || !is_word(self.code[at - 1]));
            if begins && !joined {
                at = path(&self.code, at, &[], &mut found).max(at + 1);
            } else {
                at += 1;
            }
        }
        found
    }

    /// The next `{ ... }` after `at` that is not in parentheses, unless a `;` comes first.
    fn body_after(&self, at: usize) -> Option<Range<usize>> {
        let mut depth = 0_usize;
        for (i, byte) in self.code.iter().enumerate().skip(at) {
            match byte {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth = depth.saturating_sub(1),
                b';' if depth == 0 => return None,
                b'{' if depth == 0 => return Some(i..closing(&self.code, i)),
                _ => {}
            }
        }
        None
    }

    fn find_tests(&self) -> Vec<Range<usize>> {
        let marks = [&b"#[cfg(test)]"[..], b"#[cfg(all(test", b"#[test]", b"#[tokio::test"];
        let mut found: Vec<Range<usize>> = Vec::new();
        for mark in marks {
            for at in find_all(&self.code, mark) {
                let end = match self.body_after(at) {
                    Some(body) => body.end,
                    None => self.code[at..].iter().position(|b| *b == b';').map_or(at, |i| at + i + 1),
                };
                found.push(at..end);
            }
        }
        found
    }

    fn find_inline_modules(&self) -> Vec<Range<usize>> {
        self.words("mod").into_iter().filter_map(|at| self.body_after(at)).collect()
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

pub fn find_all<'a>(text: &'a [u8], part: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    text.windows(part.len()).enumerate().filter(move |(_, w)| *w == part).map(|(i, _)| i)
}

/// Just after the brace that closes the one at `open`.
fn closing(code: &[u8], open: usize) -> usize {
    let mut depth = 0_usize;
    for (i, byte) in code.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    code.len()
}

/// Reads one path at `at` into `found`; says where it ends.
fn path(code: &[u8], mut at: usize, before: &[String], found: &mut Vec<Named>) -> usize {
    let start = at;
    let mut parts = before.to_vec();
    loop {
        let length = code[at..].iter().take_while(|byte| is_word(**byte)).count();
        parts.push(String::from_utf8_lossy(&code[at..at + length]).into_owned());
        at += length;
        if !code[at..].starts_with(b"::") {
            break;
        }
        match code.get(at + 2) {
            Some(b'{') => return group(code, at + 3, &parts, found),
            Some(byte) if is_word(*byte) => at += 2,
            _ => break,
        }
    }
    found.push(Named { at: start, parts });
    at
}

fn group(code: &[u8], mut at: usize, before: &[String], found: &mut Vec<Named>) -> usize {
    while at < code.len() {
        match code[at] {
            b'}' => return at + 1,
            byte if is_word(byte) => {
                at = path(code, at, before, found);
                // What follows up to the comma is at most `as name`.
                while at < code.len() && !matches!(code[at], b',' | b'}') {
                    at += 1;
                }
            }
            _ => at += 1,
        }
    }
    at
}

/// Blanks comments, strings and character literals.
fn blank(text: &[u8]) -> Vec<u8> {
    let mut code = text.to_vec();
    let mut at = 0;
    while at < text.len() {
        let end = skipped(text, at);
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    code
}

/// Where the comment or literal that begins at `at` ends; `at` itself when none does.
fn skipped(text: &[u8], at: usize) -> usize {
    let rest = &text[at..];
    let after_word = at > 0 && is_word(text[at - 1]);
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + find_all(rest, b"*/").next().map_or(rest.len(), |i| i + 2);
    }
    if rest[0] == b'"' {
        return at + quoted(rest, b'"');
    }
    if !after_word && let Some(length) = raw_string(rest) {
        return at + length;
    }
    // 'a' and '\n' are characters, 'a alone is a lifetime.
    if rest[0] == b'\'' {
        let character = match rest.get(1) {
            Some(b'\\') => quoted(rest, b'\''),
            Some(first) => {
                let width = match first {
                    0xf0.. => 4,
                    0xe0.. => 3,
                    0xc0.. => 2,
                    _ => 1,
                };
                if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 0 }
            }
            None => 0,
        };
        return at + character;
    }
    at
}

/// Length of a quoted text with backslash escapes.
fn quoted(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// Length of r"..", r#".."#, br".." and the like.
fn raw_string(text: &[u8]) -> Option<usize> {
    let rest = text.strip_prefix(b"b").unwrap_or(text).strip_prefix(b"r")?;
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    let body = rest[hashes..].strip_prefix(b"\"")?;
    let mut end = b"\"".to_vec();
    end.resize(1 + hashes, b'#');
    let closes = find_all(body, &end).next()?;
    Some(text.len() - body.len() + closes + end.len())
}
