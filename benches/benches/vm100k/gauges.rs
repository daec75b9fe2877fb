//! What is measured: CPU time of the whole process, time on the wall, bytes on the heap.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Time that passed, by two clocks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    /// In user and kernel mode, by all threads.
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
}

impl Spent {
    pub(crate) fn cpu_ns_each(self, count: u64) -> f64 {
        nanoseconds(self.cpu) / as_f64(count)
    }

    /// How many of `count` things fit into a second of CPU time.
    pub(crate) fn per_cpu_second(self, count: u64) -> f64 {
        as_f64(count) / self.cpu.as_secs_f64()
    }

    pub(crate) fn per_second(self, count: u64) -> f64 {
        as_f64(count) / self.wall.as_secs_f64()
    }
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, more: Self) {
        self.cpu += more.cpu;
        self.wall += more.wall;
    }
}

/// Runs from its creation.
pub(crate) struct Stopwatch {
    cpu: Duration,
    wall: Instant,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { cpu: cpu_time(), wall: Instant::now() }
    }

    pub(crate) fn spent(&self) -> Spent {
        Spent { cpu: cpu_time().saturating_sub(self.cpu), wall: self.wall.elapsed() }
    }
}

fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

pub(crate) fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts here are below 2^52")]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}

/// Counts the bytes that are asked for, while a [`Heap`] is there: otherwise it costs a load and
/// a branch, so that times are those of the allocator beneath.
struct Counting;

static ON: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: i64) {
    if ON.load(Relaxed) {
        let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
        PEAK.fetch_max(live, Relaxed);
    }
}

fn size(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[expect(unsafe_code, reason = "there is no other way to see every allocation")]
// SAFETY: every call is passed on to `System` as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-size(layout.size()));
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(size(new_size) - size(layout.size()));
        unsafe { System.realloc(at, layout, new_size) }
    }
}

/// Bytes on the heap since its creation. There must be one at a time.
pub(crate) struct Heap {
    before: i64,
}

impl Heap {
    pub(crate) fn count() -> Self {
        let before = LIVE.load(Relaxed);
        PEAK.store(before, Relaxed);
        ON.store(true, Relaxed);
        Self { before }
    }

    pub(crate) fn live(&self) -> f64 {
        self.since(LIVE.load(Relaxed))
    }

    /// The most there was since the last call.
    pub(crate) fn peak(&self) -> f64 {
        self.since(PEAK.swap(LIVE.load(Relaxed), Relaxed))
    }

    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 bytes")]
    fn since(&self, bytes: i64) -> f64 {
        (bytes - self.before) as f64
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        ON.store(false, Relaxed);
    }
}
