//! The lines of folio-object-store's README for a session of `DataFusion`: compiled and run here.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::prelude::SessionContext;
use object_store::aws::AmazonS3Builder;
use url::Url;

const README: &str = include_str!("../../../crates/folio-object-store/README.md");
const SOURCE: &str = include_str!("readme.rs");

/// Returns the example of the README.
fn example() -> &'static str {
    let section = README.split("## Under a DataFusion session\n").nth(1).expect("the section");
    let block = section.split("```rust,ignore\n").nth(1).expect("an example");
    block.split("```").next().expect("its end")
}

fn put_under(session: &SessionContext) -> Result<(), Box<dyn Error>> {
    use folio_object_store::v013::CachedStore; // default-features = false, object_store_013
    use folio_object_store::{Cache, Consistency, Options};

    let cache = Cache::new(1 << 30)?; // 1 GiB, for all stores and sessions
    let s3 = AmazonS3Builder::from_env().with_bucket_name("sales").build()?;
    let options = Options::new()
        .id("s3://sales") // shared by all sessions
        .consistency(Consistency::ValidatedAfter(Duration::from_mins(1)));
    let store = CachedStore::with_options(Arc::new(s3), &cache, options);
    session.register_object_store(&Url::parse("s3://sales")?, Arc::new(store.clone()));
    println!("{}", store.stats());
    Ok(())
}

#[test]
fn the_lines_of_the_readme_are_those_of_this_test() {
    let indented = example()
        .lines()
        .map(|line| if line.is_empty() { String::new() } else { format!("    {line}") });
    let expected = indented.collect::<Vec<_>>().join("\n");
    assert!(expected.contains("CachedStore::with_options"), "{expected}");
    assert!(SOURCE.contains(&expected), "README.md differs from this file:\n{expected}");
}

#[test]
fn a_session_reads_through_the_cache_after_these_lines() {
    let session = SessionContext::new();
    put_under(&session).expect("a session with the cache");
    let url = ObjectStoreUrl::parse("s3://sales").expect("a URL");
    let store = session.runtime_env().object_store(url).expect("the store");
    assert!(store.to_string().ends_with("cached by folio in 1024 MiB"), "{store}");
}
