//! Measures optimistic reads beside reads by a page handle, by the size of the read.
//!
//! The benchmark shows if an optimistic read is ever slower. The bytes are in the processor's
//! cache, or in none. The targets lie at the start of a page, or 16 bytes past it, where large
//! buffers of the C library lie.

use std::io;

use crate::harness::{Ask, Matrix, Report, Scenario, Shape, Unit};
use crate::support::files::Bytes;
use crate::support::reads::cached_and_pinned;

/// The scenarios, with the names of the benchmark `read`: the place, the bytes, and the distance of
/// the target past its source's place in a page.
const SCENARIOS: [&str; 16] = [
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

/// Makes the matrix, of the bytes that the benchmark `read` reads.
///
/// # Errors
///
/// The system's error if the file cannot be read.
pub(super) fn matrix(bytes: &Bytes) -> io::Result<Matrix<'_>> {
    Ok(Matrix {
        title: "Reading bytes again by size: optimistic, and by a page handle",
        unit: Unit::Ns,
        per: "read",
        scenarios: SCENARIOS.map(|name| Scenario { name, threads: 1 }).to_vec(),
        contenders: cached_and_pinned(bytes)?,
        compared_with: &["folio-pinned", "memcpy"],
        ours: "folio".to_owned(),
        shape: Shape::Bars,
    })
}

/// Runs the benchmark.
///
/// # Errors
///
/// The system's error if the bytes cannot be made or read.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let bytes = Bytes::for_reading()?;
    matrix(&bytes)?.measure(ask)
}
