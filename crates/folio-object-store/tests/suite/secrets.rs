//! Nothing of the cached store shows what the wrapped store may hold of secrets.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use super::os::{Error, ObjectStoreExt};
use super::tricky::Fault;
use super::{Consistency, in_memory, pattern, put, run, whole};
use tracing::field::{Field, Visit};
use tracing::span;

/// Collects the text of all spans and events.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<String>>);

struct Text<'t>(&'t mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{field}={value:?} ").expect("a String");
    }
}

impl tracing::Subscriber for Collector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("folio")
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        span.record(&mut Text(&mut self.0.lock().unwrap()));
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut Text(&mut self.0.lock().unwrap()));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Text(&mut self.0.lock().unwrap()));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn no_text_shows_a_secret() {
    let collector = Collector::default();
    let (bare, store) = in_memory(Consistency::Validated);
    assert!(bare.to_string().contains("secret") && format!("{bare:?}").contains("secret"));
    // With a second one, a span that another test's thread meets first is not off for all.
    let _second = tracing::Dispatch::new(Collector::default());
    tracing::subscriber::with_default(collector.clone(), || {
        run(async {
            put(&bare.inner, "a", &pattern(1, 10_000)).await;
            whole(&store, "a").await.unwrap();
            whole(&store, "none").await.unwrap_err();
            put(&store, "a", &pattern(2, 10_000)).await;
            let upload = store.put_multipart(&"a".into()).await.unwrap();
            assert_eq!(format!("{upload:?}"), "Upload { path: Path { raw: \"a\" }, .. }");
        });
    });
    let spans = collector.0.lock().unwrap().clone();
    assert!(spans.contains("path=\"a\"") && spans.contains("call=\"get\""), "{spans}");
    for text in [store.to_string(), format!("{store:?}"), format!("{store:#?}"), spans] {
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("Tricky(https://***@host/bucket?***)"), "{text}");
    }
}

#[test]
fn no_error_of_the_cache_shows_a_secret() {
    let (bare, store) = in_memory(Consistency::Immutable);
    run(async {
        put(&bare.inner, "a", &pattern(1, 3 << 20)).await;
        for fault in [Fault::Ends(3000), Fault::Shifted] {
            store.head(&"a".into()).await.unwrap();
            bare.next([fault]);
            let error = store.get_range(&"a".into(), 100_000..200_000).await.unwrap_err();
            assert!(matches!(error, Error::Generic { store: "CachedStore", .. }), "{error}");
            for text in [error.to_string(), format!("{error:?}")] {
                assert!(!text.contains("secret"), "{text}");
            }
        }
    });
}
