//! Handles and output pointers, which all libraries' interfaces use.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A handle as the caller holds it: an opaque number that is never dereferenced.
pub(crate) type Handle = usize;

/// An output pointer of a function, which may be null.
pub(crate) type Out<'a, T> = Option<&'a mut MaybeUninit<T>>;

/// Writes the result, or returns `error` if the pointer is null.
pub(crate) fn put<T, E>(out: Out<'_, T>, value: T, error: E) -> Result<(), E> {
    out.ok_or(error)?.write(value);
    Ok(())
}

/// The objects of one kind, by handle. A handle is a number that is never dereferenced and never reused.
#[derive(Debug)]
pub(crate) struct Table<T>(Mutex<BTreeMap<usize, T>>);

static NEXT: AtomicUsize = AtomicUsize::new(0x7000_0000);

impl<T: Clone> Table<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub(crate) fn insert(&self, object: T) -> usize {
        let handle = NEXT.fetch_add(0x10, Ordering::Relaxed);
        self.lock().insert(handle, object);
        handle
    }

    pub(crate) fn get(&self, handle: usize) -> Option<T> {
        self.lock().get(&handle).cloned()
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn set(&self, handle: usize, object: T) -> Option<()> {
        self.lock().get_mut(&handle).map(|old| *old = object)
    }

    pub(crate) fn remove(&self, handle: usize) -> Option<T> {
        self.lock().remove(&handle)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
