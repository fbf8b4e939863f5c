//! All work on one thread: tasks are tasks of a `LocalSet`, and what blocks runs on a stack of its own
//! that gives the thread back whenever it waits. What is to run next is decided by tokio's queue and
//! its paused clock alone, so a run depends on nothing but its seed.
//!
//! Tasks belong to a [`Group`], that of who spawned them: a site, which may be paused and killed.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};

/// What a stack may hold: debug builds use a lot.
const STACK: usize = 1 << 20;

type Stack = Coroutine<(), (), (), DefaultStack>;

thread_local! {
    static RANDOM: RefCell<Option<SmallRng>> = const { RefCell::new(None) };
    static GROUP: RefCell<Option<Arc<Group>>> = const { RefCell::new(None) };
    /// The stack that runs, and who is to be woken when it may go on.
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
    static KEY: Cell<Option<u64>> = const { Cell::new(None) };
    static DRAWN: Cell<u64> = const { Cell::new(0) };
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

#[derive(Clone)]
struct Running {
    yielder: *const Yielder<(), ()>,
    waker: Waker,
}

/// From now on this thread does all work by itself, until what this returns is dropped.
pub fn begin(seed: u64) -> Single {
    RANDOM.with(|random| *random.borrow_mut() = Some(SmallRng::seed_from_u64(seed)));
    PANICKED.set(false);
    KEY.set(Some(seed));
    DRAWN.set(0);
    Single(())
}

pub struct Single(());

impl Single {
    /// Whether some task panicked.
    pub fn panicked(&self) -> bool {
        PANICKED.get()
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        RANDOM.with(|random| *random.borrow_mut() = None);
        KEY.set(None);
    }
}

pub fn is_single() -> bool {
    RANDOM.with(|random| random.try_borrow().map_or(true, |random| random.is_some()))
}

/// How many random numbers were drawn.
pub fn drawn() -> u64 {
    DRAWN.get()
}

pub fn random(bytes: &mut [u8]) {
    DRAWN.set(DRAWN.get() + 1);
    RANDOM.with(|random| {
        random.borrow_mut().as_mut().expect("a simulation runs").fill_bytes(bytes);
    });
}

/// What the maps of this run are keyed with.
pub fn key() -> Option<u64> {
    KEY.get()
}

/// Lets some time pass, sometimes.
pub fn linger() {
    match pick(16) {
        0 => block_on(tokio::task::yield_now()),
        1 => block_on(tokio::time::sleep(Duration::from_millis(1 + pick(4)))),
        2 if pick(8) == 0 => block_on(tokio::time::sleep(Duration::from_millis(pick(100)))),
        _ => {}
    }
}

/// From 0 up to, not including, `below`.
pub fn pick(below: u64) -> u64 {
    let mut bytes = [0; 8];
    random(&mut bytes);
    u64::from_be_bytes(bytes) % below.max(1)
}

/// A site's tasks.
#[derive(Default)]
pub struct Group {
    dead: AtomicBool,
    paused: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: Vec<Waker>,
    tasks: Vec<AbortHandle>,
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// None of its tasks runs from now on.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
        let tasks = std::mem::take(&mut self.lock().tasks);
        tasks.iter().for_each(AbortHandle::abort);
    }
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
    /// Its tasks stand still; time does not.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
        if !paused {
            let waiting = std::mem::take(&mut self.lock().waiting);
            waiting.into_iter().for_each(Waker::wake);
        }
    }
    /// Runs a task in this group.
    pub fn spawn<F>(self: &Arc<Self>, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
    {
        spawn_in(Some(self.clone()), future)
    }
    fn stands_still(&self, cx: &Context<'_>) -> bool {
        if self.is_dead() {
            return true;
        }
        let paused = self.paused.load(Ordering::SeqCst);
        if paused {
            self.lock().waiting.push(cx.waker().clone());
        }
        paused
    }
}

pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    spawn_in(GROUP.with(|group| group.borrow().clone()), future)
}

fn spawn_in<F>(group: Option<Arc<Group>>, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    let task = tokio::task::spawn_local(Grouped { group: group.clone(), inner: Some(Box::pin(future)) });
    if let Some(group) = group {
        let mut inner = group.lock();
        inner.tasks.retain(|task| !task.is_finished());
        inner.tasks.push(task.abort_handle());
    }
    task
}

struct Grouped<F> {
    group: Option<Arc<Group>>,
    inner: Option<Pin<Box<F>>>,
}

/// Sets the group for as long as it lives.
struct Entered(Option<Arc<Group>>);

impl Entered {
    fn new(group: Option<Arc<Group>>) -> Self {
        Self(GROUP.with(|known| std::mem::replace(&mut *known.borrow_mut(), group)))
    }
}
impl Drop for Entered {
    fn drop(&mut self) {
        GROUP.with(|known| *known.borrow_mut() = self.0.take());
    }
}

impl<F: Future> Future for Grouped<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.group.as_ref().is_some_and(|group| group.stands_still(cx)) {
            return Poll::Pending;
        }
        let _entered = Entered::new(self.group.clone());
        let inner = self.inner.as_mut().expect("it is there until it is dropped");
        match catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(cx))) {
            Ok(polled) => polled,
            Err(panic) => {
                PANICKED.set(true);
                resume_unwind(panic)
            }
        }
    }
}

impl<F> Drop for Grouped<F> {
    fn drop(&mut self) {
        let _entered = Entered::new(self.group.clone());
        self.inner = None;
    }
}

/// A task of no site.
pub fn outside<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    spawn_in(None, future)
}

/// Runs what blocks on a stack of its own.
pub fn spawn_blocking<R: 'static>(work: impl FnOnce() -> R + 'static) -> JoinHandle<R> {
    spawn(OnStack::new(work))
}

struct OnStack<R> {
    stack: Option<Stack>,
    done: std::rc::Rc<RefCell<Option<R>>>,
}

impl<R: 'static> OnStack<R> {
    fn new(work: impl FnOnce() -> R + 'static) -> Self {
        let done = std::rc::Rc::new(RefCell::new(None));
        let result = done.clone();
        let stack = STACKS.with(|stacks| stacks.borrow_mut().pop());
        let stack = stack.unwrap_or_else(|| {
            DefaultStack::new(STACK).expect("a simulation is given up when there is no memory for it")
        });
        let run = move |yielder: &Yielder<(), ()>, ()| {
            RUNNING.with(|running| {
                if let Some(running) = running.borrow_mut().as_mut() {
                    running.yielder = std::ptr::from_ref(yielder);
                }
            });
            let made = work();
            *result.borrow_mut() = Some(made);
        };
        Self { stack: Some(Coroutine::with_stack(stack, run)), done }
    }
}

/// Where the stack's own pointer goes while it does not run.
struct Saved(*const Yielder<(), ()>);

impl<R> Future for OnStack<R> {
    type Output = R;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<R> {
        let running = Running { yielder: std::ptr::null(), waker: cx.waker().clone() };
        let outer = RUNNING.with(|known| known.borrow_mut().replace(running));
        let stack = self.stack.as_mut().expect("it is not polled again when it is done");
        let result = catch_unwind(AssertUnwindSafe(|| stack.resume(())));
        RUNNING.with(|known| *known.borrow_mut() = outer);
        match result {
            Ok(CoroutineResult::Yield(())) => Poll::Pending,
            Ok(CoroutineResult::Return(())) => {
                if let Some(stack) = self.stack.take() {
                    STACKS.with(|stacks| stacks.borrow_mut().push(stack.into_stack()));
                }
                Poll::Ready(self.done.borrow_mut().take().expect("the work has returned"))
            }
            Err(panic) => resume_unwind(panic),
        }
    }
}

impl<R> Drop for OnStack<R> {
    fn drop(&mut self) {
        // What waits on it is unwound: nobody gives it the thread any more.
        let running = Running { yielder: std::ptr::null(), waker: Waker::noop().clone() };
        let outer = RUNNING.with(|known| known.borrow_mut().replace(running));
        if let Some(mut stack) = self.stack.take() {
            if stack.started() && !stack.done() {
                stack.force_unwind();
            }
            if stack.done() {
                STACKS.with(|stacks| stacks.borrow_mut().push(stack.into_stack()));
            }
        }
        RUNNING.with(|known| *known.borrow_mut() = outer);
    }
}

/// Whether this is called on a stack of its own, which may wait.
pub fn on_stack() -> bool {
    RUNNING.with(|running| running.borrow().as_ref().is_some_and(|it| !it.yielder.is_null()))
}

/// Gives the thread back until the future is ready.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        let running = RUNNING.with(|running| running.borrow().clone());
        let running = running.expect("only what runs by `blocking` or `thread` may block");
        let mut cx = Context::from_waker(&running.waker);
        if let Poll::Ready(done) = future.as_mut().poll(&mut cx) {
            return done;
        }
        assert!(!running.yielder.is_null(), "what is being unwound may not wait");
        let saved = Saved(running.yielder);
        // SAFETY: the pointer was taken from the reference that this very stack was begun with, which
        // lives as long as the stack's function runs; and it is this stack that runs now, as
        // `RUNNING` names another one, or none, while another one runs.
        unsafe { &*saved.0 }.suspend(());
        RUNNING.with(|running| {
            if let Some(running) = running.borrow_mut().as_mut() {
                running.yielder = saved.0;
            }
        });
    }
}

pub fn wait<'a, V>(
    bell: &Notify,
    mutex: &'a Mutex<V>,
    guard: MutexGuard<'a, V>,
    most: Option<Duration>,
) -> (MutexGuard<'a, V>, bool) {
    let mut rung = pin!(bell.notified());
    rung.as_mut().enable();
    drop(guard);
    let over = match most {
        None => {
            block_on(rung);
            false
        }
        Some(most) => block_on(tokio::time::timeout(most, rung)).is_err(),
    };
    (mutex.lock().unwrap_or_else(PoisonError::into_inner), over)
}

/// Where nobody may wait it is left to itself.
pub fn join(task: JoinHandle<()>) -> std::thread::Result<()> {
    if !on_stack() {
        return Ok(());
    }
    block_on(task).map_err(|error| Box::new(error) as Box<dyn Any + Send>)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work;

    fn run<F: Future>(seed: u64, future: F) -> F::Output {
        let _single = begin(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, future)
    }

    #[test]
    fn what_blocks_gives_the_thread_back_while_it_waits() {
        let order = Arc::new(Mutex::new(Vec::new()));
        run(1, async {
            let note = |what: &'static str| {
                let order = order.clone();
                move || order.lock().unwrap().push(what)
            };
            let (early, late, between) = (note("early"), note("late"), note("between"));
            let slow = spawn_blocking(move || {
                early();
                work::pause(Duration::from_secs(2));
                late();
                7
            });
            tokio::time::sleep(Duration::from_secs(1)).await;
            between();
            assert_eq!(slow.await.unwrap(), 7);
        });
        assert_eq!(*order.lock().unwrap(), ["early", "between", "late"]);
    }

    #[test]
    fn a_killed_group_is_unwound_and_a_paused_one_stands_still() {
        struct Flag(Arc<AtomicBool>);
        impl Drop for Flag {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let (dropped, woke) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        run(1, async {
            let group = Arc::new(Group::default());
            let (flag, woken) = (Flag(dropped.clone()), woke.clone());
            group.spawn(async move {
                let _ended = spawn_blocking(move || {
                    let _flag = flag;
                    work::pause(Duration::from_secs(1));
                    woken.store(true, Ordering::SeqCst);
                    work::pause(Duration::from_secs(1000));
                });
            });
            tokio::task::yield_now().await;
            group.set_paused(true);
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(!woke.load(Ordering::SeqCst));
            group.set_paused(false);
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(woke.load(Ordering::SeqCst) && !dropped.load(Ordering::SeqCst));
            group.kill();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(dropped.load(Ordering::SeqCst));
        });
    }

    #[test]
    fn a_bell_wakes_who_waits() {
        run(1, async {
            let state = Arc::new((Mutex::new(0), work::Bell::default()));
            let waits = state.clone();
            let waiter = spawn_blocking(move || {
                let mut guard = waits.0.lock().unwrap();
                while *guard == 0 {
                    guard = waits.1.wait(&waits.0, guard);
                }
                let (guard, over) = waits.1.wait_timeout(&waits.0, guard, Duration::from_secs(1));
                (*guard, over)
            });
            tokio::task::yield_now().await;
            *state.0.lock().unwrap() = 3;
            state.1.ring();
            assert_eq!(waiter.await.unwrap(), (3, true));
        });
    }
}
