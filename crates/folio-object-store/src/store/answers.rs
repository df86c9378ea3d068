//! Answers of which the bytes are not read yet: those to the first requests of an object, and to
//! the requests of streams. The fills of its pages take them, instead of requests of their own.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use folio_cache::{FillBuffer, Key};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;

use super::os::Result;

/// The number of bytes of an answer that are skipped rather than requested again, at most.
const SKIPPED: u64 = 1 << 20;

/// The answers under way, by the pages that they are for. Each belongs to a get under way.
#[derive(Debug, Default)]
pub(super) struct Answers {
    waiting: Mutex<HashMap<Key, Vec<Answer>>>,
    /// The number of answers, so that fills take no lock if there are none.
    len: AtomicUsize,
}

/// The bytes of a range, as the store sends them.
pub(super) struct Answer {
    /// The bytes that are not read yet.
    left: Range<u64>,
    /// The part of `left` that has arrived.
    arrived: Bytes,
    stream: BoxStream<'static, Result<Bytes>>,
    /// The get that the answer belongs to: it ends with it.
    get: Arc<Get>,
}

/// Removes the answers of a get, at its end.
#[derive(Debug)]
pub(super) struct Kept {
    answers: Arc<Answers>,
    key: Key,
    get: Arc<Get>,
}

/// A get that answers belong to.
#[derive(Debug, Default)]
struct Get {
    has_ended: AtomicBool,
}

impl Answers {
    /// Keeps the answers of a get, until the value returned is dropped.
    pub(super) fn keep(
        self: &Arc<Self>,
        key: Key,
        answers: Vec<(Range<u64>, BoxStream<'static, Result<Bytes>>)>,
    ) -> Kept {
        let get = Arc::<Get>::default();
        if !answers.is_empty() {
            self.len.fetch_add(answers.len(), SeqCst);
            let kept = answers.into_iter().map(|(left, stream)| Answer {
                left,
                arrived: Bytes::new(),
                stream,
                get: Arc::clone(&get),
            });
            self.waiting.lock().entry(key.clone()).or_default().extend(kept);
        }
        Kept { answers: Arc::clone(self), key, get }
    }

    /// Returns `true` if [`take`](Self::take) would find an answer.
    pub(super) fn has(&self, key: &Key, offset: u64) -> bool {
        self.len.load(SeqCst) > 0
            && self.waiting.lock().get(key).is_some_and(|it| it.iter().any(|it| it.is_at(offset)))
    }

    /// Takes an answer that has the byte at `offset`, or has it soon.
    pub(super) fn take(&self, key: &Key, offset: u64) -> Option<Answer> {
        if self.len.load(SeqCst) == 0 {
            return None;
        }
        let mut waiting = self.waiting.lock();
        let answers = waiting.get_mut(key)?;
        let index = answers.iter().position(|answer| answer.is_at(offset))?;
        let answer = answers.swap_remove(index);
        if answers.is_empty() {
            waiting.remove(key);
        }
        self.len.fetch_sub(1, SeqCst);
        Some(answer)
    }

    /// Puts back what is left of an answer, if its get still goes on.
    pub(super) fn put_back(&self, key: &Key, answer: Answer) {
        if answer.left.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        // Counted before the check: `remove` sets the mark before it looks at the count. So either
        // the mark is seen here, or the answer is found there.
        self.len.fetch_add(1, SeqCst);
        if answer.get.has_ended.load(SeqCst) {
            self.len.fetch_sub(1, SeqCst);
            drop(waiting);
            return; // its stream is dropped under no lock
        }
        waiting.entry(key.clone()).or_default().push(answer);
    }

    /// Removes the answers of one get.
    fn remove(&self, key: &Key, get: &Arc<Get>) {
        get.has_ended.store(true, SeqCst);
        if self.len.load(SeqCst) == 0 {
            return;
        }
        let removed: Vec<_> = {
            let mut waiting = self.waiting.lock();
            let Some(answers) = waiting.get_mut(key) else { return };
            let removed = answers.extract_if(.., |answer| Arc::ptr_eq(&answer.get, get)).collect();
            if answers.is_empty() {
                waiting.remove(key);
            }
            removed
        };
        self.len.fetch_sub(removed.len(), SeqCst);
        // Their streams are dropped here, under no lock.
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.answers.remove(&self.key, &self.get);
    }
}

impl Answer {
    fn is_at(&self, offset: u64) -> bool {
        self.left.contains(&offset) && offset - self.left.start <= SKIPPED
    }

    /// Copies bytes from `offset` to `end` into the buffer, and reports how many arrive. Returns
    /// the number copied, which is less if the answer ends before.
    pub(super) async fn copy(
        &mut self,
        offset: u64,
        end: u64,
        buffer: &mut FillBuffer<'_>,
        fetched: impl Fn(u64),
    ) -> Result<u64> {
        let mut copied = 0;
        while self.left.start < end.min(self.left.end) {
            if self.arrived.is_empty() {
                match self.stream.next().await {
                    Some(Ok(bytes)) => {
                        fetched(bytes.len() as u64);
                        self.arrived = bytes;
                        continue;
                    }
                    Some(Err(error)) => {
                        self.left = 0..0;
                        return Err(error);
                    }
                    None => {
                        self.left = 0..0;
                        break;
                    }
                }
            }
            let at = self.left.start;
            let arrived = self.arrived.len() as u64;
            let n = if at < offset {
                arrived.min(offset - at)
            } else {
                let n = arrived.min(end - at);
                let n = buffer.put_slice(&self.arrived[..n as usize]) as u64;
                copied += n;
                if n == 0 {
                    break; // no more room
                }
                n
            };
            let _ = self.arrived.split_to(n as usize);
            self.left.start += n;
        }
        Ok(copied)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use futures_util::stream;

    #[test]
    fn no_answer_outlives_its_get() {
        let (answers, key) = (Arc::<Answers>::default(), Key::new("test", *b"a"));
        let keep = || answers.keep(key.clone(), vec![(0..10, stream::empty().boxed())]);
        let left = || (answers.waiting.lock().len(), answers.len.load(SeqCst));
        drop(keep());
        assert_eq!(left(), (0, 0));
        let kept = keep();
        let answer = answers.take(&key, 5).expect("an answer");
        answers.put_back(&key, answer);
        assert_eq!(left(), (1, 1));
        // The get ends while the answer is put back.
        let answer = answers.take(&key, 5).expect("an answer");
        std::thread::scope(|scope| {
            let locked = answers.waiting.lock();
            scope.spawn(|| answers.put_back(&key, answer));
            std::thread::sleep(Duration::from_millis(50));
            drop(kept);
            drop(locked);
        });
        assert_eq!(left(), (0, 0));
    }
}
