//! Collecting: a gather to its end, begun anew if the object changes meanwhile.

use std::future;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use folio_ref::Scheme;

use crate::coherence::version;
use crate::read::gather::{Gather, Step, Wanted};
use crate::read::request::How;
use crate::rt::coop;
use crate::state::frames::FolioRef;
use crate::state::mapping::Mapping;

/// The number of versions that one read may meet.
const MAX_VERSIONS: u32 = 8;

/// Takes the pages of a gather.
pub(crate) trait Sink<S: Scheme> {
    /// Forgets what came: the read begins, or begins anew.
    fn begin(&mut self);

    /// Takes the next folio of a range, and the bytes of it, counted from its frame on.
    ///
    /// # Errors
    ///
    /// One that ends all ranges.
    fn push(&mut self, range: usize, folio: FolioRef<S>, bytes: Range<usize>) -> io::Result<()>;

    /// Takes the error of a range, which ends there.
    ///
    /// # Errors
    ///
    /// The error, if it ends the other ranges too.
    fn failed(&mut self, range: usize, error: io::Error) -> io::Result<()>;
}

/// Hands the pages of ranges to a sink.
///
/// # Errors
///
/// The error of the sink, `Unsupported` in a child process, and `StaleNetworkFileHandle` if the
/// object changed too often.
pub(crate) async fn gather<S: Scheme>(
    mapping: &Arc<Mapping<S>>,
    how: How,
    ranges: &[Wanted],
    sink: &mut impl Sink<S>,
) -> io::Result<()> {
    coop::passed().await;
    for versions in 0..MAX_VERSIONS {
        sink.begin();
        let mut gather = Gather::new(mapping, how, ranges);
        if versions > 0 {
            gather.check_from_the_start();
        }
        loop {
            match future::poll_fn(|context| gather.poll_next(context)).await? {
                Step::Piece(range, folio, bytes) => sink.push(range, folio, bytes)?,
                Step::Failed(range, error) => sink.failed(range, error)?,
                Step::Changed => break,
                Step::End => return Ok(()),
            }
        }
    }
    Err(version::restless(mapping))
}
