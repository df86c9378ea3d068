//! Advice: what a reader will do with the pages that it reads.

/// The use that a reader will make of the pages that it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// Nothing is known: the cache reads ahead once it sees a stream.
    #[default]
    Normal,
    /// Reads come in no order. Nothing is read ahead.
    Random,
    /// Reads come in order. The cache reads ahead from the first one on.
    Sequential,
    /// Each byte is read once. Its pages are not kept, and displace no others. Nothing is read
    /// ahead. A reader in steps of less than a page may drop pages that others have used once.
    Once,
}
