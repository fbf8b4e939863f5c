//! The promise of a commit's outcome, to be waited for by a thread or by a task.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::error::{CatalogError, Result};
use super::model::Record;
use crate::work;

/// A commit under way. It is carried out whether anyone waits for it or not.
#[must_use = "whether it was committed is known only from its outcome"]
pub struct Commit(CommitRecords);

/// A commit under way whose outcome is the records it published, in order.
#[must_use = "whether it was committed is known only from its outcome"]
pub struct CommitRecords(Arc<Slot>);

impl Commit {
    /// Blocks this thread until the outcome is known.
    pub fn wait(self) -> Result<()> {
        self.0.wait().map(drop)
    }
}

impl Future for Commit {
    type Output = Result<()>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_ok(drop)
    }
}

impl From<CommitRecords> for Commit {
    fn from(commit: CommitRecords) -> Self {
        Self(commit)
    }
}

impl CommitRecords {
    /// Blocks this thread until the outcome is known.
    pub fn wait(self) -> Result<Vec<Record>> {
        if !work::may_block() {
            return work::block_on(self);
        }
        let mut state = self.0.lock();
        loop {
            if let Some(outcome) = state.outcome.take() {
                return outcome;
            }
            state = self.0.resolved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Future for CommitRecords {
    type Output = Result<Vec<Record>>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        match state.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The other end. Dropped without an outcome, it resolves to `Closed`.
pub(super) struct Promise(Arc<Slot>);

pub(super) fn promise() -> (Promise, CommitRecords) {
    let slot = Arc::new(Slot::default());
    (Promise(slot.clone()), CommitRecords(slot))
}

impl Promise {
    pub fn resolve(self, outcome: Result<Vec<Record>>) {
        self.0.resolve(outcome);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.0.resolve(Err(CatalogError::Closed));
    }
}

#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    resolved: Condvar,
}

#[derive(Default)]
struct State {
    /// Set once; taken by whoever waits.
    outcome: Option<Result<Vec<Record>>>,
    done: bool,
    waker: Option<Waker>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn resolve(&self, outcome: Result<Vec<Record>>) {
        let waker = {
            let mut state = self.lock();
            if state.done {
                return;
            }
            state.done = true;
            state.outcome = Some(outcome);
            state.waker.take()
        };
        self.resolved.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
