//! One clock for all relays: a timer in each would be the largest part of an idle one, and the dearest of a short one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use isthmus_lifecycle::Signal;
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The finest step.
const TICK: Duration = Duration::from_millis(250);
/// Alarms of one span share so many moments, and so ring late by at most this part of it.
const MOMENTS: u64 = 64;

/// Wakes relays at their time, and all of them when the proxy stops.
#[derive(Debug)]
pub(crate) struct Clock {
    began: Instant,
    /// Ticks that have rung.
    rung: AtomicU64,
    cut: AtomicBool,
    moments: Mutex<BTreeMap<u64, Slab<Waker>>>,
    /// An alarm was set before all others.
    earlier: Notify,
}

/// A wake-up that was asked for; dropping it takes it back.
#[derive(Debug)]
pub(super) struct Alarm<'a> {
    clock: &'a Clock,
    tick: u64,
    key: usize,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            rung: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            moments: Mutex::default(),
            earlier: Notify::new(),
        }
    }

    /// Rings until running work must end, and then for all.
    pub(crate) async fn run(&self, stop: Signal) {
        loop {
            let first = self.moments.lock().first_key_value().map(|(tick, _)| *tick);
            let due = async {
                match first {
                    Some(tick) => tokio::time::sleep_until(self.began + TICK * small(tick)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cut() => {
                    self.cut.store(true, Ordering::Relaxed);
                    return self.ring(u64::MAX);
                }
                () = due => self.ring(self.now()),
                () = self.earlier.notified() => {}
            }
        }
    }

    /// Whether running work must end.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Wakes at a time, or a little later.
    pub(super) fn set(&self, at: Instant, waker: &Waker) -> Alarm<'_> {
        let now = self.now();
        let ticks = |span: Duration| u64::try_from(span.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX);
        let tick = ticks(at.saturating_duration_since(self.began)) + 1;
        let step = (tick.saturating_sub(now) / MOMENTS).max(1);
        let tick = tick.next_multiple_of(1 << step.ilog2());
        let mut moments = self.moments.lock();
        // The ones up to here have rung; they are not rung again.
        let tick = tick.max(self.rung.load(Ordering::Relaxed) + 1);
        let is_first = moments.first_key_value().is_none_or(|(first, _)| tick < *first);
        let key = moments.entry(tick).or_default().insert(waker.clone());
        if self.is_cut() {
            waker.wake_by_ref();
        }
        drop(moments);
        if is_first {
            self.earlier.notify_one();
        }
        Alarm { clock: self, tick, key }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis() / TICK.as_millis()).unwrap_or(u64::MAX)
    }

    fn ring(&self, until: u64) {
        let mut moments = self.moments.lock();
        let later = if until == u64::MAX { BTreeMap::new() } else { moments.split_off(&(until + 1)) };
        let rung = std::mem::replace(&mut *moments, later);
        if until != u64::MAX {
            self.rung.fetch_max(until, Ordering::Relaxed);
        }
        drop(moments);
        rung.into_values().flatten().for_each(|(_, waker)| waker.wake());
    }
}

fn small(ticks: u64) -> u32 {
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

impl Alarm<'_> {
    pub(super) fn has_rung(&self) -> bool {
        self.tick <= self.clock.rung.load(Ordering::Relaxed)
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if self.has_rung() {
            return;
        }
        let mut moments = self.clock.moments.lock();
        if let Some(moment) = moments.get_mut(&self.tick) {
            let taken = moment.try_remove(self.key);
            drop(moments);
            drop(taken);
        }
    }
}
