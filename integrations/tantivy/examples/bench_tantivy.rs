//! Measures tantivy over folio beside `MmapDirectory`.
//!
//! In the folder integrations:
//! `cargo run --release -p folio-tantivy --example bench_tantivy [-- --json]`

use std::hint::black_box;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use folio_cache::Cache;
use folio_report::{Report, in_turn, timed};
use folio_tantivy::FolioDirectory;
use tantivy::collector::TopDocs;
use tantivy::directory::{Directory, MmapDirectory};
use tantivy::query::{AllQuery, Query, QueryParser};
use tantivy::schema::{FAST, Field, STORED, Schema, TEXT};
use tantivy::{Index, IndexSettings, IndexWriter, Order, Searcher, TantivyDocument, doc};

/// Measures tantivy over folio beside its mapped files.
#[derive(Parser)]
struct Options {
    /// Rounds; each contender runs once in each, and each round begins with another one
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Documents of the index
    #[arg(long, default_value_t = 60_000)]
    documents: u64,
    /// Queries of each kind and round
    #[arg(long, default_value_t = 1000)]
    queries: u64,
    /// Capacity of the cache in MiB, which holds the whole index
    #[arg(long, default_value_t = 128)]
    memory: usize,
    /// Capacity of the small cache in MiB
    #[arg(long, default_value_t = 8)]
    small: usize,
    /// Folder for the index
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy)]
enum Access {
    Folio,
    FolioSmall,
    Mmap,
}

impl Access {
    const ALL: [Self; 3] = [Self::Folio, Self::Mmap, Self::FolioSmall];

    fn name(self) -> &'static str {
        match self {
            Self::Folio => "folio",
            Self::FolioSmall => "folio-small",
            Self::Mmap => "mmap",
        }
    }

    fn directory(self, path: &Path, options: &Options) -> Result<Box<dyn Directory>> {
        let folio = |mib: usize| -> Result<Box<dyn Directory>> {
            Ok(Box::new(FolioDirectory::open(&Cache::new(mib << 20)?, path)?))
        };
        match self {
            Self::Folio => folio(options.memory),
            Self::FolioSmall => folio(options.small),
            Self::Mmap => Ok(Box::new(MmapDirectory::open(path)?)),
        }
    }
}

fn word(random: &mut fastrand::Rng) -> String {
    let frequent = random.u64(2..20_000);
    format!("w{}", random.u64(..frequent))
}

fn write(directory: Box<dyn Directory>, documents: u64) -> Result<Index> {
    let mut schema = Schema::builder();
    let text = schema.add_text_field("text", TEXT | STORED);
    let number = schema.add_u64_field("number", FAST);
    let index = Index::create(directory, schema.build(), IndexSettings::default())?;
    let mut writer: IndexWriter = index.writer_with_num_threads(1, 30 << 20)?;
    let mut random = fastrand::Rng::with_seed(1);
    for at in 0..documents {
        let words: Vec<_> = (0..60).map(|_| word(&mut random)).collect();
        writer.add_document(doc!(text => words.join(" "), number => at))?;
    }
    writer.commit()?;
    writer.wait_merging_threads()?;
    Ok(index)
}

/// Returns queries of one kind.
fn queries(index: &Index, field: Field, kind: &str, count: u64) -> Result<Vec<Box<dyn Query>>> {
    let parser = QueryParser::for_index(index, vec![field]);
    let mut random = fastrand::Rng::with_seed(3);
    let texts = (0..count).map(|_| match kind {
        "term" => word(&mut random),
        "and" => format!("+{} +w{}", word(&mut random), random.u8(..50)),
        "or" => format!("{} {} {}", word(&mut random), word(&mut random), word(&mut random)),
        _ => format!("\"w{} w{}\"", random.u8(..30), random.u8(..30)),
    });
    texts.map(|text| Ok(parser.parse_query(&text)?)).collect()
}

fn search(searcher: &Searcher, queries: &[Box<dyn Query>]) -> Result<()> {
    for query in queries {
        black_box(searcher.search(query, &TopDocs::with_limit(10).order_by_score())?);
    }
    Ok(())
}

fn round(access: Access, path: &Path, options: &Options, report: &mut Report) -> Result<()> {
    let name = access.name();
    let directory = access.directory(path, options)?;
    let (time, index) = timed(|| write(directory, options.documents));
    report.ms(name, "index", time);
    drop(index?);
    let directory = access.directory(path, options)?;
    let (time, opened) = timed(|| -> Result<_> {
        let index = Index::open(directory)?;
        let searcher = index.reader()?.searcher();
        Ok((index, searcher))
    });
    report.ms(name, "open", time);
    let (index, searcher) = opened?;
    let field = index.schema().get_field("text")?;
    for kind in ["term", "and", "or", "phrase"] {
        let queries = queries(&index, field, kind, options.queries)?;
        search(&searcher, &queries)?;
        let (time, result) = timed(|| search(&searcher, &queries));
        result?;
        report.us_each(name, kind, time, options.queries);
    }
    let newest = || TopDocs::with_limit(100).order_by_fast_field::<u64>("number", Order::Desc);
    let hits = searcher.search(&AllQuery, &newest())?;
    let (time, result) = timed(|| -> Result<()> {
        for _ in 0..20 {
            black_box(searcher.search(&AllQuery, &newest())?);
        }
        Ok(())
    });
    result?;
    report.us_each(name, "fast-field", time, 20);
    let (time, result) = timed(|| -> Result<()> {
        let mut random = fastrand::Rng::with_seed(4);
        for _ in 0..options.queries {
            let mut address = hits[random.usize(..hits.len())].1;
            address.doc_id = random.u32(..searcher.segment_reader(address.segment_ord).max_doc());
            black_box(searcher.doc::<TantivyDocument>(address)?);
        }
        Ok(())
    });
    result?;
    report.us_each(name, "document", time, options.queries);
    Ok(())
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut report = Report::new("tantivy over folio, and over MmapDirectory");
    let mut bytes = 0;
    for number in 0..options.rounds {
        for access in in_turn(&Access::ALL, number) {
            let dir = match &options.dir {
                Some(dir) => tempfile::tempdir_in(dir)?,
                None => tempfile::tempdir()?,
            };
            round(*access, dir.path(), &options, &mut report)?;
            bytes = 0;
            for file in std::fs::read_dir(dir.path())? {
                bytes += file?.metadata()?.len();
            }
        }
    }
    report.note(format!(
        "{} rounds; {} documents of 60 words, {} MiB of files; folio has {} MiB, folio-small {} \
         MiB, mmap the kernel's cache. Each kind of query ran once before it was measured. \
         fast-field: the 100 largest numbers of all documents. document: stored \
         documents in any order.",
        options.rounds,
        options.documents,
        bytes >> 20,
        options.memory,
        options.small
    ));
    report.print(options.json);
    Ok(())
}
