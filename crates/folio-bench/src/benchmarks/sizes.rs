//! Does a read without a reference ever lose to one that takes a page by its handle and copies from
//! there? By the size of the read, for bytes that are in the processor's cache and for bytes that
//! are in none, and for targets that lie as large buffers of the C library do: 16 bytes past the
//! begin of a page.

use std::io;

use crate::harness::{Ask, Matrix, Report, Scenario, Shape, Unit};
use crate::support::files::Bytes;
use crate::support::reads::cached_and_pinned;

/// Named as [`read`](crate::benchmarks::read)'s: bytes, and how far past its source's place in a page the
/// target lies.
const CASES: [&str; 16] = [
    "hot-64",
    "hot-256",
    "hot-512",
    "hot-1K",
    "hot-2K",
    "hot-4K",
    "hot-1K+16",
    "hot-4K+16",
    "uniform-64",
    "uniform-256",
    "uniform-512",
    "uniform-1K",
    "uniform-2K",
    "uniform-4K",
    "uniform-1K+16",
    "uniform-4K+16",
];

/// The question, of the bytes that [`read`](crate::benchmarks::read) reads.
///
/// # Errors
///
/// What the system says when the file is read.
pub(super) fn matrix(bytes: &Bytes) -> io::Result<Matrix<'_>> {
    Ok(Matrix {
        title: "Reading so many bytes again, without a reference and by a handle",
        unit: Unit::Ns,
        per: "read",
        scenarios: CASES.map(|name| Scenario { name, threads: 1 }).to_vec(),
        contenders: cached_and_pinned(bytes)?,
        compared_with: &["folio-pinned", "memcpy"],
        ours: "folio".to_owned(),
        shape: Shape::Bars,
    })
}

/// Measures it.
///
/// # Errors
///
/// As [`Bytes::new`] and [`matrix`].
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let bytes = Bytes::for_reading()?;
    Ok(matrix(&bytes)?.measure(ask))
}
