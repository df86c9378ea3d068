//! The names of pages: each version of an object has a name of its own.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use folio_cache::Key;

use super::epochs::Ticket;

/// The space of all names of this crate.
const SPACE: &str = "object-store";

/// The length of all parts of a name without the text of variable length.
const FIXED: usize = 64;

/// Returns a number that no other call in this process returns.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// The identity of a store: what sets its names apart from those of other stores.
#[derive(Clone, Debug)]
pub(crate) struct StoreId {
    /// The name that the user gave.
    pub(crate) name: Option<String>,
    /// A number of this instance.
    pub(crate) number: u64,
}

/// Tells the versions of an object apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The strong `ETag`, otherwise the version, that the store gave.
    pub(crate) strong: Option<String>,
    /// The weak `ETag`. It is empty if there is none, or a strong one.
    pub(crate) weak: String,
    /// The moment of the last change in nanoseconds since 1970. 0 beside a strong validator, which
    /// stays as it is when the same bytes are written again.
    pub(crate) modified: i64,
    pub(crate) size: u64,
}

impl Identity {
    pub(crate) fn new(
        e_tag: Option<&str>,
        version: Option<&str>,
        modified: i64,
        size: u64,
    ) -> Self {
        let e_tag = e_tag.unwrap_or_default();
        let is_strong = !e_tag.is_empty() && !e_tag.starts_with("W/");
        let strong = if is_strong { Some(e_tag) } else { version.filter(|v| !v.is_empty()) };
        match strong {
            Some(strong) => {
                Self { strong: Some(strong.into()), weak: String::new(), modified: 0, size }
            }
            None => Self { strong: None, weak: e_tag.into(), modified, size },
        }
    }

    /// Returns the `ETag` that a request can be conditional on. A weak one never matches.
    pub(crate) fn if_match<'e>(&self, e_tag: Option<&'e str>) -> Option<&'e str> {
        e_tag.filter(|e_tag| self.strong.as_deref() == Some(e_tag))
    }

    /// Returns the bytes that are equal if and only if the identities are.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let strong = self.strong.as_deref().unwrap_or_default();
        let mut bytes = Vec::with_capacity(FIXED + strong.len() + self.weak.len());
        bytes.push(u8::from(self.strong.is_some()));
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.modified.to_le_bytes());
        push_text(&mut bytes, strong);
        push_text(&mut bytes, &self.weak);
        bytes
    }
}

/// Returns `true` if two moments in nanoseconds since 1970 may be the same. One may be unknown, or
/// rounded down to seconds, as in the headers of HTTP.
pub(crate) fn may_be_one_time(times: [i64; 2]) -> bool {
    const SECOND: i64 = 1_000_000_000;
    let [a, b] = times;
    let is_rounded = a % SECOND == 0 || b % SECOND == 0;
    a <= 0 || b <= 0 || a == b || (is_rounded && a / SECOND == b / SECOND)
}

/// Returns the name of the pages of one version of an object.
///
/// `alone` makes the name unique, for a version that cannot be told from the next.
pub(crate) fn key(
    store: &StoreId,
    path: &str,
    version: Option<&str>,
    identity: &Identity,
    ticket: &Ticket,
    alone: bool,
) -> Key {
    let identity = identity.to_bytes();
    let text = store.name.as_ref().map_or(0, String::len) + path.len();
    let mut name =
        Vec::with_capacity(FIXED + text + version.unwrap_or_default().len() + identity.len());
    if let Some(id) = &store.name {
        name.push(1);
        push_text(&mut name, id);
    } else {
        name.push(0);
        name.extend(store.number.to_le_bytes());
    }
    push_text(&mut name, path);
    name.push(u8::from(version.is_some()));
    push_text(&mut name, version.unwrap_or_default());
    name.extend(identity);
    // A write through this store, or an invalidation: no validator is trusted to tell the bytes
    // before it from those after it.
    let counts = [ticket.writes, ticket.forgotten[0], ticket.forgotten[1]];
    if counts != [0; 3] {
        name.push(1);
        name.extend(store.number.to_le_bytes());
        name.extend(counts.into_iter().flat_map(u64::to_le_bytes));
    }
    if alone {
        name.push(2);
        name.extend(unique().to_le_bytes());
    }
    Key::new(SPACE, name)
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::epochs::Epochs;

    fn key_of(store: &StoreId, path: &str, identity: &Identity) -> Key {
        key(store, path, None, identity, &Epochs::new().ticket(path), false)
    }

    #[test]
    fn names_of_two_stores_do_not_meet() {
        let identity = Identity::new(Some("\"1\""), None, 0, 5);
        let [a, b] = [1, 2].map(|number| StoreId { name: None, number });
        assert_ne!(key_of(&a, "x", &identity), key_of(&b, "x", &identity));
        let [a, b] = [1, 2].map(|number| StoreId { name: Some("s".into()), number });
        assert_eq!(key_of(&a, "x", &identity), key_of(&b, "x", &identity));
        let c = StoreId { name: Some("sx".into()), number: 1 };
        assert_ne!(key_of(&a, "xy", &identity), key_of(&c, "y", &identity));
    }

    #[test]
    fn names_change_with_each_write_of_the_path() {
        let (epochs, store) = (Epochs::new(), StoreId { name: Some("s".into()), number: 1 });
        let identity = Identity::new(Some("\"1\""), None, 0, 5);
        let name = || key(&store, "x", None, &identity, &epochs.ticket("x"), false);
        let before = name();
        assert_eq!(before, name());
        epochs.begin_write("x");
        epochs.end_write("x", true);
        let after = name();
        assert_ne!(before, after);
        epochs.forget_all();
        assert_ne!(after, name());
        let alone = || key(&store, "x", None, &identity, &epochs.ticket("x"), true);
        assert_ne!(alone(), alone());
    }

    #[test]
    fn times_may_be_unknown_or_rounded_to_seconds() {
        let second = 1_000_000_000;
        assert!(may_be_one_time([5 * second, 5 * second + 7]) && may_be_one_time([0, 5]));
        assert!(!may_be_one_time([5 * second, 6 * second]) && !may_be_one_time([5, 6]));
    }

    #[test]
    fn a_strong_validator_alone_counts() {
        let strong = |modified| Identity::new(Some("\"1\""), None, modified, 5);
        assert_eq!(strong(1), strong(2));
        assert_eq!(strong(1).if_match(Some("\"1\"")), Some("\"1\""));
        let weak = |modified| Identity::new(Some("W/\"1\""), None, modified, 5);
        assert_ne!(weak(1), weak(2));
        assert_eq!(weak(1).if_match(Some("W/\"1\"")), None);
        let none = |size| Identity::new(None, None, 1, size);
        assert_ne!(none(1), none(2));
        let version = Identity::new(None, Some("v"), 1, 2);
        assert_eq!(version, Identity::new(Some("W/x"), Some("v"), 9, 2));
        assert_eq!(version.if_match(None), None);
    }
}
