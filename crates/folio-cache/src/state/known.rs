//! The version of a backing as the cache knows it, in few bytes: most files never change.

use crate::backing::Version;

/// A version that is known. A change token of zeroes takes no memory.
#[derive(Debug)]
pub(crate) struct Known {
    len: u64,
    change_token: Option<Box<[u64; 4]>>,
}

impl Known {
    /// Returns a version as known.
    pub(crate) fn new(version: Version) -> Self {
        let mut known = Self { len: version.len, change_token: None };
        known.set(version);
        known
    }

    /// Returns the version.
    pub(crate) fn get(&self) -> Version {
        let change_token = self.change_token.as_deref().copied().unwrap_or_default();
        Version { len: self.len, change_token }
    }

    /// Takes another version as known.
    pub(crate) fn set(&mut self, version: Version) {
        self.len = version.len;
        match &mut self.change_token {
            Some(change_token) => **change_token = version.change_token,
            None if version.change_token == [0; 4] => {}
            none => *none = Some(Box::new(version.change_token)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_what_was_set_last() {
        let version = |len, token| Version { len, change_token: [0, token, 0, token] };
        let mut known = Known::new(version(7, 0));
        assert_eq!((known.get(), known.change_token.is_none()), (version(7, 0), true));
        for next in [version(8, 1), version(8, 2), version(9, 0)] {
            known.set(next);
            assert_eq!(known.get(), next);
        }
    }
}
