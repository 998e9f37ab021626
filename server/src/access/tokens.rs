//! Bearer tokens. Only their hashes are kept, so nothing that is logged or dumped can hold one.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};

/// Shorter tokens can be guessed.
const SHORTEST: usize = 16;
const LONGEST_IDENTITY: usize = 128;

/// Known tokens.
pub(super) struct Tokens(Vec<(blake3::Hash, Arc<str>)>);

impl Tokens {
    /// Reads lines of `identity token`; empty ones and those that start with `#` are comments. An
    /// identity may have several tokens, so that one can be replaced while both are valid.
    ///
    /// Errors name lines, never what may be a token.
    pub(super) fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(text).context("not UTF-8: write `identity token` lines")?;
        let mut tokens = Vec::<(blake3::Hash, Arc<str>)>::new();
        for (number, line) in (1..).zip(text.lines()) {
            let mut words = line.split_whitespace();
            let (identity, token) = match (words.next(), words.next(), words.next()) {
                (None, ..) => continue,
                (Some(first), ..) if first.starts_with('#') => continue,
                (Some(identity), Some(token), None) => (identity, token),
                _ => bail!("line {number}: write `identity token`"),
            };
            ensure!(
                identity.len() <= LONGEST_IDENTITY && identity.bytes().all(is_plain),
                "line {number}: an identity has letters, digits and . _ - @ : /, at most {LONGEST_IDENTITY}"
            );
            ensure!(
                token.len() >= SHORTEST && token.bytes().all(|byte| byte.is_ascii_graphic()),
                "line {number}: a token has at least {SHORTEST} visible ASCII characters"
            );
            let hash = blake3::hash(token.as_bytes());
            let new = tokens.iter().all(|(known, _)| *known != hash);
            ensure!(new, "line {number}: the token is that of an earlier line");
            tokens.push((hash, identity.into()));
        }
        ensure!(!tokens.is_empty(), "no token in it: write `identity token` lines");
        Ok(Self(tokens))
    }

    /// Whose token the value of an `authorization` header has.
    ///
    /// Hashes are compared in constant time, and all of them, so that the time tells nothing.
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
    fn each_token_names_its_identity_and_nothing_else_does() {
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
    fn what_is_wrong_with_a_file_is_said_without_saying_a_token() {
        let secret = "s3cretS3cretS3cret";
        for (text, says) in [
            (secret.to_owned(), "line 1: write `identity token`"),
            (format!("a {secret} b"), "line 1"),
            (format!("a {secret}\nb {secret}"), "line 2: the token is that of an earlier line"),
            ("\na s3cret".to_owned(), "line 2: a token has at least 16"),
            (format!("a\u{7f} {secret}"), "line 1: an identity has"),
            ("# nothing\n".to_owned(), "no token"),
        ] {
            let error = Tokens::parse(text.as_bytes()).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(!error.to_lowercase().contains("s3cret"), "{error}");
        }
        assert!(Tokens::parse(b"\xff").is_err());
    }
}
