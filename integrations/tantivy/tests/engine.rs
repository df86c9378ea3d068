//! An index over folio gives the answers of one over `MmapDirectory`, and either opens the other's.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use folio_cache::Cache;
use folio_tantivy::FolioDirectory;
use tantivy::collector::{Count, TopDocs};
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    Directory, INDEX_WRITER_LOCK, META_LOCK, MmapDirectory, TerminatingWrite, WatchCallback,
};
use tantivy::query::QueryParser;
use tantivy::schema::{FAST, INDEXED, STORED, Schema, TEXT, Value};
use tantivy::{
    DocAddress, Index, IndexSettings, IndexWriter, Order, ReloadPolicy, TantivyDocument, Term, doc,
};

const PAGE: usize = 4096;

fn schema() -> Schema {
    let mut schema = Schema::builder();
    schema.add_text_field("text", TEXT | STORED);
    schema.add_u64_field("number", FAST | INDEXED | STORED);
    schema.build()
}

/// Returns a text of words, of which some are frequent.
fn text(number: u64) -> String {
    let mut random = fastrand::Rng::with_seed(number);
    let words = (0..random.usize(5..120)).map(|_| {
        let frequent = random.u64(2..3000);
        format!("w{}", random.u64(..frequent))
    });
    words.collect::<Vec<_>>().join(" ")
}

fn folio(cache: &Cache, path: &Path) -> FolioDirectory {
    FolioDirectory::open(cache, path).unwrap()
}

/// Adds documents in several segments, deletes some, and merges what the policy wants merged.
fn fill(index: &Index, numbers: std::ops::Range<u64>) {
    let mut writer: IndexWriter = index.writer_with_num_threads(1, 15 << 20).unwrap();
    let (text_field, number_field) = fields(index);
    let part = (numbers.end - numbers.start) / 4;
    for number in numbers {
        writer.add_document(doc!(text_field => text(number), number_field => number)).unwrap();
        if number.is_multiple_of(11) {
            writer.delete_term(Term::from_field_u64(number_field, number / 2));
        }
        if number % part == part - 1 {
            writer.commit().unwrap();
        }
    }
    writer.commit().unwrap();
    writer.wait_merging_threads().unwrap();
}

fn fields(index: &Index) -> (tantivy::schema::Field, tantivy::schema::Field) {
    let schema = index.schema();
    (schema.get_field("text").unwrap(), schema.get_field("number").unwrap())
}

/// The answer to a query: the number of hits, the best with their scores, those with the highest
/// numbers, and the stored documents.
type Answer = (usize, Vec<(f32, DocAddress)>, Vec<(Option<u64>, DocAddress)>, Vec<(u64, String)>);

fn answers(index: &Index) -> Vec<Answer> {
    let (text_field, number_field) = fields(index);
    let searcher = index.reader().unwrap().searcher();
    let parser = QueryParser::for_index(index, vec![text_field]);
    let mut random = fastrand::Rng::with_seed(5);
    let queries = (0..120).map(|n| {
        let mut word = || format!("w{}", random.u64(..1500));
        match n % 6 {
            0 => word(),
            1 => format!("{} OR {}", word(), word()),
            2 => format!("+{} +w{}", word(), n % 20),
            3 => format!("\"w{} w{}\"", n % 3, n % 5),
            4 => format!("{} -w1", word()),
            _ => format!("number:[{} TO {}]", n * 10, n * 40),
        }
    });
    let answer = |query: String| {
        let query = parser.parse_query(&query).unwrap();
        let (best, newest) = (
            TopDocs::with_limit(10).order_by_score(),
            TopDocs::with_limit(10).order_by_fast_field::<u64>("number", Order::Desc),
        );
        let (count, best, newest) = searcher.search(&query, &(Count, best, newest)).unwrap();
        let stored = best.iter().map(|&(_, address)| {
            let document: TantivyDocument = searcher.doc(address).unwrap();
            let number = document.get_first(number_field).unwrap().as_u64().unwrap();
            let stored = document.get_first(text_field).unwrap().as_str().unwrap().to_owned();
            assert_eq!(stored, text(number));
            (number, stored)
        });
        let stored = stored.collect();
        (count, best, newest, stored)
    };
    queries.map(answer).collect()
}

/// Compares the answers of one directory's index, opened through folio and mapped.
fn assert_same_answers(cache: &Cache, path: &Path) {
    let mapped = answers(&Index::open_in_dir(path).unwrap());
    let hits: usize = mapped.iter().map(|answer| answer.0).sum();
    assert!(hits > 1000, "only {hits} hits");
    assert_eq!(answers(&Index::open(folio(cache, path)).unwrap()), mapped);
}

#[test]
fn answers_equal_those_of_mapped_files() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(64 << 20).unwrap();
    let directory = folio(&cache, dir.path());
    let index = Index::create(directory, schema(), IndexSettings::default()).unwrap();
    fill(&index, 0..8_000);
    assert_same_answers(&cache, dir.path());
    assert!(index.validate_checksum().unwrap().is_empty());
    // Continued over mapped files, then over folio again, by the index that was open meanwhile.
    fill(&Index::open_in_dir(dir.path()).unwrap(), 8_000..12_000);
    fill(&index, 12_000..16_000);
    assert_same_answers(&cache, dir.path());
    assert!(Index::open_in_dir(dir.path()).unwrap().validate_checksum().unwrap().is_empty());
    assert!(cache.stats().written_bytes > 0);
}

/// The cache is a small part of the index, and readers of segments pin more than it has.
#[test]
fn an_index_larger_than_the_cache_gives_the_same_answers() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(2 << 20).unwrap();
    let directory = folio(&cache, dir.path());
    let index = Index::create(directory, schema(), IndexSettings::default()).unwrap();
    fill(&index, 0..20_000);
    let files = std::fs::read_dir(dir.path()).unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes > 3 * cache.capacity() as u64, "only {bytes} bytes");
    assert_same_answers(&cache, dir.path());
    // All memory is pinned: reads go past the cache.
    let filler = dir.path().join("filler");
    std::fs::write(&filler, vec![0; 8 << 20]).unwrap();
    let filler = cache.open(&filler).unwrap();
    let pinned: Vec<_> =
        (0..2048).map_while(|page| filler.page(page * PAGE as u64).unwrap_or_default()).collect();
    assert!(pinned.len() < 600, "the whole file was pinned");
    assert_same_answers(&cache, dir.path());
    drop(pinned);
    assert_same_answers(&cache, dir.path());
}

#[test]
fn ranges_of_any_kind_equal_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let directory = folio(&Cache::new(4 << 20).unwrap(), dir.path());
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let path = Path::new("numbers");
    let mut writer = directory.open_write(path).unwrap();
    std::io::Write::write_all(&mut writer, &bytes).unwrap();
    writer.terminate().unwrap();
    let file = directory.open_read(path).unwrap();
    assert_eq!(tantivy::HasLen::len(&file), bytes.len());
    // A file that is open stays readable.
    directory.delete(path).unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let mut held = Vec::new();
    for _ in 0..2_000 {
        let start = random.usize(..bytes.len());
        let longest = if random.bool() { 100 } else { 40 * PAGE };
        let end = (start + random.usize(..longest)).min(bytes.len());
        let read = file.read_bytes_slice(start..end).unwrap();
        assert!(read.as_slice() == &bytes[start..end], "bytes {start}..{end}");
        held.push((start, read));
        if held.len() > 20 {
            let (start, read) = held.swap_remove(random.usize(..20));
            assert!(read.as_slice() == &bytes[start..][..read.len()], "held bytes changed");
        }
    }
}

#[test]
fn errors_are_those_of_mapped_files() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(2 << 20).unwrap();
    let ours = folio(&cache, dir.path());
    let mapped = MmapDirectory::open(dir.path()).unwrap();
    let directories: [&dyn Directory; 2] = [&ours, &mapped];
    let (missing, there, empty) = (Path::new("missing"), Path::new("there"), Path::new("empty"));
    ours.open_write(empty).unwrap().terminate().unwrap();
    for directory in directories {
        assert!(matches!(directory.open_read(missing), Err(OpenReadError::FileDoesNotExist(_))));
        assert!(matches!(directory.atomic_read(missing), Err(OpenReadError::FileDoesNotExist(_))));
        assert!(matches!(directory.delete(missing), Err(DeleteError::FileDoesNotExist(_))));
        assert!(!directory.exists(missing).unwrap() && directory.exists(empty).unwrap());
        assert!(matches!(directory.open_write(empty), Err(OpenWriteError::FileAlreadyExists(_))));
        assert!(directory.open_read(empty).unwrap().read_bytes().unwrap().is_empty());
        assert!(directory.open_write(Path::new("no/folder")).is_err());
        directory.atomic_write(there, b"first").unwrap();
        directory.atomic_write(there, b"second").unwrap();
        directory.sync_directory().unwrap();
    }
    for directory in directories {
        assert_eq!(directory.atomic_read(there).unwrap(), b"second");
        assert_eq!(directory.open_read(there).unwrap().read_bytes().unwrap().as_slice(), b"second");
    }
    assert!(FolioDirectory::open(&cache, dir.path().join("missing")).is_err());
}

#[test]
fn locks_exclude_those_of_mapped_files() {
    let dir = tempfile::tempdir().unwrap();
    let ours = folio(&Cache::new(2 << 20).unwrap(), dir.path());
    let mapped = MmapDirectory::open(dir.path()).unwrap();
    let is_busy = |directory: &dyn Directory| {
        matches!(directory.acquire_lock(&INDEX_WRITER_LOCK), Err(LockError::LockBusy))
    };
    let lock = ours.acquire_lock(&INDEX_WRITER_LOCK).unwrap();
    assert!(is_busy(&mapped) && is_busy(&ours));
    drop(lock);
    let lock = mapped.acquire_lock(&INDEX_WRITER_LOCK).unwrap();
    assert!(is_busy(&ours));
    drop(lock);
    // A blocking lock waits until the other is released.
    let lock = mapped.acquire_lock(&META_LOCK).unwrap();
    let released = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            drop(ours.acquire_lock(&META_LOCK).unwrap());
            assert_eq!(released.load(Ordering::SeqCst), 1);
        });
        thread::sleep(Duration::from_millis(50));
        released.store(1, Ordering::SeqCst);
        drop(lock);
    });
}

/// Commits of either directory are seen by readers of the other.
#[test]
fn commits_are_watched() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(8 << 20).unwrap();
    let ours =
        Index::create(folio(&cache, dir.path()), schema(), IndexSettings::default()).unwrap();
    let mapped = Index::open_in_dir(dir.path()).unwrap();
    let notified = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&notified);
    let callback = WatchCallback::new(move || _ = counts.fetch_add(1, Ordering::SeqCst));
    let _watch = ours.directory().watch(callback).unwrap();
    let wait_for = |condition: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(30), "the commit was not seen");
            thread::sleep(Duration::from_millis(20));
        }
    };
    let reader =
        ours.reader_builder().reload_policy(ReloadPolicy::OnCommitWithDelay).try_into().unwrap();
    for (index, expected) in [(&ours, 1), (&mapped, 2), (&ours, 3)] {
        let before = notified.load(Ordering::SeqCst);
        let mut writer: IndexWriter = index.writer_with_num_threads(1, 15 << 20).unwrap();
        let (text_field, number_field) = fields(index);
        writer.add_document(doc!(text_field => "a page", number_field => 1_u64)).unwrap();
        writer.commit().unwrap();
        wait_for(&|| reader.searcher().num_docs() == expected);
        wait_for(&|| notified.load(Ordering::SeqCst) > before);
    }
}
