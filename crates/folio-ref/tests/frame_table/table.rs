//! A table of typed frames over the scheme `Tagged`: each frame is unused, being built, unique or
//! shared, and one word says which. There is no second atomic.
//!
//! | state | the word | the frame's metadata |
//! | --- | --- | --- |
//! | unused | frozen under [`UNUSED`] | none |
//! | being built, or taken apart | frozen, with an exclusive handle | written by its holder |
//! | unique | frozen under [`UNIQUE`] | written by the owner of [`Unique`] |
//! | shared | live | read by each [`Shared`] |
//!
//! A room of unsafe code: a cell for the metadata. Each access names the state that allows it. The
//! seeded bugs of the table stand here, behind `broken!("NAME")`.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;

use folio_ref::schemes::Tagged;
use folio_ref::{Detached, Frozen, PageRef, Snapshot, Tag, broken};

use crate::cell::UnsafeCell;

/// The frame has no metadata and no owner: any thread may claim it.
pub(crate) const UNUSED: Tag = Tag::new(0);
/// The frame has one owner, which claims it again before it changes its state.
pub(crate) const UNIQUE: Tag = Tag::new(1);

/// The metadata of a frame in use.
pub(crate) enum Metadata {
    PageTable(PageTable),
    UserPage(UserPage),
}

/// A frame that holds a page table.
pub(crate) struct PageTable {
    pub(crate) level: u32,
}

/// A frame that is mapped into a process.
pub(crate) struct UserPage {
    pub(crate) owner: u32,
}

/// A type of metadata.
pub(crate) trait Kind: Sized + 'static {
    fn of(metadata: &Metadata) -> Option<&Self>;
    fn of_mut(metadata: &mut Metadata) -> Option<&mut Self>;
    fn into_metadata(self) -> Metadata;
}

macro_rules! kinds {
    ($($kind:ident)*) => { $(
        impl Kind for $kind {
            fn of(metadata: &Metadata) -> Option<&Self> {
                if let Metadata::$kind(it) = metadata { Some(it) } else { None }
            }
            fn of_mut(metadata: &mut Metadata) -> Option<&mut Self> {
                if let Metadata::$kind(it) = metadata { Some(it) } else { None }
            }
            fn into_metadata(self) -> Metadata {
                Metadata::$kind(self)
            }
        }
    )* };
}

kinds!(PageTable UserPage);

/// The reason why a lookup or a claim got no frame. The frame may be in another state by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unused,
    BeingBuilt,
    Unique,
    Shared,
    OtherKind,
    Leaked,
}

impl Refusal {
    fn of(state: Snapshot) -> Self {
        match state {
            Snapshot::Live(_) | Snapshot::Dying => Self::Shared,
            Snapshot::Frozen { .. } => Self::BeingBuilt,
            Snapshot::Tagged { tag: UNUSED, .. } => Self::Unused,
            Snapshot::Tagged { .. } => Self::Unique,
            Snapshot::Saturated => Self::Leaked,
        }
    }
}

struct Frame {
    word: PageRef<Tagged>,
    metadata: UnsafeCell<Option<Metadata>>,
}

// SAFETY: the word decides which thread may access the metadata; see the table above.
unsafe impl Sync for Frame {}
// SAFETY: nothing in a frame belongs to a thread.
unsafe impl Send for Frame {}

impl Frame {
    /// Writes the metadata, for the holder of the exclusive handle.
    fn set(&self, _: &Frozen<'_, Tagged>, metadata: Option<Metadata>) -> Option<Metadata> {
        // SAFETY: the handle is the only one (R3), and no reference exists while it does (R1).
        self.metadata.with_mut(|now| unsafe { std::mem::replace(&mut *now, metadata) })
    }
}

/// The frames.
pub(crate) struct Table {
    frames: Vec<Frame>,
}

impl Table {
    pub(crate) fn new(frames: usize) -> Self {
        let unused = || Frame { word: PageRef::frozen(), metadata: UnsafeCell::new(None) };
        Self { frames: (0..frames).map(|_| unused()).collect() }
    }

    /// Claims an unused frame. Its metadata is built, and it is unique.
    pub(crate) fn claim<K: Kind>(
        &self,
        frame: usize,
        metadata: K,
    ) -> Result<Unique<'_, K>, Refusal> {
        let frame = &self.frames[frame];
        let handle = frame.begin()?;
        frame.set(&handle, Some(metadata.into_metadata()));
        handle.leave_frozen_as(UNIQUE);
        Ok(Unique { frame, kind: PhantomData })
    }

    /// Claims an unused frame. Its metadata is built, and it is shared.
    pub(crate) fn claim_shared<K: Kind>(
        &self,
        frame: usize,
        metadata: K,
    ) -> Result<Shared<'_, K>, Refusal> {
        let frame = &self.frames[frame];
        let handle = frame.begin()?;
        if broken!("table-opens-early") {
            // The seeded bug: a lookup may read what is being built.
            handle.init();
            // SAFETY: none, on purpose.
            frame.metadata.with_mut(|now| unsafe { *now = Some(metadata.into_metadata()) });
            return Ok(Shared { frame, kind: PhantomData });
        }
        frame.set(&handle, Some(metadata.into_metadata()));
        handle.init();
        Ok(Shared { frame, kind: PhantomData })
    }

    /// Takes a reference to a shared frame of a kind.
    pub(crate) fn lookup<K: Kind>(&self, frame: usize) -> Result<Shared<'_, K>, Refusal> {
        let frame = &self.frames[frame];
        if frame.word.try_get_unless_frozen(1).is_err() {
            return Err(Refusal::of(frame.word.snapshot()));
        }
        let found = Shared::<K> { frame, kind: PhantomData };
        // R8: the frame may have become another one before it was pinned.
        let is_checked = !broken!("table-kind-not-checked");
        if is_checked && found.read(|metadata| K::of(metadata).is_none()) {
            return Err(Refusal::OtherKind);
        }
        Ok(found)
    }

    /// Returns a reference that was forgotten, as the entry of a page table holds it.
    pub(crate) fn restore<K: Kind>(&self, frame: usize) -> Shared<'_, K> {
        Shared { frame: &self.frames[frame], kind: PhantomData }
    }

    /// Returns the state of a frame, as a lookup would be refused by it.
    pub(crate) fn state(&self, frame: usize) -> Refusal {
        Refusal::of(self.frames[frame].word.snapshot())
    }
}

impl Frame {
    /// Claims the frame if it is unused: it is being built.
    fn begin(&self) -> Result<Frozen<'_, Tagged>, Refusal> {
        if broken!("table-claims-by-look") {
            // The seeded bug: two threads may see the same unused frame.
            return match Refusal::of(self.word.snapshot()) {
                Refusal::Unused => Ok(self.word.take_frozen()),
                other => Err(other),
            };
        }
        self.word.try_claim(UNUSED).map_err(|busy| Refusal::of(busy.found))
    }

    /// Takes the frame apart and leaves it unused, for its last owner. R4: by the kind that it has
    /// now. The last reference may be that of a lookup which wanted another kind.
    fn end(&self, handle: Frozen<'_, Tagged>) {
        self.set(&handle, None).expect("a frame in use has metadata");
        handle.leave_frozen_as(UNUSED);
    }
}

/// A frame with one owner.
pub(crate) struct Unique<'a, K: Kind> {
    frame: &'a Frame,
    kind: PhantomData<K>,
}

impl<'a, K: Kind> Unique<'a, K> {
    /// Reads and writes the metadata.
    pub(crate) fn change<T>(&mut self, change: impl FnOnce(&mut K) -> T) -> T {
        // SAFETY: no other thread claims this tag, and a lookup is refused (R1).
        let metadata = |now: *mut Option<Metadata>| unsafe { (*now).as_mut() };
        self.frame.metadata.with_mut(|now| {
            let kind = metadata(now).and_then(K::of_mut).expect("of the kind that it was built as");
            change(kind)
        })
    }

    /// Opens the frame for lookups. The result is its first reference.
    #[cfg(not(loom))]
    pub(crate) fn share(self) -> Shared<'a, K> {
        let this = ManuallyDrop::new(self);
        this.control().init();
        Shared { frame: this.frame, kind: PhantomData }
    }

    /// Takes the exclusive handle of the owner's frame.
    fn control(&self) -> Frozen<'a, Tagged> {
        self.frame.word.try_claim(UNIQUE).expect("a unique frame has no other owner")
    }
}

impl<K: Kind> Drop for Unique<'_, K> {
    fn drop(&mut self) {
        self.frame.end(self.control());
    }
}

impl<K: Kind> fmt::Debug for Unique<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unique frame, {:?}", self.frame.word)
    }
}

/// A reference to a shared frame.
pub(crate) struct Shared<'a, K: Kind> {
    frame: &'a Frame,
    kind: PhantomData<K>,
}

impl<'a, K: Kind> Shared<'a, K> {
    /// Reads the metadata.
    pub(crate) fn get<T>(&self, read: impl FnOnce(&K) -> T) -> T {
        self.read(|metadata| read(K::of(metadata).expect("the kind of the frame (R8)")))
    }

    fn read<T>(&self, read: impl FnOnce(&Metadata) -> T) -> T {
        // SAFETY: a live frame has no exclusive handle, so nothing writes (R3).
        let metadata = |now: *const Option<Metadata>| unsafe { (*now).as_ref() };
        self.frame.metadata.with(|now| read(metadata(now).expect("a live frame has metadata")))
    }

    /// Makes the frame unique if this is the only reference.
    pub(crate) fn into_unique(self) -> Result<Unique<'a, K>, Self> {
        let frame = self.frame;
        if broken!("table-unique-by-look") {
            // The seeded bug: a look neither excludes a lookup nor sees how the last reader ended.
            let is_sole = frame.word.snapshot() == Snapshot::Live(1);
            let this = ManuallyDrop::new(self);
            return if is_sole {
                Ok(Unique { frame, kind: PhantomData })
            } else {
                Err(ManuallyDrop::into_inner(this))
            };
        }
        match frame.word.freeze(1).map(Frozen::detach) {
            Ok(control) => Ok(self.become_unique(control)),
            Err(_) => Err(self),
        }
    }

    /// The reference was consumed by the freeze.
    fn become_unique(self, control: Detached<Tagged>) -> Unique<'a, K> {
        let this = ManuallyDrop::new(self);
        this.frame.word.attach(control).leave_frozen_as(UNIQUE);
        Unique { frame: this.frame, kind: PhantomData }
    }
}

impl<K: Kind> Clone for Shared<'_, K> {
    fn clone(&self) -> Self {
        self.frame.word.get(1);
        Self { frame: self.frame, kind: PhantomData }
    }
}

impl<K: Kind> Drop for Shared<'_, K> {
    fn drop(&mut self) {
        if broken!("table-ends-early") && self.frame.word.snapshot() == Snapshot::Live(1) {
            // The seeded bug: a lookup may still come before the put.
            let poison = PageTable { level: 0 }.into_metadata();
            // SAFETY: none, on purpose.
            self.frame.metadata.with_mut(|now| unsafe { *now = Some(poison) });
        }
        if let Some(handle) = self.frame.word.put() {
            self.frame.end(handle);
        }
    }
}

impl<K: Kind> fmt::Debug for Shared<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shared frame, {:?}", self.frame.word)
    }
}
