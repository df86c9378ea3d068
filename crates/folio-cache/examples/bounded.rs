//! The memory of a cache of 256 MiB, whatever is opened and touched.
//!
//! `cargo run --release -p folio-cache --example bounded -- FOLDER` opens a million files of one
//! page and keeps them open. Then it reads a sparse file of 16 TiB a million times at random,
//! beside a hot set of 64 MiB. It prints what it finds, and draws the resident memory over time
//! into FOLDER.

use std::fmt::Write as _;
use std::io::{self, IoSliceMut};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use folio_cache::{Backing, Cache, File, FileId, Version};

const CAPACITY: usize = 256 << 20;
const MIB: f64 = (1 << 20) as f64;
const PAGE: u64 = 4096;

/// A file of any length, of zeroes and its number.
#[derive(Debug)]
struct Numbered {
    object: u64,
    len: u64,
}

impl Backing for Numbered {
    fn file_id(&self) -> FileId {
        FileId { space: "bounded", volume: 0, object: self.object }
    }

    fn version(&self) -> io::Result<Version> {
        Ok(Version { len: self.len, change_token: [0; 4] })
    }

    fn fill(&self, _: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        for buffer in buffers.iter_mut() {
            buffer.fill(self.object as u8);
        }
        Ok(buffers.iter().map(|buffer| buffer.len()).sum())
    }
}

fn open(cache: &Cache, object: u64, len: u64) -> io::Result<File> {
    cache.open_backing(Arc::new(Numbered { object, len }))
}

/// The memory at one moment, in MiB.
struct Sample {
    done: usize,
    resident: f64,
    pages: f64,
    index: f64,
    files: f64,
}

/// Samples of one run, with the resident memory before its cache was made.
struct Run<'c> {
    cache: &'c Cache,
    before: f64,
    samples: Vec<Sample>,
}

fn resident() -> io::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| io::Error::other(format!("no resident pages in {text:?}")))?;
    Ok((pages * PAGE) as f64 / MIB)
}

impl Run<'_> {
    fn sample(&mut self, done: usize) -> io::Result<()> {
        let zone = self.cache.frames().zone().stats();
        self.samples.push(Sample {
            done,
            resident: resident()? - self.before,
            pages: f64::from(zone.online_frames - zone.free_frames) * PAGE as f64 / MIB,
            index: self.cache.index_bytes() as f64 / MIB,
            files: self.cache.file_bytes() as f64 / MIB,
        });
        Ok(())
    }

    fn report(&self, name: &str) {
        let last = self.samples.last().expect("there is a sample");
        let most = |of: fn(&Sample) -> f64| self.samples.iter().map(of).fold(0.0, f64::max);
        println!(
            "{name}: resident {:.1} MiB at the end, {:.1} at most; pages {:.1}; files {:.1}; index \
             {:.1}, {:.1} at most",
            last.resident,
            most(|sample| sample.resident),
            last.pages,
            last.files,
            last.index,
            most(|sample| sample.index),
        );
    }
}

/// Opens files of one page, and keeps them open. Their backings, and the room for the handles, are
/// made before: they are the caller's.
fn files(count: usize) -> io::Result<Vec<Sample>> {
    let backings: Vec<Arc<dyn Backing>> = (0..count as u64)
        .map(|object| Arc::new(Numbered { object, len: PAGE }) as Arc<dyn Backing>)
        .collect();
    let mut open_files: Vec<Option<File>> = Vec::new();
    open_files.resize_with(count, || None);
    let before = resident()?;
    let cache: Cache = Cache::new(CAPACITY)?;
    let mut run = Run { cache: &cache, before, samples: Vec::new() };
    let start = Instant::now();
    for (n, (backing, kept)) in backings.iter().zip(&mut open_files).enumerate() {
        let file = cache.open_backing(Arc::clone(backing))?;
        let mut byte = [0];
        file.read_at(&mut byte, PAGE - 1)?;
        assert_eq!(byte, [n as u8]);
        *kept = Some(file);
        if n % (count / 200) == 0 {
            run.sample(n)?;
        }
    }
    run.sample(count)?;
    run.report("a million files of one page");
    println!("{:.2} us for each, to open it and to read it", us_each(start, count));
    let samples = run.samples;
    drop(open_files);
    cache.quiesce();
    println!("files after their close: {} bytes", cache.file_bytes());
    Ok(samples)
}

fn us_each(start: Instant, count: usize) -> f64 {
    start.elapsed().as_secs_f64() * 1e6 / count as f64
}

/// Reads the hot set at random, and the whole file if `touch`. Returns the hit ratio of the hot
/// set, and the samples.
fn sparse(count: usize, touch: bool) -> io::Result<(f64, Vec<Sample>)> {
    const HOT: u64 = 64 << 20;
    const LEN: u64 = 16 << 40;
    let before = resident()?;
    let cache: Cache = Cache::new(CAPACITY)?;
    let mut run = Run { cache: &cache, before, samples: Vec::new() };
    let file = open(&cache, 7, LEN)?;
    let mut random = fastrand::Rng::with_seed(1);
    let (mut hot_misses, mut buf) = (0, [0; 64]);
    for _ in 0..4 {
        for page in 0..HOT / PAGE {
            file.read_at(&mut buf, page * PAGE)?;
        }
    }
    let start = Instant::now();
    for n in 0..count {
        if touch {
            file.read_at(&mut buf, random.u64(..LEN / PAGE) * PAGE)?;
        }
        let before = cache.stats().misses;
        file.read_at(&mut buf, random.u64(..HOT / PAGE) * PAGE)?;
        hot_misses += cache.stats().misses - before;
        if n % (count / 200) == 0 {
            run.sample(n)?;
        }
    }
    run.sample(count)?;
    let ratio = 1.0 - hot_misses as f64 / count as f64;
    let name = if touch { "beside random reads of 16 TiB" } else { "alone" };
    run.report(&format!("a hot set of 64 MiB {name}"));
    let uncached = cache.stats().uncached;
    println!(
        "hit ratio of the hot set {ratio:.4}; {uncached} pages were read without the cache; \
         {:.2} us for each step",
        us_each(start, count)
    );
    Ok((ratio, run.samples))
}

/// Draws the samples as lines.
fn draw(path: &Path, title: &str, what: &str, samples: &[Sample]) -> io::Result<()> {
    type Line = (&'static str, &'static str, fn(&Sample) -> f64);
    const WIDTH: f64 = 760.0;
    const HEIGHT: f64 = 300.0;
    const LEFT: f64 = 60.0;
    const TOP: f64 = 40.0;
    let lines: [Line; 4] = [
        ("resident", "#0072b2", |sample| sample.resident),
        ("pages", "#d55e00", |sample| sample.pages),
        ("index", "#009e73", |sample| sample.index),
        ("open files", "#cc79a7", |sample| sample.files),
    ];
    let limit = CAPACITY as f64 / MIB * 1.05;
    let most = samples.iter().map(|sample| sample.resident).fold(limit, f64::max) * 1.1;
    let count = samples.last().map_or(1, |sample| sample.done) as f64;
    let x = |done: f64| LEFT + done / count * WIDTH;
    let y = |mib: f64| TOP + HEIGHT - mib / most * HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"940\" height=\"400\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"940\" height=\"400\" \
         fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{title}</text>\n"
    );
    let mut line = |text: String| svg.push_str(&text);
    for mib in (0..=most as usize).step_by((most as usize / 6).next_power_of_two()) {
        let at = y(mib as f64);
        line(format!(
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/>\n<text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{mib}</text>\n",
            LEFT + WIDTH,
            LEFT - 6.0,
            at + 4.0
        ));
    }
    line(format!(
        "<path d=\"M{LEFT} {0:.1}H{1:.1}\" stroke=\"#787878\" stroke-dasharray=\"6 4\"/>\n<text \
         x=\"{2:.1}\" y=\"{3:.1}\" fill=\"#787878\">1.05 of capacity</text>\n",
        y(limit),
        LEFT + WIDTH,
        LEFT + WIDTH + 6.0,
        y(limit) - 6.0
    ));
    for (n, (name, colour, of)) in lines.into_iter().enumerate() {
        let mut points = String::new();
        for sample in samples {
            let _ = write!(points, "{:.1},{:.1} ", x(sample.done as f64), y(of(sample)));
        }
        line(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n\
             <text x=\"{:.1}\" y=\"{}\" fill=\"{colour}\">{name}</text>\n",
            points.trim_end(),
            LEFT + WIDTH + 6.0,
            TOP + 14.0 + 18.0 * n as f64
        ));
    }
    line(format!(
        "<text x=\"{LEFT}\" y=\"{0}\">0</text>\n<text x=\"{1}\" y=\"{0}\" \
         text-anchor=\"end\">{count} {what}</text>\n<text x=\"12\" y=\"{2}\">MiB</text>\n</svg>\n",
        TOP + HEIGHT + 20.0,
        LEFT + WIDTH,
        TOP - 4.0
    ));
    std::fs::write(path, svg)
}

fn main() -> io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let count = std::env::args().nth(2).and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let (alone, _) = sparse(count, false)?;
    let (beside, samples) = sparse(count, true)?;
    println!("hit ratio beside the random reads: {:.4} of what it is alone", beside / alone);
    let path = Path::new(&folder).join("bounded-sparse.svg");
    draw(&path, "Random reads of a sparse file of 16 TiB", "random reads", &samples)?;
    let samples = files(count)?;
    let path = Path::new(&folder).join("bounded-files.svg");
    draw(&path, "Open files of one page", "files", &samples)
}
