//! Who does the work: tasks, threads of their own, calls that block. The rooms ask for them here and
//! nowhere else, so that a simulation can do all of it on one thread, in an order that it chooses, and
//! so that the same seed gives the same run (see `work/single.rs`). Otherwise each of these is the runtime's
//! or the standard library's.
//!
//! Not here: time (`clock`, and tokio's timers, which a runtime can pause).

#[cfg(test)]
pub mod single;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// A wait with an end looks up this often.
const PART: Duration = Duration::from_millis(5);

/// Whether all work is done on this thread.
#[cfg(not(test))]
const fn is_single() -> bool {
    false
}
#[cfg(test)]
use single::is_single;

/// A task of its own.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[cfg(test)]
    if is_single() {
        return single::spawn(future);
    }
    tokio::spawn(future)
}

/// Runs what blocks where that holds up nobody. It begins at once, and is carried out even if nobody waits
/// for it.
pub fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
    #[cfg(test)]
    if is_single() {
        return single::spawn_blocking(work);
    }
    tokio::task::spawn_blocking(work)
}

/// Waits for a future, in a [`thread`] that was begun within a runtime, or in [`blocking`].
pub fn block_on<F: Future>(future: F) -> F::Output {
    #[cfg(test)]
    if is_single() {
        return single::block_on(future);
    }
    Handle::current().block_on(future)
}

/// As [`block_on`], at most so long. Waits for nothing but the future: also where no runtime goes on.
pub fn block_on_within<F: Future>(most: Duration, future: F) -> Option<F::Output> {
    #[cfg(test)]
    if is_single() {
        return single::block_on(tokio::time::timeout(most, future)).ok();
    }
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    // How long a wait takes is no time that anybody else hears of.
    let mut left = most;
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(done);
        }
        if left.is_zero() {
            return None;
        }
        let part = left.min(PART);
        std::thread::park_timeout(part);
        left -= part;
    }
}

/// Does nothing for a while, where [`block_on`] may be called.
pub fn pause(time: Duration) {
    #[cfg(test)]
    if is_single() {
        return single::block_on(tokio::time::sleep(time));
    }
    std::thread::park_timeout(time);
}

/// Begins a thread.
pub fn thread(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    #[cfg(test)]
    if is_single() {
        return Ok(Thread::Single(single::spawn_blocking(run)));
    }
    let runtime = Handle::try_current().ok();
    let begun = std::thread::Builder::new().name(name).spawn(move || {
        let _entered = runtime.as_ref().map(Handle::enter);
        run();
    });
    begun.map(Thread::Own)
}

/// A thread that was begun.
pub enum Thread {
    Own(std::thread::JoinHandle<()>),
    #[cfg(test)]
    Single(JoinHandle<()>),
}

impl Thread {
    /// Waits until it has ended; at once if it is this thread. Fails if it panicked.
    pub fn join(self) -> std::thread::Result<()> {
        match self {
            Self::Own(thread) if thread.thread().id() == std::thread::current().id() => Ok(()),
            Self::Own(thread) => thread.join(),
            #[cfg(test)]
            Self::Single(task) => single::join(task),
        }
    }
}

/// Wakes who waits for what a mutex guards to change.
#[derive(Default)]
pub struct Bell {
    rung: Condvar,
    #[cfg(test)]
    single: tokio::sync::Notify,
}

impl Bell {
    pub fn ring(&self) {
        self.rung.notify_all();
        #[cfg(test)]
        self.single.notify_waiters();
    }

    /// Until it rings.
    pub fn wait<'a, V>(&self, mutex: &'a Mutex<V>, guard: MutexGuard<'a, V>) -> MutexGuard<'a, V> {
        #[cfg(test)]
        if is_single() {
            return single::wait(&self.single, mutex, guard, None).0;
        }
        // The mutex is asked for by the simulation only.
        let _ = mutex;
        self.rung.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Until it rings, or so much time has passed: `true`.
    pub fn wait_timeout<'a, V>(
        &self,
        mutex: &'a Mutex<V>,
        guard: MutexGuard<'a, V>,
        most: Duration,
    ) -> (MutexGuard<'a, V>, bool) {
        #[cfg(test)]
        if is_single() {
            return single::wait(&self.single, mutex, guard, Some(most));
        }
        let _ = mutex;
        let waited = self.rung.wait_timeout(guard, most).unwrap_or_else(PoisonError::into_inner);
        (waited.0, waited.1.timed_out())
    }
}

/// Where a model may take its time: other work goes first now and then.
#[cfg(test)]
pub fn linger() {
    if is_single() && single::on_stack() {
        single::linger();
    }
}

/// Random bytes that are no secret.
pub fn random(bytes: &mut [u8]) {
    #[cfg(test)]
    if is_single() {
        return single::random(bytes);
    }
    rand::RngCore::fill_bytes(&mut rand::rng(), bytes);
}

/// A number from 0 up to, not including, 1.
pub fn random_part() -> f64 {
    let mut bytes = [0; 4];
    random(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

/// Whether a commit that this thread waits for may be waited for by blocking it.
pub fn may_block() -> bool {
    !is_single()
}
