//! What is shown of a history that has no order: the failing call and as little else as explains it.

use std::fmt;

use super::{Call, End, Model, SHRINKING, Search, Stop};

/// Lines shown of what led to a failure.
const SHOWN: usize = 24;
/// Steps taken, in all, to find out which reads can be left out. With fewer reads there are more worlds,
/// so that most of the time would go into what cannot be left out.
const STEPS: usize = 200_000;
const STATES: usize = 6;

/// The failing call and what is near it, ready to print.
#[derive(Debug)]
pub struct Window {
    /// In the order of the calls; the failing one is marked.
    pub lines: Vec<String>,
    /// Calls of the same names that are older than the lines.
    pub omitted: usize,
    /// What may have been there when the call was answered.
    pub states: Vec<String>,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no order explains the marked answer (times in ms: called .. answered)")?;
        if self.omitted > 0 {
            writeln!(f, "   ({} older calls of these names)", self.omitted)?;
        }
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "until then possible, before calls still open: {}", self.states.join(" | "))
    }
}

/// A failure: the calls, the one that cannot have been answered, and the states before it.
pub(super) struct Failure<M: Model> {
    pub calls: Vec<Call<M::Op>>,
    pub at: usize,
    pub before: Vec<M::State>,
}

/// Leaves out all that comes after the failure, and every read without which there is still no order.
pub(super) fn smallest<M: Model>(model: &M, mut failure: Failure<M>) -> Window {
    let last = failure.calls[failure.at].last();
    let until_then = failure.calls.iter().filter(|call| call.called <= last).cloned().collect();
    let mut left = STEPS;
    if let Some(fewer) = fails(model, until_then, &mut left) {
        failure = fewer;
    }
    let mut step = failure.calls.len();
    while step > 0 {
        let mut from = 0;
        while from < failure.calls.len() && left > 0 {
            let fewer = without_reads(model, &failure.calls, from, step);
            if fewer.len() == failure.calls.len() {
                from += step;
                continue;
            }
            match fails(model, fewer, &mut left) {
                Some(fewer) => failure = fewer,
                None => from += step,
            }
        }
        step /= 2;
    }
    show(model, &failure)
}

fn fails<M: Model>(model: &M, calls: Vec<Call<M::Op>>, left: &mut usize) -> Option<Failure<M>> {
    let (found, steps) = Search::new(model, &calls, SHRINKING).run();
    // A search costs its calls at least.
    *left = left.saturating_sub(steps.max(calls.len()));
    match found {
        Err(Stop::NoWorld { at, before }) => Some(Failure { calls, at, before }),
        _ => None,
    }
}

fn without_reads<M: Model>(
    model: &M,
    calls: &[Call<M::Op>],
    from: usize,
    count: usize,
) -> Vec<Call<M::Op>> {
    let stays = |(index, call): &(usize, &Call<M::Op>)| {
        !(from..from + count).contains(index) || !model.is_read(&call.op)
    };
    calls.iter().enumerate().filter(stays).map(|(_, call)| call.clone()).collect()
}

fn show<M: Model>(model: &M, failure: &Failure<M>) -> Window {
    let Failure { calls, at, before } = failure;
    let at = *at;
    let names = model.touches(&calls[at].op);
    let mut near: Vec<usize> =
        (0..calls.len()).filter(|index| model.touches(&calls[*index].op) & names != 0).collect();
    near.sort_by_key(|index| calls[*index].called);
    let omitted = near.len().saturating_sub(SHOWN);
    // What may still take effect is never left out.
    let open = |index: &usize| *index == at || calls[*index].last() > calls[at].called;
    let (older, newer) = near.split_at(omitted);
    let shown = older.iter().filter(|index| open(index)).chain(newer);
    let lines = shown.map(|index| {
        let mark = if *index == at { ">>" } else { "  " };
        format!("{mark} {}", line(model, &calls[*index]))
    });
    let mut states: Vec<String> = before.iter().map(|state| model.show_state(state)).collect();
    states.sort();
    let more = states.len().saturating_sub(STATES);
    states.truncate(STATES);
    if more > 0 {
        states.push(format!("and {more} more"));
    }
    Window { lines: lines.collect(), omitted, states }
}

/// A call on one line: who, from when to when, what.
pub fn line<M: Model>(model: &M, call: &Call<M::Op>) -> String {
    let ms = |ns: u64| format!("{:.3}", ns as f64 / 1e6);
    let end = match call.end {
        End::Answered(at) => ms(at),
        End::Unknown { until: u64::MAX } => "?".to_owned(),
        End::Unknown { until } => format!("? (by {})", ms(until)),
    };
    let who = format!("{}/{}", call.site, call.client);
    format!("{who:<9} {:>12} .. {end:<12} {}", ms(call.called), model.show(&call.op))
}
