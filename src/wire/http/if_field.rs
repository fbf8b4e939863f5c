//! The If field (RFC 4918 section 10.4): conditions on what is at places, and the lock tokens that a client
//! submits. Every place it names is written anew on the way out, as every site has other URLs.

use super::Refusal;
use crate::id::RelPath;

/// Lists that one field may have: clients send one for each lock that they know of near the URL.
const LISTS_MAX: usize = 64;

/// What must be so: one of the lists, and of that all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfField {
    pub lists: Vec<List>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The place that it is about, and whether that ended in a slash; the request's own if none is named.
    pub place: Option<(RelPath, bool)>,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub not: bool,
    pub state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// A lock's token, or another URI that stands for a state: without its angle brackets.
    Token(String),
    /// As it is written, with its quotes.
    Etag(String),
}

impl IfField {
    /// Reads the field. `place` says where in the share a tag leads; a list about another place is left out,
    /// as if it did not hold, for nobody here can know.
    ///
    /// # Errors
    /// What is no such field is refused, and so is one that leaves no list.
    pub fn parse(
        field: &[u8],
        mut place: impl FnMut(&str) -> Result<Option<(RelPath, bool)>, Refusal>,
    ) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(field).map_err(|_| Refusal::If("not ASCII"))?;
        let mut rest = Rest(text);
        let (mut lists, mut count) = (Vec::new(), 0);
        // The last tag. Lists without any come first or alone.
        let mut tag = None;
        while let Some(next) = rest.peek() {
            if next == '<' {
                if count > 0 && tag.is_none() {
                    return Err(Refusal::If("a mixture of lists with and without a tag"));
                }
                tag = Some(place(rest.between('<', '>')?)?);
                rest.want('(')?;
            }
            count += 1;
            if count > LISTS_MAX {
                return Err(Refusal::If("longer than 64 lists"));
            }
            let conditions = rest.list()?;
            match &tag {
                None => lists.push(List { place: None, conditions }),
                Some(Some(place)) => lists.push(List { place: Some(place.clone()), conditions }),
                Some(None) => {}
            }
        }
        match (count, lists.is_empty()) {
            (0, _) => Err(Refusal::If("empty")),
            (_, true) => Err(Refusal::IfElsewhere),
            (_, false) => Ok(Self { lists }),
        }
    }

    /// The field again; `url` writes a place.
    pub fn write(&self, mut url: impl FnMut(&RelPath, bool) -> String) -> String {
        let mut text = String::new();
        for List { place, conditions } in &self.lists {
            if !text.is_empty() {
                text.push(' ');
            }
            if let Some((path, slash)) = place {
                text += &format!("<{}> ", url(path, *slash));
            }
            text.push('(');
            for (at, Condition { not, state }) in conditions.iter().enumerate() {
                text.push_str(if at > 0 { " " } else { "" });
                text.push_str(if *not { "Not " } else { "" });
                match state {
                    State::Token(token) => text += &format!("<{token}>"),
                    State::Etag(tag) => text += &format!("[{tag}]"),
                }
            }
            text.push(')');
        }
        text
    }

    /// The tokens that the client knows of, be the list that has them true or not (RFC 4918 section 10.4.1).
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.lists.iter().flat_map(List::tokens)
    }
}

impl List {
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().filter_map(|condition| match &condition.state {
            State::Token(token) => Some(token.as_str()),
            State::Etag(_) => None,
        })
    }
}

/// What has not been read yet.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn peek(&mut self) -> Option<char> {
        self.0 = self.0.trim_start_matches([' ', '\t']);
        self.0.chars().next()
    }

    fn want(&mut self, wanted: char) -> Result<(), Refusal> {
        match self.peek() {
            Some(next) if next == wanted => Ok(()),
            _ => Err(Refusal::If("not a tag and lists in parentheses")),
        }
    }

    /// What stands between two characters, the first of which comes next. It holds no space.
    fn between(&mut self, open: char, close: char) -> Result<&'a str, Refusal> {
        let inside = self.0.strip_prefix(open).and_then(|rest| rest.split_once(close));
        match inside {
            Some((inside, rest)) if is_uri(inside) => {
                self.0 = rest;
                Ok(inside)
            }
            _ => Err(Refusal::If("without a URI between < and >")),
        }
    }

    fn list(&mut self) -> Result<Vec<Condition>, Refusal> {
        self.want('(')?;
        self.0 = &self.0[1..];
        let mut conditions = Vec::new();
        loop {
            let not = self.not();
            let state = match self.peek() {
                Some(')') if !not && !conditions.is_empty() => {
                    self.0 = &self.0[1..];
                    return Ok(conditions);
                }
                Some('<') => State::Token(self.between('<', '>')?.to_owned()),
                Some('[') => State::Etag(self.etag()?.to_owned()),
                _ => return Err(Refusal::If("without a token or an entity tag in its parentheses")),
            };
            conditions.push(Condition { not, state });
        }
    }

    fn not(&mut self) -> bool {
        self.peek();
        match self.0.split_at_checked(3) {
            Some((not, rest)) if not.eq_ignore_ascii_case("not") => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// `["..."]` or `[W/"..."]` (RFC 9110 section 8.8.3): the tag may hold a bracket.
    fn etag(&mut self) -> Result<&'a str, Refusal> {
        let wrong = Refusal::If("without an entity tag in its brackets");
        let inside = &self.0[1..];
        let opaque = inside.strip_prefix("W/").unwrap_or(inside);
        let begin = inside.len() - opaque.len();
        let Some(quoted) = opaque.strip_prefix('"') else { return Err(wrong) };
        let Some(end) = quoted.find('"') else { return Err(wrong) };
        let (tag, rest) = inside.split_at(begin + end + 2);
        let fits = tag.bytes().all(|byte| byte > b' ' && byte != 0x7f);
        match rest.strip_prefix(']') {
            Some(rest) if fits => {
                self.0 = rest;
                Ok(tag)
            }
            _ => Err(wrong),
        }
    }
}

fn is_uri(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http::judge;
    use proptest::prelude::*;

    fn read(field: &str) -> Result<IfField, Refusal> {
        IfField::parse(field.as_bytes(), |url| match url.strip_prefix("/eng") {
            Some(rest) => Ok(Some((RelPath::parse(rest.as_bytes()).unwrap(), rest.ends_with('/')))),
            None => Ok(None),
        })
    }

    #[test]
    fn what_a_field_says_is_written_with_other_urls() {
        let again = |field: &str| {
            read(field)
                .map(|is| is.write(|path, slash| format!("/x{path}{}", if slash { "/" } else { "" })))
        };
        for (field, want) in [
            ("(<urn:a>)", "(<urn:a>)"),
            (" ( <urn:a>[\"e\"] )(Not<DAV:no-lock>)", "(<urn:a> [\"e\"]) (Not <DAV:no-lock>)"),
            ("([W/\"a]b\"] NOT [\"\"])", "([W/\"a]b\"] Not [\"\"])"),
            ("</eng/a> (<urn:a>) (<urn:b>)", "</x/a> (<urn:a>) </x/a> (<urn:b>)"),
            // What lies elsewhere does not hold.
            ("</eng/d/>(<urn:a>) <http://b/c> (<urn:b>)", "</x/d/> (<urn:a>)"),
        ] {
            assert_eq!(again(field).as_deref(), Ok(want), "{field}");
        }
        let tokens = read("(<urn:a> [\"e\"]) (Not <urn:b>)").unwrap();
        assert_eq!(tokens.tokens().collect::<Vec<_>>(), ["urn:a", "urn:b"]);
    }

    #[test]
    fn what_is_no_field_is_refused() {
        for field in [
            "",
            " ",
            "()",
            "(",
            "(<urn:a>",
            "<urn:a>",
            "(urn:a)",
            "(<>)",
            "(<a b>)",
            "(<a<b>)",
            "([e])",
            "([\"e\")",
            "([\"e\"",
            "([W/])",
            "([\"e e\"])",
            "(Not)",
            "(Not Not <urn:a>)",
            "(<urn:a>) </eng/a> (<urn:b>)",
            "</eng/a>",
            "</eng/a> </eng/b> (<urn:a>)",
            "(<urn:a>) x",
            "(<urn:ä>)",
            "Nö(<urn:a>)",
        ] {
            let refused = read(field).unwrap_err();
            assert_eq!(refused.status(), 400, "{field}: {refused}");
        }
        assert_eq!(read(&"(<a>)".repeat(LISTS_MAX + 1)).unwrap_err().status(), 400);
        assert!(read(&"(<a>)".repeat(LISTS_MAX)).is_ok());
        assert_eq!(read("<http://b/c> (<urn:b>)").unwrap_err().status(), 412);
    }

    proptest! {
        #[test]
        fn no_field_is_too_strange(text in r#"(<|>|\(|\)|\[|\]|"|W/|Not| |/eng|/a|%2e|urn:a|http://files|ä){0,40}"#) {
            prop_assert_eq!(judge::if_field(text.as_bytes()), Ok(()));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(judge::if_field(&bytes), Ok(()));
        }
    }
}
