//! Many reads at once: one thread keeps a disk busy.

use folio_ref::Scheme;

use crate::backing::Fill;
use crate::read::extent::Extent;
use crate::state::frames::FolioRef;
use crate::state::mapping::Mapping;

impl<S: Scheme> Mapping<S> {
    /// Reads what is missing of many runs of pages (first, how many), all requested at once. The
    /// first page of each, if it was missing, and could be read. Call without a claim.
    pub(crate) fn fill_many(&self, wanted: &[(u32, u32)]) -> Vec<Option<FolioRef<S>>> {
        if self.shared.is_inherited() {
            // Each is asked for alone then, and gets its error.
            return wanted.iter().map(|_| None).collect();
        }
        // Before any is installed: see ARCHITECTURE.md, "Lock order".
        let mut folios =
            self.shared.allocate_some(wanted.iter().map(|wanted| wanted.1 as usize).sum());
        let mut extents: Vec<_> = wanted
            .iter()
            .map(|&(page, pages)| {
                let ours = folios.split_off(folios.len().saturating_sub(pages as usize));
                let mut extent = Extent::lock(self, page, ours);
                extent.set_readahead(1, None);
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
        self.backing.fill_all(&mut fills);
        let mut results = fills.into_iter().map(|fill| fill.result).collect::<Vec<_>>().into_iter();
        // All are opened before any is used: who uses one may have to wait for memory, and must
        // hold no claim.
        extents
            .into_iter()
            .map(|extent| {
                if extent.len() > 0 {
                    results.next()?.ok().and_then(|read| extent.publish(read))
                } else {
                    None
                }
            })
            .collect()
    }
}
