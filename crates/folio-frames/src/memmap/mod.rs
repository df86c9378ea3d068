//! Metadata: the descriptors of frames, the table of blocks, the frame numbers of all zones.

pub(crate) mod blocks;
#[expect(clippy::module_inception, reason = "the file of the type that names the folder")]
pub(crate) mod memmap;
pub(crate) mod memory_map;
pub(crate) mod numbers;
pub(crate) mod raw_count;
pub(crate) mod seeded_bugs;
pub(crate) mod uses;
