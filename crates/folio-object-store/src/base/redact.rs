//! Removes what may be a secret from a store's name.

/// The characters that may follow an address in a text.
const BEHIND: [char; 7] = ['\'', ')', ']', '}', ',', ';', '.'];

/// Returns the text without what an address may hold of secrets: the part before `@`, and what
/// follows `?` or `#`.
pub(crate) fn redact(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        // A secret may hold brackets and commas. Those at the end belong to the text around it.
        let end = after.find(|c: char| c.is_whitespace() || "\"<>".contains(c));
        let address = after[..end.unwrap_or(after.len())].trim_end_matches(BEHIND);
        let left = &after[address.len()..];
        let (address, cut) = match address.find(['?', '#']) {
            Some(at) => (&address[..at], true),
            None => (address, false),
        };
        let host_end = address.find('/').unwrap_or(address.len());
        match address[..host_end].rfind('@') {
            Some(at) => {
                clean.push_str("***@");
                clean.push_str(&address[at + 1..]);
            }
            None => clean.push_str(address),
        }
        if cut {
            clean.push_str("?***");
        }
        rest = left;
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn names_without_secrets_stay() {
        for text in ["InMemory", "AmazonS3(bucket)", "HttpStore(http://host:1/a/b)", "a ? b @ c"] {
            assert_eq!(redact(text), text);
        }
    }

    #[test]
    fn passwords_and_signatures_go() {
        assert_eq!(redact("Http(https://me:pw@host/a@b)"), "Http(https://***@host/a@b)");
        assert_eq!(redact("Http(https://h/a?sig=s) and x"), "Http(https://h/a?***) and x");
        assert_eq!(redact("s3://k:p@w@b#token x://u@h"), "s3://***@b?*** x://***@h");
        assert_eq!(redact("Http(https://me:p,w)';x@h/a)"), "Http(https://***@h/a)");
        assert_eq!(redact("[https://h/a?k=b,c;d)e], x"), "[https://h/a?***], x");
    }
}
