//! Tokens of Rust source: what is left without comments, literals and white space.

/// One token. Literals are dropped, except for strings, because `#[path = "..."]` holds one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Ident(String),
    Text(String),
    /// `::`
    PathSep,
    Punct(char),
}

/// Splits a file into tokens. It accepts anything: `rustc` has already checked the syntax.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: source };
    std::iter::from_fn(|| lexer.next()).collect()
}

struct Lexer<'a> {
    rest: &'a str,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<Token> {
        loop {
            self.rest = self.rest.trim_start();
            let first = self.rest.chars().next()?;
            if self.rest.starts_with("//") {
                self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
            } else if self.rest.starts_with("/*") {
                self.block_comment();
            } else if self.rest.starts_with("::") {
                self.skip(2);
                return Some(Token::PathSep);
            } else if let Some(hashes) = self.raw_string() {
                return Some(self.raw_text(hashes));
            } else if self.rest.starts_with("b\"") || self.rest.starts_with("c\"") {
                self.skip(1);
            } else if first == '"' {
                return Some(self.text());
            } else if first == '\'' || self.rest.starts_with("b'") {
                self.char_or_lifetime();
            } else if first.is_alphabetic() || first == '_' {
                return Some(Token::Ident(self.word().to_owned()));
            } else if first.is_ascii_digit() {
                self.word();
            } else {
                self.skip(first.len_utf8());
                return Some(Token::Punct(first));
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn word(&mut self) -> &str {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    /// Block comments nest.
    fn block_comment(&mut self) {
        let mut depth = 0;
        loop {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
            } else {
                self.skip(self.rest.chars().next().map_or(0, char::len_utf8));
            }
            if depth == 0 || self.rest.is_empty() {
                return;
            }
        }
    }

    fn text(&mut self) -> Token {
        let mut escaped = false;
        let end = self.rest[1..].find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = 1 + end.unwrap_or(self.rest.len() - 1);
        let text = self.rest[1..end].to_owned();
        self.skip((end + 1).min(self.rest.len()));
        Token::Text(text)
    }

    /// The number of `#` of a raw string that starts here.
    fn raw_string(&self) -> Option<usize> {
        let rest = self.rest.trim_start_matches(['b', 'c']).strip_prefix('r')?;
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let prefix = self.rest.len() - rest.len();
        (prefix <= 2 && rest[hashes..].starts_with('"')).then_some(hashes)
    }

    fn raw_text(&mut self, hashes: usize) -> Token {
        let open = self.rest.find('"').map_or(self.rest.len(), |at| at + 1);
        self.skip(open);
        let close = format!("\"{}", "#".repeat(hashes));
        let end = self.rest.find(&close).unwrap_or(self.rest.len());
        let text = self.rest[..end].to_owned();
        self.skip((end + close.len()).min(self.rest.len()));
        Token::Text(text)
    }

    /// `'a'` and `'\n'` are characters, `'a` is a lifetime.
    fn char_or_lifetime(&mut self) {
        self.skip(self.rest.find('\'').map_or(0, |at| at + 1));
        let mut chars = self.rest.char_indices();
        match (chars.next(), chars.next()) {
            (Some((_, '\\')), Some(_)) => {
                let close = self.rest[2..].find('\'').map_or(self.rest.len(), |at| at + 3);
                self.skip(close);
            }
            (Some(_), Some((at, '\''))) => self.skip(at + 1),
            _ => {
                self.word();
            }
        }
    }
}

#[test]
fn comments_and_literals_are_no_code() {
    let source = r##"
        a /* b /* c */ d */ e // f
        "g\" h" r#"i "j" k"# 'l' '\'' '\u{6d}' b'n' &'o str 1_0u8 p::q
    "##;
    let words: Vec<String> = tokens(source)
        .into_iter()
        .filter_map(|token| match token {
            Token::Ident(word) => Some(word),
            _ => None,
        })
        .collect();
    assert_eq!(words, ["a", "e", "str", "p", "q"]);
}
