//! Batched reads: several extents are requested at once, so that one thread keeps a disk busy.

use folio_ref::Scheme;

use crate::backing::Fill;
use crate::memory::alloc;
use crate::memory::room;
use crate::policy::Advice;
use crate::read::extent::Extent;
use crate::state::frames::FolioRef;
use crate::state::mapping::Mapping;

/// Reads the missing pages of several ranges (first page, number of pages), all requested at once.
/// `advice` is that of their readers. Returns for each range a reference to its first page if that
/// page was missing and could be read. Call with no page locked.
pub(crate) fn fill_many<S: Scheme>(
    mapping: &Mapping<S>,
    wanted: &[(u32, u32)],
    advice: Advice,
) -> Vec<Option<FolioRef<S>>> {
    if mapping.shared.is_inherited() {
        // Each range is then asked for alone, and gets its own error.
        return wanted.iter().map(|_| None).collect();
    }
    // Before the first folio is installed: see ARCHITECTURE.md, "Lock order".
    let pages = room::make_room(mapping, wanted.iter().map(|wanted| wanted.1 as usize).sum());
    let mut folios = alloc::allocate_some(&mapping.shared, pages);
    let mut extents: Vec<_> = wanted
        .iter()
        .map(|&(page, pages)| {
            let ours = folios.split_off(folios.len().saturating_sub(pages as usize));
            let mut extent = Extent::lock(mapping, page, ours);
            extent.set_readahead(1, None);
            extent.set_advice(advice);
            extent
        })
        .collect();
    let mut fills: Vec<_> = extents
        .iter_mut()
        .filter(|extent| extent.len() > 0)
        .map(|extent| Fill {
            offset: extent.offset(),
            buffers: extent.buffers().collect(),
            result: Ok(0),
        })
        .collect();
    mapping.backing().fill_all(&mut fills);
    let mut results = fills.into_iter().map(|fill| fill.result).collect::<Vec<_>>().into_iter();
    // All are published before any is used: the user of one may have to wait for memory, and must
    // hold no page lock.
    extents
        .into_iter()
        .map(|extent| {
            if extent.len() == 0 {
                return None;
            }
            if let Some(Ok(read)) = results.next() {
                return extent.publish(read);
            }
            extent.abandon();
            None
        })
        .collect()
}
