//! Short names for the types of `folio-frames`, on the platform of a process.

use folio_frames::UserSpace;

pub(crate) type Adjacent<S> = folio_frames::Adjacent<UserSpace<S>>;
pub(crate) type Arena<S> = folio_frames::Arena<UserSpace<S>>;
pub(crate) type FolioRef<S> = folio_frames::FolioRef<UserSpace<S>>;
pub(crate) type FrozenFolio<S> = folio_frames::FrozenFolio<UserSpace<S>>;
pub(crate) type FrozenSlot<'s, S> = folio_frames::FrozenSlot<'s, UserSpace<S>>;
pub(crate) type LockedSlot<'s, S> = folio_frames::LockedSlot<'s, UserSpace<S>>;
pub(crate) type Mapped<S> = folio_frames::Mapped<UserSpace<S>>;
pub(crate) type Offline<S> = folio_frames::Offline<UserSpace<S>>;
pub(crate) type Slot<S> = folio_frames::Slot<UserSpace<S>>;
pub(crate) type Zone<S> = folio_frames::Zone<UserSpace<S>>;
