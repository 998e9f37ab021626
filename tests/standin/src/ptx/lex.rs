//! Splits PTX text into tokens.

/// A word, a number or a punctuation character. Words include dots: `ld.global.f32`, `%tid.x`, `.reg`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'a> {
    Word(&'a str),
    /// An integer, as 64 bits of two's complement.
    Int(u64),
    /// `0f3F800000`: the bits of an f32.
    Single(u32),
    /// `0d3FF0000000000000`: the bits of an f64.
    Double(u64),
    Text(&'a str),
    Sign(u8),
}

/// All tokens, with their lines in the PTX text for messages.
pub(super) fn tokens(text: &str) -> Result<Vec<(u32, Token<'_>)>, String> {
    let mut lexer = Lexer { text, at: 0, line: 1 };
    let mut all = Vec::with_capacity(text.len() / 4);
    while let Some(token) = lexer.next()? {
        all.push((lexer.line, token));
    }
    Ok(all)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Result<Option<Token<'a>>, String> {
        self.skip_blanks()?;
        let Some(first) = self.peek(0) else { return Ok(None) };
        Ok(Some(match first {
            b'"' => self.string()?,
            b'0'..=b'9' => self.number()?,
            _ if is_word(first) => Token::Word(self.word()),
            _ if first.is_ascii() => {
                self.at += 1;
                Token::Sign(first)
            }
            _ => return Err(format!("PTX line {}: a character that is not ASCII", self.line)),
        }))
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn skip_blanks(&mut self) -> Result<(), String> {
        while let Some(byte) = self.peek(0) {
            match (byte, self.peek(1)) {
                (b'/', Some(b'/')) => self.skip_to("\n").unwrap_or(()),
                (b'/', Some(b'*')) => {
                    self.skip_to("*/").ok_or_else(|| self.error("a comment without end"))?;
                    self.at += 2;
                }
                (b'\n', _) => {
                    self.line += 1;
                    self.at += 1;
                }
                _ if byte.is_ascii_whitespace() || byte == 0 => self.at += 1,
                _ => break,
            }
        }
        Ok(())
    }

    /// The text up to the next `end`, or to its end.
    fn skip_to(&mut self, end: &str) -> Option<()> {
        let rest = &self.text[self.at..];
        let found = rest.find(end);
        let skipped = found.unwrap_or(rest.len());
        let lines = rest[..skipped].matches('\n').count();
        self.line += u32::try_from(lines).unwrap_or(0);
        self.at += skipped;
        found.map(|_| ())
    }

    fn word(&mut self) -> &'a str {
        let start = self.at;
        while let Some(byte) = self.peek(0) {
            match byte {
                _ if is_word(byte) || byte.is_ascii_digit() => self.at += 1,
                b':' if self.peek(1) == Some(b':') => self.at += 2,
                _ => break,
            }
        }
        &self.text[start..self.at]
    }

    fn string(&mut self) -> Result<Token<'a>, String> {
        let start = self.at + 1;
        let length =
            self.text[start..].find('"').ok_or_else(|| self.error("a string without end"))?;
        self.at = start + length + 1;
        Ok(Token::Text(&self.text[start..start + length]))
    }

    fn number(&mut self) -> Result<Token<'a>, String> {
        let start = self.at;
        while self.peek(0).is_some_and(|b| b.is_ascii_alphanumeric() || b == b'.') {
            self.at += 1;
        }
        let number = &self.text[start..self.at];
        let hex = |digits| u64::from_str_radix(digits, 16).ok();
        let token = match number.get(..2) {
            Some("0f" | "0F") => {
                hex(&number[2..]).and_then(|bits| u32::try_from(bits).ok()).map(Token::Single)
            }
            Some("0d" | "0D") => hex(&number[2..]).map(Token::Double),
            Some("0x" | "0X") => hex(number[2..].trim_end_matches('U')).map(Token::Int),
            Some("0b" | "0B") => u64::from_str_radix(&number[2..], 2).ok().map(Token::Int),
            _ if number.contains('.') => {
                number.parse().ok().map(|value: f64| Token::Double(value.to_bits()))
            }
            _ => number.trim_end_matches('U').parse().ok().map(Token::Int),
        };
        token.ok_or_else(|| self.error(&format!("`{number}` is not a number")))
    }

    fn error(&self, what: &str) -> String {
        format!("PTX line {}: {what}", self.line)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}
