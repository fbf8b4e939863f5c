//! The model of a few names as one object: files with contents, and directories. One file alone is a
//! register. What is in a directory is said by the calls: a name is a number, and has no parent.

use super::{Call, Model};

/// Names are numbered by whoever makes the history; 0 to 63.
pub type Name = usize;

/// What is at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    Absent,
    Directory,
    /// `value` stands for the whole content and should be unique; `size` is in bytes.
    File {
        value: u64,
        size: u64,
    },
}

/// What a client was told about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Absent,
    /// Anything at all.
    Present,
    Directory,
    Value(u64),
    Size(u64),
}

impl Seen {
    pub fn fits(self, entry: Entry) -> bool {
        match (self, entry) {
            (Self::Absent, entry) => entry == Entry::Absent,
            (Self::Present, entry) => entry != Entry::Absent,
            (Self::Directory, entry) => entry == Entry::Directory,
            (Self::Value(seen), Entry::File { value, .. }) => seen == value,
            (Self::Size(seen), Entry::File { size, .. }) => seen == size,
            (Self::Value(_) | Self::Size(_), _) => false,
        }
    }
}

/// A call with its answer. A refusal that tells what is there (404, 405, 412) is a `Look`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put {
        name: Name,
        value: u64,
        size: u64,
    },
    /// Something was there.
    Delete {
        name: Name,
    },
    /// `from` was there; without `replace` nothing was at `to`.
    Move {
        from: Name,
        to: Name,
        replace: bool,
    },
    /// As a move, but `from` stays as it was.
    Copy {
        from: Name,
        to: Name,
        replace: bool,
    },
    /// Nothing was there.
    Mkcol {
        name: Name,
    },
    /// A directory and the names in it, each with what it becomes, the directory itself first; nothing
    /// was at the new ones.
    MoveTree {
        names: Vec<(Name, Name)>,
    },
    /// The same for a copy.
    CopyTree {
        names: Vec<(Name, Name)>,
    },
    /// A directory without any of `names`, which are all that can be in it, was there.
    Rmdir {
        name: Name,
        names: Vec<Name>,
    },
    /// Whatever was there, nothing is.
    Clear {
        name: Name,
    },
    /// `op` of something in a directory, which was there.
    Within {
        dir: Name,
        op: Box<Op>,
    },
    Look {
        name: Name,
        seen: Seen,
    },
    /// All names of a directory at one moment.
    List {
        seen: Vec<(Name, Seen)>,
    },
    /// From here on everything is as it was once, or never was: what came later is lost.
    Restore {
        entries: Vec<Entry>,
    },
}

pub struct Names {
    /// How names are shown.
    pub shown: Vec<String>,
}

impl Names {
    pub fn new<S: Into<String>>(shown: impl IntoIterator<Item = S>) -> Self {
        let shown: Vec<String> = shown.into_iter().map(Into::into).collect();
        assert!(shown.len() <= 64, "a bit each");
        Self { shown }
    }

    /// The calls on one name alone, and its model: files that are never moved and listed are objects
    /// of their own, and are searched much faster alone.
    pub fn alone(&self, name: Name, calls: &[Call<Op>]) -> (Self, Vec<Call<Op>>) {
        let calls = calls.iter().filter(|call| self.touches(&call.op) == 1 << name).map(|call| {
            let mut call = call.clone();
            match &mut call.op {
                Op::Put { name, .. }
                | Op::Delete { name }
                | Op::Mkcol { name }
                | Op::Look { name, .. } => *name = 0,
                Op::Rmdir { name, names } if names.is_empty() => *name = 0,
                Op::Clear { name } => *name = 0,
                _ => unreachable!("it touches more than one name"),
            }
            call
        });
        (Self::new([self.shown[name].clone()]), calls.collect())
    }
}

impl Model for Names {
    type State = Vec<Entry>;
    type Op = Op;

    fn start(&self) -> Vec<Entry> {
        vec![Entry::Absent; self.shown.len()]
    }

    fn apply(&self, state: &Vec<Entry>, op: &Op) -> Option<Vec<Entry>> {
        if !self.fits(state, op) {
            return None;
        }
        let mut next = state.clone();
        change(&mut next, op);
        Some(next)
    }

    fn fits(&self, state: &Vec<Entry>, op: &Op) -> bool {
        let absent = |name: &Name| state[*name] == Entry::Absent;
        let directory = |name: &Name| state[*name] == Entry::Directory;
        match op {
            Op::Put { name, .. } => !directory(name),
            Op::Delete { name } => !absent(name),
            Op::Move { from, to, replace } | Op::Copy { from, to, replace } => {
                !absent(from) && (*replace || absent(to))
            }
            Op::MoveTree { names } | Op::CopyTree { names } => {
                names.first().is_some_and(|(from, _)| directory(from))
                    && names.iter().all(|(_, to)| absent(to))
            }
            Op::Mkcol { name } => absent(name),
            Op::Rmdir { name, names } => directory(name) && names.iter().all(absent),
            Op::Clear { .. } | Op::Restore { .. } => true,
            Op::Within { dir, op } => directory(dir) && self.fits(state, op),
            Op::Look { name, seen } => seen.fits(state[*name]),
            Op::List { seen } => seen.iter().all(|(name, seen)| seen.fits(state[*name])),
        }
    }

    fn is_read(&self, op: &Op) -> bool {
        match op {
            Op::Within { op, .. } => self.is_read(op),
            op => matches!(op, Op::Look { .. } | Op::List { .. }),
        }
    }

    fn touches(&self, op: &Op) -> u64 {
        match op {
            Op::Put { name, .. }
            | Op::Delete { name }
            | Op::Mkcol { name }
            | Op::Clear { name }
            | Op::Look { name, .. } => 1 << name,
            Op::Move { from, to, .. } | Op::Copy { from, to, .. } => 1 << from | 1 << to,
            Op::MoveTree { names } | Op::CopyTree { names } => {
                names.iter().fold(0, |bits, (from, to)| bits | 1 << from | 1 << to)
            }
            Op::Rmdir { name, names } => names.iter().fold(1 << name, |bits, name| bits | 1 << name),
            Op::Within { dir, op } => 1 << dir | self.touches(op),
            Op::List { seen } => seen.iter().fold(0, |bits, (name, _)| bits | 1 << name),
            Op::Restore { entries } => (0..entries.len()).fold(0, |bits, name| bits | 1 << name),
        }
    }

    fn show(&self, op: &Op) -> String {
        let name = |name: &Name| &self.shown[*name];
        match op {
            Op::Put { name: to, value, .. } => format!("PUT {} = v{value}", name(to)),
            Op::Delete { name: of } => format!("DELETE {}", name(of)),
            Op::Move { from, to, replace: true } => format!("MOVE {} to {}", name(from), name(to)),
            Op::Move { from, to, .. } => format!("MOVE {} to {}, if free", name(from), name(to)),
            Op::Copy { from, to, replace } => {
                let free = if *replace { "" } else { ", if free" };
                format!("COPY {} to {}{free}", name(from), name(to))
            }
            Op::Mkcol { name: of } => format!("MKCOL {}", name(of)),
            Op::CopyTree { names } => {
                let each = names.iter().map(|(from, to)| format!("{} to {}", name(from), name(to)));
                format!("COPY {}", each.collect::<Vec<_>>().join(", "))
            }
            Op::MoveTree { names } => {
                let each = names.iter().map(|(from, to)| format!("{} to {}", name(from), name(to)));
                format!("MOVE {}", each.collect::<Vec<_>>().join(", "))
            }
            Op::Rmdir { name: of, .. } => format!("DELETE {} when empty", name(of)),
            Op::Clear { name: of } => format!("DELETE {} if there", name(of)),
            Op::Within { op, .. } => self.show(op),
            Op::Look { name: of, seen } => format!("sees {} {}", name(of), show(*seen)),
            Op::List { seen } => {
                let each: Vec<String> =
                    seen.iter().map(|(of, seen)| format!("{} {}", name(of), show(*seen))).collect();
                format!("lists {}", each.join(", "))
            }
            Op::Restore { entries } => format!("all is {}", self.show_state(entries)),
        }
    }

    fn show_state(&self, state: &Vec<Entry>) -> String {
        let each = state.iter().enumerate().filter_map(|(name, entry)| match entry {
            Entry::Absent => None,
            Entry::Directory => Some(format!("{}/", self.shown[name])),
            Entry::File { value, .. } => Some(format!("{} = v{value}", self.shown[name])),
        });
        let text = each.collect::<Vec<_>>().join(", ");
        if text.is_empty() { "nothing there".to_owned() } else { text }
    }
}

fn change(state: &mut [Entry], op: &Op) {
    match op {
        Op::Put { name, value, size } => state[*name] = Entry::File { value: *value, size: *size },
        Op::Delete { name } | Op::Rmdir { name, .. } | Op::Clear { name } => {
            state[*name] = Entry::Absent
        }
        Op::Move { from, to, .. } => {
            let moved = std::mem::replace(&mut state[*from], Entry::Absent);
            state[*to] = moved;
        }
        Op::MoveTree { names } => {
            for (from, to) in names {
                state[*to] = std::mem::replace(&mut state[*from], Entry::Absent);
            }
        }
        Op::Copy { from, to, .. } => state[*to] = state[*from],
        Op::CopyTree { names } => {
            for (from, to) in names {
                state[*to] = state[*from];
            }
        }
        Op::Mkcol { name } => state[*name] = Entry::Directory,
        Op::Within { op, .. } => change(state, op),
        Op::Restore { entries } => state.copy_from_slice(entries),
        Op::Look { .. } | Op::List { .. } => {}
    }
}

fn show(seen: Seen) -> String {
    match seen {
        Seen::Absent => "absent".to_owned(),
        Seen::Present => "there".to_owned(),
        Seen::Directory => "as a directory".to_owned(),
        Seen::Value(value) => format!("= v{value}"),
        Seen::Size(size) => format!("of {size} bytes"),
    }
}
