//! Stands in for `informer/src/sync.rs`: the same names, with loom deciding who goes next.
//!
//! The locks and atomics are loom's. The notifications are tokio's own, each call one step that
//! nothing comes between: tokio runs them through loom itself, so what is left to find is in the
//! order of the calls, which is ours.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use loom::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

/// `parking_lot::Mutex`, on loom.
#[derive(Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("loom ends a schedule at its first panic")
    }
}

/// `parking_lot::RwLock`, on loom.
pub(crate) struct RwLock<T>(loom::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().expect("loom ends a schedule at its first panic")
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().expect("loom ends a schedule at its first panic")
    }
}

/// `tokio::sync::Notify`; the lock around each call is where loom may let another thread go first.
pub(crate) struct Notify {
    inner: tokio::sync::Notify,
    turn: loom::sync::Mutex<()>,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self { inner: tokio::sync::Notify::new(), turn: loom::sync::Mutex::new(()) }
    }

    pub(crate) fn notify_one(&self) {
        let _turn = self.turn();
        self.inner.notify_one();
    }

    pub(crate) fn notify_waiters(&self) {
        let _turn = self.turn();
        self.inner.notify_waiters();
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        let _turn = self.turn();
        Notified { notify: self, inner: Some(Box::pin(self.inner.notified())) }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().expect("loom ends a schedule at its first panic")
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    inner: Option<Pin<Box<tokio::sync::futures::Notified<'a>>>>,
}

impl Notified<'_> {
    pub(crate) fn enable(mut self: Pin<&mut Self>) -> bool {
        let _turn = self.notify.turn();
        self.inner.as_mut().is_some_and(|inner| inner.as_mut().enable())
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let _turn = self.notify.turn();
        match &mut self.inner {
            Some(inner) => inner.as_mut().poll(context),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        let _turn = self.notify.turn();
        // Whoever leaves with a notification passes it on, which is a step like the others.
        self.inner = None;
    }
}
