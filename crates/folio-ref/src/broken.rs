//! The switch of the seeded bugs: one build has all of them, and a variable of the environment
//! chooses one for a program (`cargo x seeded-bugs`).

#[cfg(broken)]
use core::sync::atomic::{AtomicU8, Ordering};

/// Returns `true` if this seeded bug is chosen. It is the constant `false` in all builds except
/// those with `--cfg broken`.
#[cfg(not(broken))]
#[doc(hidden)]
#[macro_export]
macro_rules! broken {
    ($name:literal) => {
        false
    };
}

/// Returns `true` if the variable `BROKEN` of the environment names this seeded bug.
#[cfg(broken)]
#[doc(hidden)]
#[macro_export]
macro_rules! broken {
    ($name:literal) => {{
        static SITE: $crate::Site = $crate::Site::new();
        SITE.is_chosen($name)
    }};
}

/// A place in the code where a seeded bug stands. The environment is read at its first use.
#[cfg(broken)]
#[doc(hidden)]
#[derive(Debug)]
pub struct Site(AtomicU8);

#[cfg(broken)]
impl Site {
    const UNKNOWN: u8 = 2;

    /// Returns a site of which the choice is not known yet.
    #[doc(hidden)]
    #[expect(clippy::new_without_default, reason = "only the macro makes one, as a constant")]
    pub const fn new() -> Self {
        Self(AtomicU8::new(Self::UNKNOWN))
    }

    /// Returns `true` if `name` is the chosen bug.
    #[doc(hidden)]
    #[inline(always)]
    pub fn is_chosen(&self, name: &str) -> bool {
        // Relaxed: each thread that reads the environment stores the same.
        match self.0.load(Ordering::Relaxed) {
            Self::UNKNOWN => self.look_up(name),
            known => known == 1,
        }
    }

    #[cold]
    fn look_up(&self, name: &str) -> bool {
        let is_chosen = std::env::var_os("BROKEN").is_some_and(|chosen| chosen == name);
        self.0.store(u8::from(is_chosen), Ordering::Relaxed);
        is_chosen
    }
}
