//! Sources of bytes that answer late: a request is a future, and needs no thread.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use super::FileId;

/// A future on the heap, as the methods of open traits return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The identity of what a file of the cache holds: a name of any bytes in a space of names. Two
/// backings with one key share their pages.
///
/// Keys are compared in full: no collision of hashes can return the bytes of another object.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    space: &'static str,
    name: Name,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Name {
    Numbers { volume: u64, object: u64 },
    Bytes(Arc<[u8]>),
}

impl Key {
    /// Returns the key with this name. `space` names the implementation that chose the name, so
    /// that the names of different ones do not meet.
    pub fn new(space: &'static str, name: impl Into<Arc<[u8]>>) -> Self {
        Self { space, name: Name::Bytes(name.into()) }
    }

    /// Returns the space of the name.
    pub fn space(&self) -> &'static str {
        self.space
    }

    /// Returns the file id that the key was made from, if it was.
    pub(crate) fn file_id(&self) -> Option<FileId> {
        match self.name {
            Name::Numbers { volume, object } => Some(FileId { space: self.space, volume, object }),
            Name::Bytes(_) => None,
        }
    }

    /// Returns the bytes of the name. `None` for a key made from a [`FileId`].
    pub fn name(&self) -> Option<&[u8]> {
        match &self.name {
            Name::Bytes(bytes) => Some(bytes),
            Name::Numbers { .. } => None,
        }
    }
}

impl From<FileId> for Key {
    /// Returns the key of a blocking [`Backing`](super::Backing).
    fn from(FileId { space, volume, object }: FileId) -> Self {
        Self { space, name: Name::Numbers { volume, object } }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Name::Numbers { volume, object } => write!(f, "{}:{volume}:{object}", self.space),
            Name::Bytes(bytes) => write!(f, "{}:{}", self.space, bytes.escape_ascii()),
        }
    }
}

/// A value that differs if the contents of an object do: an `ETag`, a version, a size and a time.
/// The cache only compares it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Validator(Arc<[u8]>);

impl Validator {
    /// Returns a validator with these bytes. An object that never changes may use none.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// Returns its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// The length and the validator of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteVersion {
    /// The length of the whole object in bytes.
    pub len: u64,
    /// A value that differs if the contents do.
    pub validator: Validator,
}

/// The order in which requests that wait for their turn are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// After all others: what may be needed later.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before all others: footers and indexes, without which no other request can be made.
    High,
}

/// One request for a range of an object.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FillRequest {
    /// The offset of the first byte.
    pub offset: u64,
    /// The number of bytes wanted, which the buffer has room for. The object may end before.
    pub len: u64,
    /// The version that the cache has pages of, if it has any. A request can be conditional on it.
    pub expected: Option<RemoteVersion>,
    /// The urgency of the request.
    pub priority: Priority,
}

/// The requests that a backing prefers. The cache splits and joins the ranges that are missing
/// accordingly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preferences {
    /// The maximum length of a request in bytes. The default is 8 MiB.
    pub request_bytes: u64,
    /// The largest gap between two wanted ranges that is worth reading through, in bytes. While
    /// memory is short, a fourth of it is. The default is 0.
    pub gap_bytes: u64,
    /// The maximum number of requests to this backing in flight. The default is 256.
    pub in_flight: usize,
}

impl Default for Preferences {
    fn default() -> Self {
        Self { request_bytes: 8 << 20, gap_bytes: 0, in_flight: 256 }
    }
}

impl Preferences {
    /// Sets the maximum length of a request in bytes. It is rounded up to whole pages.
    #[must_use]
    pub fn request_bytes(mut self, bytes: u64) -> Self {
        self.request_bytes = bytes;
        self
    }

    /// Sets the largest gap that is worth reading through, in bytes: a fourth of it while memory is
    /// short, as the pages of gaps are evicted first.
    #[must_use]
    pub fn gap_bytes(mut self, bytes: u64) -> Self {
        self.gap_bytes = bytes;
        self
    }

    /// Sets the maximum number of requests in flight. 0 counts as 1.
    #[must_use]
    pub fn in_flight(mut self, requests: usize) -> Self {
        self.in_flight = requests;
        self
    }
}

/// The reaction to an answer that has another validator than the pages that are cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnChange {
    /// The cached pages are dropped, and readers begin anew with the new version.
    #[default]
    Restart,
    /// The reader gets an error (`ESTALE`), until the key is invalidated.
    Fail,
}

/// Memory that a request fills, in order. It never holds more than was asked for.
#[derive(Debug)]
pub struct FillBuffer<'b> {
    pieces: Vec<&'b mut [u8]>,
    /// The piece that is filled next, and the number of its bytes that are filled.
    at: (usize, usize),
    filled: usize,
    len: usize,
}

impl<'b> FillBuffer<'b> {
    pub(crate) fn new(pieces: Vec<&'b mut [u8]>) -> Self {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        Self { pieces, at: (0, 0), filled: 0, len }
    }

    /// Returns the number of bytes filled so far.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Returns the number of bytes that there is room for.
    pub fn remaining(&self) -> usize {
        self.len - self.filled
    }

    /// Copies bytes behind those that are filled. Returns the number of bytes copied, which is less
    /// than the length of `bytes` if there is no more room.
    pub fn put_slice(&mut self, mut bytes: &[u8]) -> usize {
        let before = self.filled;
        while !bytes.is_empty() {
            let room = self.chunk_mut();
            let n = room.len().min(bytes.len());
            if n == 0 {
                break;
            }
            room[..n].copy_from_slice(&bytes[..n]);
            self.advance(n);
            bytes = &bytes[n..];
        }
        self.filled - before
    }

    /// Returns the room behind the bytes that are filled, as far as it is contiguous. It is empty
    /// if there is no more. It holds the bytes of its last use, of any file.
    pub fn chunk_mut(&mut self) -> &mut [u8] {
        match self.pieces.get_mut(self.at.0) {
            Some(piece) => &mut piece[self.at.1..],
            None => &mut [],
        }
    }

    /// Counts the first `n` bytes of [`chunk_mut`](Self::chunk_mut) as filled.
    ///
    /// # Panics
    ///
    /// Panics if that chunk is shorter than `n`.
    pub fn advance(&mut self, n: usize) {
        let room = self.chunk_mut().len();
        assert!(n <= room, "advance by {n} bytes in a chunk of {room}");
        self.filled += n;
        self.at.1 += n;
        if n == room && n > 0 {
            self.at = (self.at.0 + 1, 0);
        }
    }

    /// Forgets what was filled: the next byte goes to the beginning. For a request that is made
    /// again.
    pub fn clear(&mut self) {
        (self.at, self.filled) = ((0, 0), 0);
    }
}

/// Bytes with a length that are read by ranges, from a store that answers late.
///
/// This trait is open: implement it for any store. A request is a future. It is polled by the
/// readers that wait for it, on any executor, and dropped when the last of them is. It needs no
/// thread, and holds no lock of the cache. While other requests wait for its place, one that its
/// readers do not poll is polled in the background: by the spawner, or a thread of the cache.
///
/// A request counts as one of those in flight ([`CacheBuilder::requests`]). So a backing over a
/// distant file needs that file from another cache: if all requests in flight were such, each would
/// wait for one more. A backing over a blocking file may share its cache.
///
/// [`CacheBuilder::requests`]: crate::CacheBuilder::requests
pub trait AsyncBacking: fmt::Debug + Send + Sync + 'static {
    /// Returns the identity of the bytes.
    fn key(&self) -> Key;

    /// Reads a range in one request, in order. Returns the length of the whole object and its
    /// validator: those of the version that the bytes are of.
    ///
    /// The buffer has room for [`len`](FillRequest::len) bytes, and counts those that it got. If
    /// they are fewer though the object does not end there, the cache requests the rest, at most 16
    /// times. For a range past the end the buffer gets none.
    ///
    /// An implementation that must repeat a request calls [`FillBuffer::clear`] first.
    ///
    /// # Errors
    ///
    /// Any: each reader that waits for these bytes gets it, as the source of its error.
    fn fill<'a>(
        &'a self,
        request: FillRequest,
        buffer: &'a mut FillBuffer<'_>,
    ) -> BoxFuture<'a, io::Result<RemoteVersion>>;

    /// Asks for the length and the validator, without bytes.
    ///
    /// # Errors
    ///
    /// Any: the cache returns it to its caller.
    fn version(&self) -> BoxFuture<'_, io::Result<RemoteVersion>>;

    /// Returns a number that tells its store from others of the same key space. The default is 0.
    ///
    /// Of the requests of a cache that may be in flight, those of one store leave a sixteenth to
    /// other stores: one that does not answer takes nothing from them.
    fn store(&self) -> u64 {
        0
    }

    /// Returns what the store prefers.
    fn preferences(&self) -> Preferences {
        Preferences::default()
    }

    /// Returns what happens if the object changes while pages of it are cached.
    fn on_change(&self) -> OnChange {
        OnChange::default()
    }
}

/// Runs futures in the background: requests that no reader waits for, or polls.
///
/// This trait is open. It is implemented for closures.
pub trait Spawn: Send + Sync + 'static {
    /// Has a future run to its end. It may be dropped instead: its request is cancelled then.
    fn spawn(&self, future: BoxFuture<'static, ()>);
}

impl<F: Fn(BoxFuture<'static, ()>) + Send + Sync + 'static> Spawn for F {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self(future);
    }
}

#[cfg(feature = "tokio")]
impl Spawn for tokio::runtime::Handle {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        drop(Self::spawn(self, future));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_filled_piece_by_piece() {
        let (mut first, mut second) = ([0; 3], [0; 4]);
        let mut buffer = FillBuffer::new(vec![&mut first, &mut second]);
        assert_eq!((buffer.put_slice(b"ab"), buffer.remaining()), (2, 5));
        buffer.clear();
        assert_eq!(buffer.put_slice(b"abcd"), 4);
        buffer.chunk_mut()[0] = b'e';
        buffer.advance(1);
        assert_eq!((buffer.put_slice(b"fgh"), buffer.filled()), (2, 7));
        assert!(buffer.chunk_mut().is_empty() && buffer.put_slice(b"i") == 0);
        assert_eq!((&first, &second), (b"abc", b"defg"));
    }

    #[test]
    fn keys_are_equal_if_space_and_name_are() {
        let id = FileId { space: "a", volume: 1, object: 2 };
        assert_eq!(Key::from(id), Key::from(id));
        assert_ne!(Key::from(id), Key::from(FileId { volume: 2, ..id }));
        assert_eq!(Key::new("a", *b"name"), Key::new("a", *b"name"));
        assert_ne!(Key::new("a", *b"name"), Key::new("b", *b"name"));
        assert_eq!(format!("{:?}", Key::new("s3", *b"a/\n")), "s3:a/\\n");
    }
}
