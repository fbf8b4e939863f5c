//! Reads a multistatus answer: what is listed, and how large.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::events::Event;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Directory,
    /// Its `getcontentlength`; `u64::MAX` when there is none.
    File(u64),
}

/// By href without a slash at its end. The hrefs of the tests need no decoding.
pub fn entries(body: &[u8]) -> BTreeMap<String, Entry> {
    let mut found = BTreeMap::new();
    let mut reader = Reader::from_str(text_of(body));
    let (mut href, mut entry, mut text) = (String::new(), Entry::File(u64::MAX), String::new());
    loop {
        let event = reader
            .read_event()
            .unwrap_or_else(|error| panic!("{error} in a multistatus: {}", text_of(body)));
        match event {
            Event::Start(tag) => {
                text.clear();
                match tag.local_name().as_ref() {
                    "response" => entry = Entry::File(u64::MAX),
                    "collection" => entry = Entry::Directory,
                    _ => {}
                }
            }
            Event::Empty(tag) if tag.local_name().as_ref() == "collection" => entry = Entry::Directory,
            Event::Text(part) => text += &part,
            Event::End(tag) => match tag.local_name().as_ref() {
                "href" => href = text.trim().trim_end_matches('/').to_owned(),
                "getcontentlength" if entry != Entry::Directory => {
                    entry = Entry::File(text.trim().parse().unwrap());
                }
                "response" => {
                    found.insert(std::mem::take(&mut href), entry);
                }
                _ => {}
            },
            Event::Eof => return found,
            _ => {}
        }
    }
}

fn text_of(body: &[u8]) -> &str {
    std::str::from_utf8(body).unwrap()
}
