//! The tests that `object_store` brings for its own stores, over the cached store in each mode.

use std::sync::Arc;

use super::os::ObjectStore;
use super::os::integration::*;
use super::os::local::LocalFileSystem;
use super::os::memory::InMemory;
use super::{CachedStore, MODES, Options, cache, run};

/// Runs the tests over new stores of one kind, in each mode.
fn each_mode(make: impl Fn() -> Arc<dyn ObjectStore>, test: &impl AsyncFn(&CachedStore)) {
    for consistency in MODES {
        let options = Options::new().consistency(consistency);
        let store = CachedStore::with_options(make(), &cache(), options);
        run(test(&store));
    }
}

async fn common(store: &CachedStore) {
    put_get_delete_list(store).await;
    get_opts(store).await;
    list_uses_directories_correctly(store).await;
    list_with_delimiter(store).await;
    rename_and_copy(store).await;
    copy_if_not_exists(store).await;
    copy_rename_nonexistent_object(store).await;
    multipart_race_condition(store, true).await;
    multipart_out_of_order(store).await;
    get_nonexistent_object(store, None).await.expect_err("there is no such object");
}

#[test]
fn the_tests_of_object_store_pass_in_memory() {
    each_mode(|| Arc::new(InMemory::new()), &async |store| {
        common(store).await;
        list_with_offset_exclusivity(store).await;
        put_opts(store, true).await;
        put_get_attributes(store).await;
    });
    each_mode(|| Arc::new(InMemory::new()), &async |store| stream_get(store).await);
}

#[test]
fn multipart_stores_pass_below_the_cache() {
    for consistency in MODES {
        let inner = Arc::new(InMemory::new());
        let options = Options::new().consistency(consistency);
        let store = CachedStore::with_options(inner.clone(), &cache(), options);
        run(multipart(&store, &*inner));
    }
}

#[test]
fn the_tests_of_object_store_pass_on_local_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let number = std::cell::Cell::new(0);
    let make = &|| -> Arc<dyn ObjectStore> {
        number.set(number.get() + 1);
        let root = folder.path().join(number.get().to_string());
        std::fs::create_dir(&root).expect("a folder");
        Arc::new(LocalFileSystem::new_with_prefix(root).expect("a store"))
    };
    each_mode(make, &async |store| {
        common(store).await;
        put_opts(store, false).await;
    });
    each_mode(make, &async |store| stream_get(store).await);
}
