//! Measures a frame that is allocated, used and put by its only owner.
//!
//! It is put in three ways: singly, expecting to be last, and in batches.

use std::hint::black_box;
use std::io;

use folio_frames::{Arena, FolioRef, Kind, Order, UserSpace, put_all};
use folio_ref::schemes::ZeroFrozen;
use folio_ref::{DefaultScheme, Scheme};

use crate::harness::{Ask, Contender, Matrix, Report, Scenario, Shape, Unit, one_and_all};

/// The number of frames that are held at once.
const HELD: usize = 64;

/// Rounds per thread in one sample.
const ROUNDS: usize = 1_000;

const SCENARIO: &str = "64 frames";

/// The way in which the frames are put.
#[derive(Clone, Copy)]
enum End {
    Drop,
    Sole,
    Batch,
}

struct Life<S: Scheme> {
    name: &'static str,
    arena: Arena<UserSpace<S>>,
    end: End,
}

impl<S: Scheme> Contender for Life<S> {
    fn name(&self) -> String {
        self.name.to_owned()
    }
    fn work(&self, _: Scenario, _: usize) -> u64 {
        let zone = self.arena.zone();
        let mut held = Vec::with_capacity(HELD);
        for round in 0..ROUNDS {
            for _ in 0..HELD {
                let mut folio = zone.alloc_frozen(Order::ZERO).expect("a frame is free");
                folio.set_owner(Kind::owner(0), 0);
                folio.as_mut_slice()[..64].fill(round as u8);
                held.push(folio.init());
            }
            black_box(&held);
            match self.end {
                End::Drop => held.drain(..).for_each(drop),
                End::Sole => held.drain(..).for_each(FolioRef::drop_expecting_last),
                End::Batch => put_all(held.drain(..)),
            }
        }
        (ROUNDS * HELD) as u64
    }
}

fn life<S: Scheme>(name: &'static str, end: End) -> io::Result<Box<dyn Contender>> {
    Ok(Box::new(Life::<S> { name, arena: Arena::new(16 << 20, &[])?, end }))
}

/// Makes the matrix.
///
/// # Errors
///
/// The system's error if memory for the frames is not to be had.
pub(super) fn matrix() -> io::Result<Matrix<'static>> {
    let contenders = vec![
        life::<ZeroFrozen>("zero-frozen", End::Drop)?,
        life::<DefaultScheme>("drop", End::Drop)?,
        life::<DefaultScheme>("sole-owner", End::Sole)?,
        life::<DefaultScheme>("batch", End::Batch)?,
    ];
    Ok(Matrix {
        title: "Allocating, using and putting a frame",
        unit: Unit::Ns,
        per: "frame",
        scenarios: one_and_all()
            .into_iter()
            .map(|threads| Scenario { name: SCENARIO, threads })
            .collect(),
        contenders,
        compared_with: &["zero-frozen"],
        ours: "batch".to_owned(),
        shape: Shape::Bars,
    })
}

/// Runs the benchmark.
///
/// # Errors
///
/// The system's error if memory for the frames is not to be had.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    matrix()?.measure(ask)
}
