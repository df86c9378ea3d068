//! The switch between the locks and atomics of the system and those that step for shuttle.
//!
//! What is held, or changed, while a page is worked on goes through here. Locks around what no other thread can come
//! between (a set of numbers, a map of names) are the system's in either case.

#[cfg(not(shuttle))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(crate) use std::sync::atomic::AtomicU64 as Length;

#[cfg(shuttle)]
pub(crate) use page_ref::stepped::AtomicU64 as Length;
#[cfg(shuttle)]
pub(crate) type Mutex<T> = lock_api::Mutex<page_frames::SteppedLock, T>;
#[cfg(shuttle)]
pub(crate) type MutexGuard<'a, T> = lock_api::MutexGuard<'a, page_frames::SteppedLock, T>;
