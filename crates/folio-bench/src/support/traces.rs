//! Makes traces of page numbers, the same each time: popular pages, scans, loops, mixtures.

use fastrand::Rng;

/// The pages that a program uses, one after the other.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) name: &'static str,
    pub(crate) pages: Vec<u32>,
}

/// Popular pages have numbers below this.
const POPULAR: u32 = 1 << 16;
/// Pages that are used once have numbers from here on.
const ONCE: u32 = 1 << 24;
/// Pages of loops have numbers from here on.
const LOOP: u32 = 1 << 20;

/// A distribution that draws page `n` with a probability in proportion to `1 / n^exponent`.
struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    fn new(exponent: f64) -> Self {
        let sums = (1..=POPULAR).scan(0.0, |sum, n| {
            *sum += f64::from(n).powf(-exponent);
            Some(*sum)
        });
        Self { sums: sums.collect() }
    }

    fn next(&self, random: &mut Rng) -> u32 {
        let at = random.f64() * self.sums[self.sums.len() - 1];
        let rank = self.sums.partition_point(|&sum| sum < at) as u32;
        // Popular pages do not lie next to each other.
        rank.wrapping_mul(40_503) % POPULAR
    }
}

fn filled(len: usize, mut more: impl FnMut(&mut Vec<u32>)) -> Vec<u32> {
    let mut pages = Vec::with_capacity(len);
    while pages.len() < len {
        more(&mut pages);
    }
    pages.truncate(len);
    pages
}

fn zipf(len: usize, exponent: f64, random: &mut Rng) -> Vec<u32> {
    let zipf = Zipf::new(exponent);
    filled(len, |pages| pages.push(zipf.next(random)))
}

/// Makes a trace of popular pages with a scan now and then. Each page of a scan is used once, in
/// `steps` steps.
fn scan(len: usize, steps: u32, random: &mut Rng) -> Vec<u32> {
    let (zipf, mut once) = (Zipf::new(0.9), ONCE);
    filled(len, |pages| {
        pages.extend((0..20_000).map(|_| zipf.next(random)));
        pages.extend((0..8192 * steps).map(|n| once + n / steps));
        once += 8192;
    })
}

/// Makes a trace of a loop over `pages` pages.
fn cycle(len: usize, pages: u32) -> Vec<u32> {
    (0..pages).cycle().take(len).collect()
}

/// Makes a trace of a window of 2000 pages that moves on; its first pages are used most.
fn drift(len: usize, random: &mut Rng) -> Vec<u32> {
    let mut first = 0;
    filled(len, |pages| {
        pages.extend((0..200).map(|_| first + (random.f64() * random.f64() * 2000.0) as u32));
        first += 20;
    })
}

/// Makes a trace of popular pages, a loop, a scan, and popular pages beside a table, in turn; then
/// other pages are popular.
fn mixed(len: usize, random: &mut Rng) -> Vec<u32> {
    let (zipf, mut once, mut first) = (Zipf::new(0.9), ONCE, 0);
    filled(len, |pages| {
        pages.extend((0..50_000).map(|_| first + zipf.next(random)));
        pages.extend((0..20_000).map(|n| LOOP + n % 6000));
        pages.extend(once..once + 10_000);
        once += 10_000;
        let either = |random: &mut Rng| {
            if random.bool() { first + zipf.next(random) } else { 2 * LOOP + random.u32(..3000) }
        };
        pages.extend((0..30_000).map(|_| either(random)));
        first += 20_000;
    })
}

/// Makes all traces, each of `len` uses, for a cache of `frames` pages.
pub(crate) fn all(len: usize, frames: u32) -> Vec<Trace> {
    let mut random = Rng::with_seed(6);
    let random = &mut random;
    vec![
        Trace { name: "zipf-0.7", pages: zipf(len, 0.7, random) },
        Trace { name: "zipf-0.9", pages: zipf(len, 0.9, random) },
        Trace { name: "zipf-1.1", pages: zipf(len, 1.1, random) },
        Trace { name: "scan", pages: scan(len, 1, random) },
        Trace { name: "scan-in-8-steps", pages: scan(len, 8, random) },
        Trace { name: "loop-1.5", pages: cycle(len, frames + frames / 2) },
        Trace { name: "loop-3", pages: cycle(len, 3 * frames) },
        Trace { name: "mixed", pages: mixed(len, random) },
        Trace { name: "drift", pages: drift(len, random) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_repeatable_and_as_long_as_asked() {
        for (one, other) in all(1000, 64).iter().zip(all(1000, 64)) {
            assert!(one.pages.len() == 1000 && one.pages == other.pages, "{}", one.name);
        }
    }
}
