//! A cable between two sites on loopback: a TCP relay with a one-way delay and a rate, that can be
//! cut (bytes stop, nobody is told) and severed (every connection is closed). What does not fit the
//! line's queue waits at the sender, as TCP would make it; for lost packets see `lab`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub struct Cable {
    /// Where the dialling site connects to.
    pub address: SocketAddr,
    line: Arc<Line>,
}

#[derive(Clone, Copy, Default)]
pub struct Quality {
    pub one_way: Duration,
    /// Bytes per second each way; 0 is as fast as it goes.
    pub rate: u64,
    /// Longest time in the line's queue before its sender has to wait.
    pub queue: Duration,
}

struct Line {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    quality: Quality,
    cut: bool,
    ended: bool,
    /// When the line is idle again, there and back.
    free: [Instant; 2],
    live: Vec<TcpStream>,
    passed: u64,
}

impl Cable {
    pub fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(Line {
            target,
            state: Mutex::new(State {
                quality: Quality::default(),
                cut: false,
                ended: false,
                free: [Instant::now(); 2],
                live: Vec::new(),
                passed: 0,
            }),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&line);
        std::thread::spawn(move || accept(&listener, &accepting));
        Self { address, line }
    }

    pub fn set(&self, quality: Quality) {
        self.line.state.lock().unwrap().quality = quality;
    }
    /// Bytes stop, connections stay: what a dead router looks like.
    pub fn cut(&self) {
        self.line.state.lock().unwrap().cut = true;
    }
    pub fn heal(&self) {
        self.line.state.lock().unwrap().cut = false;
        self.line.changed.notify_all();
    }
    /// Closes every connection; new ones pass.
    pub fn sever(&self) {
        for stream in std::mem::take(&mut self.line.state.lock().unwrap().live) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
    /// Bytes that have passed, both ways.
    pub fn passed(&self) -> u64 {
        self.line.state.lock().unwrap().passed
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.line.state.lock().unwrap().ended = true;
        self.line.changed.notify_all();
        self.sever();
        // Wakes the accepting thread, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, line: &Arc<Line>) {
    for near in listener.incoming().flatten() {
        if line.state.lock().unwrap().ended {
            return;
        }
        let line = Arc::clone(line);
        std::thread::spawn(move || {
            if !line.pass() {
                return;
            }
            let Ok(far) = TcpStream::connect_timeout(&line.target, Duration::from_secs(5)) else {
                return;
            };
            let mut state = line.state.lock().unwrap();
            state.live.retain(|stream| stream.peer_addr().is_ok());
            for stream in [&near, &far] {
                let _ = stream.set_nodelay(true);
                state.live.extend(stream.try_clone());
            }
            drop(state);
            let pairs = [(0, near.try_clone(), far.try_clone()), (1, Ok(far), Ok(near))];
            for (way, from, to) in pairs {
                if let (Ok(from), Ok(to)) = (from, to) {
                    carry(&line, way, from, to);
                }
            }
        });
    }
}

/// One direction of one connection: a thread that reads and books the line, one that delivers.
fn carry(line: &Arc<Line>, way: usize, mut from: TcpStream, mut to: TcpStream) {
    let (send, receive): (SyncSender<(Instant, Vec<u8>)>, Receiver<_>) = sync_channel(4096);
    let reading = Arc::clone(line);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 8 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let due = reading.book(way, length);
            if send.send((due, buffer[..length].to_vec())).is_err() {
                break;
            }
        }
    });
    let writing = Arc::clone(line);
    std::thread::spawn(move || {
        for (due, bytes) in receive {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if !writing.pass() || to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

impl Line {
    /// Waits while the cable is cut; false when it is gone.
    fn pass(&self) -> bool {
        let state = self.state.lock().unwrap();
        !self.changed.wait_while(state, |state| state.cut && !state.ended).unwrap().ended
    }

    /// Takes `length` bytes' time on the line, waits while its queue is full, says when they arrive.
    fn book(&self, way: usize, length: usize) -> Instant {
        let mut state = self.state.lock().unwrap();
        let Quality { one_way, rate, queue } = state.quality;
        state.passed += length as u64;
        let now = Instant::now();
        if rate == 0 {
            return now + one_way;
        }
        let start = state.free[way].max(now);
        let end = start + Duration::from_secs_f64(length as f64 / rate as f64);
        state.free[way] = end;
        drop(state);
        let over = start.saturating_duration_since(now).saturating_sub(queue);
        std::thread::sleep(over);
        end + one_way
    }
}
