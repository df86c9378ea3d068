//! Removes what may be a secret from a store's name.

/// The characters that may follow an address in a text.
const BEHIND: [char; 7] = ['\'', ')', ']', '}', ',', ';', '.'];

/// The parts of names of which the value is a secret, in lower case.
const SECRETS: [&str; 10] = [
    "sig",
    "token",
    "secret",
    "passw",
    "pwd",
    "credential",
    "accountkey",
    "accesskey",
    "apikey",
    "authorization",
];

/// Returns the text without what it may hold of secrets: in an address the part before `@`, and
/// what follows `?` or `#`; and the values of names such as `token`.
pub(crate) fn redact(text: &str) -> String {
    without_values(&without_logins(&without_addresses(text)))
}

/// Returns the text without the secrets of its addresses.
fn without_addresses(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, is_encoded)) = address(rest) {
        let (before, after) = rest.split_at(at);
        clean.push_str(before);
        // A secret may hold brackets and commas. Those at the end belong to the text around it.
        let end = after.find(|c: char| c.is_whitespace() || "\"<>".contains(c));
        let address = &after[..end.unwrap_or(after.len())];
        let address = &address[..next_address(address).unwrap_or(address.len())];
        let address = address.trim_end_matches(BEHIND);
        rest = &after[address.len()..];
        clean.push_str(&if is_encoded { "***".to_owned() } else { without_login(address) });
    }
    clean.push_str(rest);
    clean
}

/// Returns the offset behind the next `://`, and `true` if it is percent-encoded.
fn address(text: &str) -> Option<(usize, bool)> {
    let plain = text.find("://").map(|at| (at + 3, false));
    let encoded = text.to_ascii_lowercase().find("%3a%2f%2f").map(|at| (at + 9, true));
    plain.into_iter().chain(encoded).min()
}

/// Returns the offset at which the next address begins inside the text of one. Its scheme stands
/// behind a character that separates it, and not in the middle of a password.
fn next_address(text: &str) -> Option<usize> {
    text.match_indices("://").map(|(at, _)| at).find_map(|at| {
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        let start = text[..at].trim_end_matches(is_scheme).len();
        text[..start].ends_with(['/', ',', ';', '|', '=', '&', '(', '[', '{']).then_some(start)
    })
}

/// Returns an address without login and query. Passwords may hold `/`, `?` and `#`, although they
/// should not.
fn without_login(address: &str) -> String {
    let host_end = address.find(['/', '?', '#']).unwrap_or(address.len());
    let mut host = &address[..host_end];
    let mut rest = &address[host_end..];
    let mut login = "";
    let is_port = |port: &str| port.bytes().all(|digit| digit.is_ascii_digit());
    let port = host.rfind(']').map_or(host, |at| &host[at..]).split_once(':');
    if let Some(at) = host.rfind('@') {
        (login, host) = ("***@", &host[at + 1..]);
    } else if port.is_some_and(|(_, port)| !is_port(port)) || rest.starts_with(['?', '#']) {
        // What looks like the host may be the beginning of a login.
        if let Some(at) = address.rfind('@') {
            (login, host, rest) = ("***@", &address[at + 1..], "");
        } else if port.is_some_and(|(_, port)| !is_port(port)) {
            host = "***";
        }
    }
    let cut = |text: &str| match text.find(['?', '#']) {
        Some(at) => format!("{}?***", &text[..at]),
        None => text.to_owned(),
    };
    format!("{login}{}{}", cut(host), cut(rest))
}

/// Returns the text without logins of the form `user:password@` that have no scheme.
fn without_logins(text: &str) -> String {
    let is_end = |c: char| c.is_whitespace() || "\"'<>()[]{},;=&|".contains(c);
    let mut clean = String::with_capacity(text.len());
    for part in text.split_inclusive(is_end) {
        match part.rfind('@') {
            Some(at) if part[..at].contains(':') && !part.contains("://") => {
                clean.push_str("***");
                clean.push_str(&part[at..]);
            }
            _ => clean.push_str(part),
        }
    }
    clean
}

/// Returns the text without the values of names that say that they are secrets.
fn without_values(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, sign)) = next_sign(rest) {
        let (before, after) = rest.split_at(at + sign);
        let name_of = |c: char| c.is_alphanumeric() || "_-.%\"' ".contains(c);
        let name = &rest[..at];
        let name = &name[name.trim_end_matches(name_of).len()..];
        let last = name.trim_end().rsplit(' ').next().unwrap_or_default();
        let last = last.replace(['_', '-', '.'], "").to_lowercase();
        clean.push_str(before);
        rest = after;
        if SECRETS.iter().any(|secret| last.contains(secret)) && !rest.starts_with("//") {
            let value = without_wrappers(rest);
            if let Some(quote) = value.chars().next().filter(|c| ['"', '\''].contains(c)) {
                let value = &value[1..];
                clean.push_str(&rest[..rest.len() - value.len()]);
                let end = value.find(quote).unwrap_or(value.len());
                clean.push_str(if end > 0 { "***" } else { "" });
                rest = &value[end..];
                continue;
            }
            clean.push_str(&rest[..rest.len() - value.len()]);
            let value_end = |value: &str| {
                let is_end = |c: char| c.is_whitespace() || ",;&)]}\"'<>".contains(c);
                value.find(is_end).unwrap_or(value.len())
            };
            let mut end = value_end(value);
            if ["bearer", "basic"].contains(&value[..end].to_lowercase().as_str()) {
                let after = value[end..].trim_start();
                end = value.len() - after.len() + value_end(after);
            }
            if end > 0 {
                clean.push_str("***");
            }
            rest = &value[end..];
        }
    }
    clean.push_str(rest);
    clean
}

/// Returns a value without the spaces and wrappers before it, such as `Some(`.
fn without_wrappers(value: &str) -> &str {
    let value = value.trim_start();
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let inner = value.trim_start_matches(is_name);
    match inner.strip_prefix('(') {
        Some(inner) if !value.starts_with('(') => without_wrappers(inner),
        _ => value,
    }
}

/// Returns the offset and the length of the next sign between a name and a value.
fn next_sign(text: &str) -> Option<(usize, usize)> {
    let plain = text.find(['=', ':']).map(|at| (at, 1));
    let encoded = text.to_ascii_lowercase().find("%3d").map(|at| (at, 3));
    plain.into_iter().chain(encoded).min()
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn names_without_secrets_stay() {
        for text in [
            "InMemory",
            "AmazonS3(bucket)",
            "HttpStore(http://host:1/a/b)",
            "a ? b @ c",
            "Two(http://a/x, http://[::1]:80/y)",
            "Store { bucket: b, size=3 }",
        ] {
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

    #[test]
    fn each_of_several_addresses_is_cleaned() {
        let two = "Fallback(https://a.com/x,https://user:secret@b.com/y)";
        assert_eq!(redact(two), "Fallback(https://a.com/x,https://***@b.com/y)");
        let two = "Fallback(https://a,s3://user:secret@b)";
        assert_eq!(redact(two), "Fallback(https://a,s3://***@b)");
        let two = "Proxy(http://p/http://user:secret@h/)";
        assert_eq!(redact(two), "Proxy(http://p/http://***@h/)");
        let two = "Proxy(http://p/?to=http://user:secret@h/)";
        assert!(!redact(two).contains("secret"), "{}", redact(two));
    }

    #[test]
    fn no_form_of_a_secret_stays() {
        for text in [
            "HTTPS://USER:secret@H/",
            "https://user:a/secret@h/b",
            "https://user:1?secret@h/b",
            "https://user:x?secret@h/b",
            "https://user:x#secret@h/b",
            "https://user:secret://x@h/b",
            "https://user:secret",
            "Azure(AccountName=a;AccountKey=secret==;x)",
            "S3(bucket?X-Amz-Signature=secret&x=1)",
            "S3(bucket?SIG=secret)",
            "S3(bucket?X-Amz-Security-Token=secret)",
            "S3 { bucket: b, secret_access_key: \"secret\", token: Some }",
            "Http(authorization: Bearer secret)",
            "Proxy(https%3A%2F%2Fuser%3Asecret%40host%2F)",
            "Proxy(to%3fsig%3dsecret)",
            "Mongo(user:secret@host)",
            "Mongo(//user:secret@host)",
            "passwd=secret",
            "aws_session_token = secret",
            "S3 { secret_access_key: Some(\"secret\"), token: Key(Some(\"secret\")) }",
            "S3 { password: \"a, secret\" }",
        ] {
            let clean = redact(text).replace("secret_access_key", "");
            assert!(!clean.contains("secret"), "{text}: {clean}");
        }
    }
}
