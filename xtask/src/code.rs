//! Rust sources without their comments and strings. The house rules' tests include this file.

/// Returns a file's code without its comments, strings and character literals.
pub(crate) fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = char_len(rest) {
            length
        } else if let Some(escaped) = rest.strip_prefix("'\\") {
            2 + escaped.chars().next().map_or(0, char::len_utf8)
        } else if c == '"' {
            string_len(rest)
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skip..];
    }
    code
}

/// Returns the length of a character literal such as `'{'`; `None` for a lifetime.
fn char_len(text: &str) -> Option<usize> {
    let mut chars = text.strip_prefix('\'')?.chars();
    let c = chars.next().filter(|&c| c != '\\')?;
    chars.next().filter(|&end| end == '\'').map(|_| 2 + c.len_utf8())
}

/// Returns the length of the string that begins here, with its quotes.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}
