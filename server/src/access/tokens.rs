//! Bearer tokens. Only their hashes are kept, so that no log and no dump can contain a token.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};

/// Shortest token; a shorter one could be guessed.
const MIN_TOKEN: usize = 16;
/// Longest identity.
const MAX_IDENTITY: usize = 128;

/// The hashes of the known tokens, with their identities.
pub(super) struct Tokens(Vec<(blake3::Hash, Arc<str>)>);

impl Tokens {
    /// Parses lines of `identity token`. Empty lines and lines that start with `#` are ignored. An
    /// identity may have several tokens, so that a token can be replaced while both are valid.
    ///
    /// Errors name the line, never text that may be a token.
    pub(super) fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(text)
            .context("invalid UTF-8: expected lines of `identity token`")?;
        let mut tokens = Vec::<(blake3::Hash, Arc<str>)>::new();
        for (number, line) in (1..).zip(text.lines()) {
            let mut words = line.split_whitespace();
            let (identity, token) = match (words.next(), words.next(), words.next()) {
                (None, ..) => continue,
                (Some(first), ..) if first.starts_with('#') => continue,
                (Some(identity), Some(token), None) => (identity, token),
                _ => bail!("line {number}: expected `identity token`"),
            };
            ensure!(
                identity.len() <= MAX_IDENTITY && identity.bytes().all(is_plain),
                "line {number}: invalid identity: expected at most {MAX_IDENTITY} of letters, digits and . _ - @ : /"
            );
            ensure!(
                token.len() >= MIN_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic()),
                "line {number}: invalid token: expected at least {MIN_TOKEN} visible ASCII characters"
            );
            let hash = blake3::hash(token.as_bytes());
            let new = tokens.iter().all(|(known, _)| *known != hash);
            ensure!(new, "line {number}: duplicate token: an earlier line has the same one");
            tokens.push((hash, identity.into()));
        }
        ensure!(!tokens.is_empty(), "no token found: expected lines of `identity token`");
        Ok(Self(tokens))
    }

    /// The identity of the token in an `authorization` header.
    ///
    /// Hashes are compared in constant time, and with all tokens, so that timing reveals nothing.
    pub(super) fn identify(&self, authorization: &[u8]) -> Option<Arc<str>> {
        let (scheme, token) = authorization.split_at_checked(b"Bearer ".len())?;
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return None;
        }
        let presented = blake3::hash(token.trim_ascii());
        let mut found = None;
        for (hash, identity) in &self.0 {
            if *hash == presented {
                found = Some(identity);
            }
        }
        found.cloned()
    }
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'@' | b':' | b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# trainers\nteam-a aaaaaaaaaaaaaaaa1\n\n  team-a\taaaaaaaaaaaaaaaa2 \r\n\
                        spiffe://x/b bbbbbbbbbbbbbbbb\n";

    #[test]
    fn only_a_known_token_identifies_its_owner() {
        let tokens = Tokens::parse(FILE.as_bytes()).unwrap();
        let identify = |header: &str| tokens.identify(header.as_bytes());
        for (header, identity) in [
            ("Bearer aaaaaaaaaaaaaaaa1", "team-a"),
            ("bearer  aaaaaaaaaaaaaaaa2 ", "team-a"),
            ("BEARER bbbbbbbbbbbbbbbb", "spiffe://x/b"),
        ] {
            assert_eq!(identify(header).as_deref(), Some(identity), "{header}");
        }
        for header in ["", "Bearer ", "Bearer", "aaaaaaaaaaaaaaaa1", "Basic aaaaaaaaaaaaaaaa1"] {
            assert_eq!(identify(header), None, "{header}");
        }
        for header in ["Bearer aaaaaaaaaaaaaaaa", "Bearer team-a", "Bearer aaaaaaaaaaaaaaaa1x"] {
            assert_eq!(identify(header), None, "{header}");
        }
    }

    #[test]
    fn errors_in_a_token_file_never_contain_a_token() {
        let secret = "s3cretS3cretS3cret";
        for (text, says) in [
            (secret.to_owned(), "line 1: expected `identity token`"),
            (format!("a {secret} b"), "line 1"),
            (format!("a {secret}\nb {secret}"), "line 2: duplicate token"),
            ("\na s3cret".to_owned(), "line 2: invalid token: expected at least 16"),
            (format!("a\u{7f} {secret}"), "line 1: invalid identity"),
            ("# nothing\n".to_owned(), "no token found"),
        ] {
            let error = Tokens::parse(text.as_bytes()).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(!error.to_lowercase().contains("s3cret"), "{error}");
        }
        assert!(Tokens::parse(b"\xff").is_err());
    }
}
