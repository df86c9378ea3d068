//! Streams of one object at once.

use futures_util::{StreamExt, TryStreamExt};

use super::os::path::Path;
use super::os::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use super::{CachedStore, Consistency, in_memory, pattern, put, run};

const LEN: usize = 16 << 20;

/// Reads streams from these offsets in turn, and checks their bytes.
async fn in_turn(store: &CachedStore, len: usize, offsets: &[u64]) {
    let mut streams = Vec::new();
    for &offset in offsets {
        let options = GetOptions::new().with_range(Some(GetRange::Offset(offset)));
        let result = store.get_opts(&Path::from("a"), options).await.unwrap();
        streams.push((offset as usize, result.into_stream().fuse()));
    }
    let bytes = pattern(1, len);
    let mut left = streams.len();
    while left > 0 {
        left = 0;
        for (at, stream) in &mut streams {
            if let Some(piece) = stream.try_next().await.unwrap() {
                assert!(bytes[*at..].starts_with(&piece));
                *at += piece.len();
                left += 1;
            }
        }
    }
    assert!(streams.iter().all(|(at, _)| *at == len));
}

#[test]
fn streams_a_little_apart_leave_each_others_answers() {
    for offset in [500_000, 1, 4096, 3_000_000] {
        let (bare, store) = in_memory(Consistency::Immutable);
        run(async {
            put(&bare.inner, "a", &pattern(1, LEN)).await;
            store.head(&"a".into()).await.unwrap();
            bare.requests();
            in_turn(&store, LEN, &[0, offset]).await;
            let (gets, _) = bare.counts();
            assert!(gets <= 4, "{gets} requests for two streams, {offset} bytes apart");
        });
    }
}

#[test]
fn streams_side_by_side_share_one_request() {
    // Longer than one piece, and short enough to stay in the cache.
    const LEN: usize = 3 << 19;
    let (bare, store) = in_memory(Consistency::Immutable);
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        in_turn(&store, LEN, &[0; 8]).await;
        assert_eq!(bare.counts(), (1, 0));
        let stats = store.stats();
        assert_eq!((stats.bytes_fetched, stats.bytes_passed), (LEN as u64, 0));
    });
}
