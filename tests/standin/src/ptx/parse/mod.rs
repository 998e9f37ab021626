//! Parses tokens to variables, functions and statements. Names are not resolved yet.

mod body;

use super::lex::{Token, tokens};
use super::syntax::{Function, Source, Variable, width_of};

/// Parses a module, in the form that NVRTC emits.
pub(super) fn parse(text: &str) -> Result<Source<'_>, String> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0, line: 0 };
    let mut source = Source::default();
    while parser.at < tokens.len() {
        parser.item(&mut source).map_err(|what| {
            let at = parser.at.min(tokens.len() - 1);
            format!("PTX line {}: {what}", tokens[at].0)
        })?;
    }
    Ok(source)
}

struct Parser<'t, 'a> {
    tokens: &'t [(u32, Token<'a>)],
    at: usize,
    /// The last `.loc`.
    line: u32,
}

impl<'a> Parser<'_, 'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|token| token.1)
    }

    fn take(&mut self) -> Result<Token<'a>, String> {
        let token = self.peek().ok_or("the text ends too early")?;
        self.at += 1;
        Ok(token)
    }

    /// Consumes a punctuation character if it is next.
    fn sign(&mut self, sign: u8) -> bool {
        let found = self.peek() == Some(Token::Sign(sign));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: u8) -> Result<(), String> {
        if self.sign(sign) {
            return Ok(());
        }
        Err(format!("expected `{}`, found {:?}", char::from(sign), self.peek()))
    }

    fn word(&mut self) -> Result<&'a str, String> {
        match self.take()? {
            Token::Word(word) => Ok(word),
            other => Err(format!("expected a name, found {other:?}")),
        }
    }

    fn int(&mut self) -> Result<u64, String> {
        let negative = self.sign(b'-');
        match self.take()? {
            Token::Int(value) => Ok(if negative { value.wrapping_neg() } else { value }),
            other => Err(format!("expected a number, found {other:?}")),
        }
    }

    /// Parses an item at the top level.
    fn item(&mut self, source: &mut Source<'a>) -> Result<(), String> {
        match self.word()? {
            ".version" | ".target" | ".address_size" | ".file" => self.skip_directive(),
            ".section" => self.skip_braces()?,
            ".visible" | ".extern" | ".weak" | ".common" => {}
            ".entry" => source.functions.push(self.function(true)?),
            ".func" => source.functions.push(self.function(false)?),
            space @ (".global" | ".const" | ".shared") => {
                source.variables.push(self.variable(space)?);
                self.expect(b';')?;
            }
            other => return Err(format!("`{other}` is not known here")),
        }
        Ok(())
    }

    /// Skips a directive that ends with its line.
    fn skip_directive(&mut self) {
        let line = self.tokens[self.at - 1].0;
        while self.tokens.get(self.at).is_some_and(|token| token.0 == line) {
            self.at += 1;
        }
    }

    fn skip_braces(&mut self) -> Result<(), String> {
        while self.take()? != Token::Sign(b'{') {}
        let mut depth = 1;
        while depth > 0 {
            match self.take()? {
                Token::Sign(b'{') => depth += 1,
                Token::Sign(b'}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// After the space: `.align 4 .b8 name[16] = {...}`.
    fn variable(&mut self, space: &'a str) -> Result<Variable<'a>, String> {
        let (mut align, mut width) = (0, 0);
        let name = loop {
            match self.word()? {
                ".align" => align = self.int()?,
                ".ptr" | ".volatile" | ".v2" | ".v4" => {}
                kind if kind.starts_with('.') => {
                    // The attributes of `.ptr` are not used.
                    if let Some(bytes) = width_of(kind) {
                        width = bytes;
                    }
                }
                name => break name,
            }
        };
        if width == 0 {
            return Err(format!("`{name}` has no type"));
        }
        let mut count = 1;
        while self.sign(b'[') {
            count *= if self.sign(b']') { 0 } else { self.int()? };
            if count > 0 {
                self.expect(b']')?;
            }
        }
        let initial =
            if self.sign(b'=') { self.initial(name, width, width * count)? } else { Vec::new() };
        Ok(Variable { name, space, align: align.max(width), bytes: width * count, initial })
    }

    /// Parses initial values: numbers, or (nested) braces with numbers, padded with zeros.
    fn initial(&mut self, name: &str, width: u64, bytes: u64) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        let mut depth = 0;
        loop {
            let negative = self.sign(b'-');
            match self.take()? {
                Token::Sign(b'{') => depth += 1,
                Token::Sign(b'}') => depth -= 1,
                Token::Sign(b',') => {}
                Token::Int(value) | Token::Double(value) => {
                    let value = if negative { value.wrapping_neg() } else { value };
                    let width = usize::try_from(width).unwrap_or(8);
                    all.extend_from_slice(&value.to_le_bytes()[..width]);
                }
                Token::Single(value) => all.extend_from_slice(&value.to_le_bytes()),
                other => {
                    return Err(format!("`{name}` starts with {other:?}, which is not a number"));
                }
            }
            if depth == 0 {
                break;
            }
        }
        all.resize(usize::try_from(bytes).unwrap_or(0), 0);
        Ok(all)
    }

    /// After `.entry` or `.func`.
    fn function(&mut self, entry: bool) -> Result<Function<'a>, String> {
        let mut function = Function { entry, ..Function::default() };
        if !entry && self.peek() == Some(Token::Sign(b'(')) {
            function.returns = self.params()?;
        }
        function.name = self.word()?;
        if self.peek() == Some(Token::Sign(b'(')) {
            function.params = self.params()?;
        }
        loop {
            match self.take()? {
                Token::Sign(b';') => return Ok(function),
                Token::Sign(b'{') => break,
                Token::Word(".maxntid") => function.max_threads = Some(self.product()?),
                // `.noreturn`, `.minnctapersm 2`, `.reqntid 1, 2` and their numbers
                Token::Word(_) | Token::Int(_) | Token::Sign(b',') => {}
                other => return Err(format!("{other:?} before the body of `{}`", function.name)),
            }
        }
        function.body = Some(self.body()?);
        Ok(function)
    }

    fn product(&mut self) -> Result<u32, String> {
        let mut product = self.int()?;
        while self.sign(b',') {
            product *= self.int()?;
        }
        u32::try_from(product).map_err(|_large| "too many threads".to_owned())
    }

    fn params(&mut self) -> Result<Vec<Variable<'a>>, String> {
        self.expect(b'(')?;
        let mut params = Vec::new();
        while !self.sign(b')') {
            match self.word()? {
                space @ (".param" | ".reg") => params.push(self.variable(space)?),
                other => return Err(format!("`{other}` in a list of parameters")),
            }
            self.sign(b',');
        }
        Ok(params)
    }
}
