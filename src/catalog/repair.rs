//! Puts a log right that a power cut left with a hole.
//!
//! The kernel writes the pages of the log in any order: of a batch that was not synced yet, the last page
//! may be on disk and one in its middle not. fjall takes a batch without an end for the end of the log,
//! but refuses to open at all when a batch has its end and not its content. All that was ever
//! synced lies before such a batch, so the log is cut there; what is cut off is kept beside it.
//!
//! The log's format is fjall's, version 3: batches of Start (tag 1), Items (2) or Clears (4), and End (3)
//! with the XXH3 hash of what is between.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: [u8; 4] = *b"FJL\x03";

/// What was done.
pub struct Cut {
    pub log: PathBuf,
    /// Bytes that were kept.
    pub at: u64,
    /// Where the bytes behind are now.
    pub aside: PathBuf,
}

/// Cuts the newest log in `dir` behind its last whole batch. The store must not be open.
pub fn cut_log(dir: &Path) -> io::Result<Option<Cut>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".jnl")?.parse().ok());
        if let Some(number) = number
            && newest.as_ref().is_none_or(|(other, _)| *other < number)
        {
            newest = Some((number, path));
        }
    }
    let Some((number, log)) = newest else { return Ok(None) };
    let at = whole_batches(&log)?;
    let aside = dir.join(format!("cut-{number}-{at}"));
    let mut file = File::options().read(true).write(true).open(&log)?;
    file.seek(SeekFrom::Start(at))?;
    let mut kept = File::create(&aside)?;
    io::copy(&mut file, &mut kept)?;
    kept.sync_all()?;
    file.set_len(at)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(Some(Cut { log, at, aside }))
}

/// Length of all batches at the log's beginning that are whole and have the hash they say.
fn whole_batches(log: &Path) -> io::Result<u64> {
    let file = File::open(log)?;
    let left = file.metadata()?.len();
    let mut reader = LogReader { reader: BufReader::new(file), at: 0, left };
    let mut good = 0;
    loop {
        match reader.batch() {
            Ok(true) => good = reader.at,
            Ok(false) => return Ok(good),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(good),
            Err(error) => return Err(error),
        }
    }
}

struct LogReader {
    reader: BufReader<File>,
    at: u64,
    left: u64,
}

impl LogReader {
    /// Whether what comes next is a whole batch.
    fn batch(&mut self) -> io::Result<bool> {
        let [tag] = self.array()?;
        let items = u32::from_le_bytes(self.array()?);
        let _seqno: [u8; 8] = self.array()?;
        if tag != START {
            return Ok(false);
        }
        let mut hasher = Xxh3::new();
        for _ in 0..items {
            let [tag] = self.array()?;
            match tag {
                ITEM => {
                    // Type, compression, keyspace (8), lengths of key, value, value as stored.
                    let head: [u8; 20] = self.array()?;
                    hasher.update(&[tag]);
                    hasher.update(&head);
                    let key = u64::from(u16::from_le_bytes([head[10], head[11]]));
                    let stored = [head[16], head[17], head[18], head[19]];
                    self.hash(key + u64::from(u32::from_le_bytes(stored)), &mut hasher)?;
                }
                CLEAR => {
                    hasher.update(&[tag]);
                    self.hash(8, &mut hasher)?;
                }
                _ => return Ok(false),
            }
        }
        let [tag] = self.array()?;
        let hash = u64::from_le_bytes(self.array()?);
        let magic: [u8; 4] = self.array()?;
        Ok(tag == END && magic == MAGIC && hash == hasher.digest())
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        self.left = self.left.saturating_sub(N as u64);
        Ok(bytes)
    }

    fn hash(&mut self, len: u64, hasher: &mut Xxh3) -> io::Result<()> {
        if len > self.left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = len;
        let mut buffer = [0; 8192];
        while rest > 0 {
            let part = &mut buffer[..rest.min(8192) as usize];
            self.reader.read_exact(part)?;
            hasher.update(part);
            rest -= part.len() as u64;
        }
        self.at += len;
        self.left -= len;
        Ok(())
    }
}
