//! Fills the template of a scheme with its constants.

use folio_ref::schemes::{Layout, layouts};
use folio_ref::{MAX_AT_ONCE, SATURATED, STALE_LIMIT};

/// The part of all schemes: the atomics, and the results.
const HEAD: &str = include_str!("head.h.in");
/// The operations of a scheme.
const SCHEME: &str = include_str!("scheme.h.in");
/// The operations of a scheme with tags.
const TAGS: &str = include_str!("tags.h.in");

/// Returns the header.
pub(crate) fn header() -> String {
    let mut text = HEAD
        .replace("@MAX_AT_ONCE@", &MAX_AT_ONCE.to_string())
        .replace("@SATURATED@", &format!("{SATURATED:#x}"))
        .replace("@STALE_LIMIT@", &format!("{STALE_LIMIT:#x}"));
    for (name, layout) in layouts() {
        text.push_str(&filled(SCHEME, name, &layout));
        if layout.tag != 0 {
            text.push_str(&filled(TAGS, name, &layout));
        }
    }
    text + "\n#endif /* PAGE_REF_H */\n"
}

/// Returns a template with the names and constants of a scheme.
fn filled(template: &str, name: &str, layout: &Layout) -> String {
    let lower = name.replace('-', "_");
    let suffix = if layout.width == 64 { "ull" } else { "u" };
    let mut text = template.to_owned();
    let constants = [
        ("BIT", layout.bit),
        ("LIVE", layout.live),
        ("COUNT", layout.count),
        ("SATURATED", layout.saturated()),
        ("GENERATION", layout.generation),
        ("BUMP", layout.bump()),
        ("TAG", layout.tag),
        ("FROZEN", layout.frozen()),
    ];
    for (constant, value) in constants {
        text = text.replace(&format!("@{constant}@"), &format!("{value:#x}{suffix}"));
    }
    text.replace("@SHIFT@", &layout.shift.to_string())
        .replace("@TAG_SHIFT@", &layout.tag.trailing_zeros().to_string())
        .replace("@WIDTH@", &layout.width.to_string())
        .replace("@scheme@", &lower)
        .replace("@SCHEME@", &lower.to_uppercase())
}
