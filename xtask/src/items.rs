//! A scanner of Rust items: attributes, signatures and bodies, from code without comments.

/// One item: its attributes, what stands before its body, and its body.
pub(crate) struct Item<'a> {
    pub(crate) attributes: Vec<String>,
    pub(crate) head: String,
    pub(crate) body: Option<&'a str>,
}

/// Splits code into items. With `commas` a comma ends one, as between fields.
pub(crate) fn items(code: &str, commas: bool) -> Vec<Item<'_>> {
    let (mut items, mut rest) = (Vec::new(), code.trim_start());
    while !rest.is_empty() {
        let mut attributes = Vec::new();
        while rest.starts_with("#[") || rest.starts_with("#![") {
            let end = balanced(rest, rest.find('[').unwrap_or(0));
            attributes.push(normal(&rest[..end]));
            rest = rest[end..].trim_start();
        }
        let (end, body) = item_end(rest, commas);
        let head = &rest[..body.map_or(end, |(start, _)| start)];
        let head = normal(head.trim_end_matches([';', ',', '}']));
        let value = head.find(" = ").filter(|_| !head.contains("type ") && !head.contains(" fn "));
        let has_value = ["const", "static"].contains(&kind_and_name(visibility(&head).1).0);
        let head = value.filter(|_| has_value).map_or(head.clone(), |at| head[..at].to_owned());
        let body = body.map(|(start, end)| &rest[start + 1..end]);
        if !head.is_empty() {
            items.push(Item { attributes, head, body });
        }
        rest = rest[end..].trim_start();
    }
    items
}

/// Returns the end of the item that begins here, and where its body's braces are.
fn item_end(text: &str, commas: bool) -> (usize, Option<(usize, usize)>) {
    let (_, start) = visibility(text);
    // Braces of these are no body.
    let is_line = ["use ", "static ", "type ", "const "].iter().any(|word| start.starts_with(word))
        && !start.starts_with("const fn")
        && !start.starts_with("const unsafe");
    let mut angles = 0_i32;
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        match c {
            '(' | '[' => {
                at = balanced(text, at);
                continue;
            }
            '{' => {
                let end = balanced(text, at);
                if is_line {
                    at = end;
                    continue;
                }
                let body = (at, end - 1);
                let after = text[end..].trim_start();
                let comma = commas && after.starts_with(',');
                return (if comma { text.len() - after.len() + 1 } else { end }, Some(body));
            }
            '<' => angles += 1,
            '>' if !text[..at].ends_with(['-', '=']) => angles -= 1,
            ';' | '}' => return (at + 1, None),
            ',' if commas && angles == 0 => return (at + 1, None),
            _ => {}
        }
        at += c.len_utf8();
    }
    (text.len(), None)
}

/// Returns the end of the bracket that opens at `at`.
fn balanced(text: &str, at: usize) -> usize {
    let mut depth = 0;
    for (offset, c) in text[at..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + offset + c.len_utf8();
        }
    }
    text.len()
}

/// Returns a text on one line, without the commas and blanks that long lines are wrapped with.
pub(crate) fn normal(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = [("( ", "("), ("< ", "<"), (", )", ")"), (",)", ")"), (", >", ">"), (" )", ")")]
        .iter()
        .fold(text, |text, (wrapped, flat)| text.replace(wrapped, flat));
    text.trim_end_matches([',', ' ']).to_owned()
}

/// Returns the names and keywords of a text.
pub(crate) fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Splits `pub` off. Returns `false` for items that are private or public in a part of the crate.
pub(crate) fn visibility(head: &str) -> (bool, &str) {
    if let Some(rest) = head.strip_prefix("pub ") {
        return (true, rest);
    }
    let restricted = head.strip_prefix("pub(").and_then(|rest| rest.split_once(") "));
    (false, restricted.map_or(head, |(_, rest)| rest))
}

/// Returns the kind of an item, and its name.
pub(crate) fn kind_and_name(head: &str) -> (&str, &str) {
    const KINDS: [&str; 10] =
        ["struct", "enum", "trait", "fn", "const", "static", "type", "union", "mod", "use"];
    if head.starts_with("impl") || head.starts_with("unsafe impl") {
        return ("impl", "");
    }
    if let Some(name) = head.strip_prefix("macro_rules! ") {
        return ("macro", name);
    }
    let mut words = head.split(' ');
    let kind = words
        .by_ref()
        .find(|word| KINDS.contains(word) && !(*word == "const" && head.contains("fn ")));
    let Some(kind) = kind else { return ("", head) };
    let name = words.next().unwrap_or_default();
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    (kind, &name[..end])
}
