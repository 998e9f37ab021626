//! Parses the body of a function: declarations, labels and instructions.

use super::super::lex::Token;
use super::super::syntax::{Operand, Statement};
use super::Parser;

impl<'a> Parser<'_, 'a> {
    /// Statements up to the brace that closes the function.
    pub(super) fn body(&mut self) -> Result<Vec<Statement<'a>>, String> {
        let mut statements = Vec::new();
        let mut depth = 1;
        loop {
            match self.take()? {
                Token::Sign(b'{') => {
                    depth += 1;
                    statements.push(Statement::Open);
                }
                Token::Sign(b'}') => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(statements);
                    }
                    statements.push(Statement::Close);
                }
                Token::Sign(b'@') => {
                    let wanted = !self.sign(b'!');
                    let guard = Some((self.word()?, wanted));
                    let name = self.word()?;
                    statements.push(self.op(guard, name)?);
                }
                Token::Sign(b';') => {}
                Token::Word(word) => self.statement(word, &mut statements)?,
                other => return Err(format!("{other:?} in a function")),
            }
        }
    }

    fn statement(&mut self, word: &'a str, to: &mut Vec<Statement<'a>>) -> Result<(), String> {
        match word {
            ".loc" => {
                let line = match self.tokens.get(self.at + 1) {
                    Some((_, Token::Int(line))) => u32::try_from(*line).unwrap_or(0),
                    _ => return Err("`.loc` without a line".to_owned()),
                };
                // Line 0 is that of code without a source line.
                self.line = if line == 0 { self.line } else { line };
                self.skip_directive();
            }
            ".pragma" => {
                let Token::Text(text) = self.take()? else {
                    return Err("a pragma without text".to_owned());
                };
                to.push(Statement::Pragma(text));
            }
            ".reg" => self.registers(to)?,
            space @ (".local" | ".shared" | ".param" | ".global" | ".const") => {
                to.push(Statement::Variable(self.variable(space)?));
            }
            _ if self.sign(b':') => to.push(Statement::Label(word)),
            _ if word.starts_with('.') => {
                return Err(format!("`{word}` is not known in a function"));
            }
            _ => {
                let op = self.op(None, word)?;
                to.push(op);
            }
        }
        Ok(())
    }

    /// After `.reg`: `.b32 %r<47>` or `.b16 lo, hi`.
    fn registers(&mut self, to: &mut Vec<Statement<'a>>) -> Result<(), String> {
        let mut kind = self.word()?;
        if matches!(kind, ".v2" | ".v4") {
            kind = self.word()?;
        }
        loop {
            let name = self.word()?;
            let count = if self.sign(b'<') { Some(self.int()?) } else { None };
            if count.is_some() {
                self.expect(b'>')?;
            }
            to.push(Statement::Registers { kind, name, count });
            if !self.sign(b',') {
                return self.expect(b';');
            }
        }
    }

    fn op(
        &mut self,
        guard: Option<(&'a str, bool)>,
        name: &'a str,
    ) -> Result<Statement<'a>, String> {
        let mut operands = Vec::new();
        while !self.sign(b';') {
            operands.push(self.operand()?);
            self.sign(b',');
        }
        Ok(Statement::Op { line: self.line, guard, name, operands })
    }

    fn operand(&mut self) -> Result<Operand<'a>, String> {
        let first = match self.take()? {
            Token::Word(name) => Operand::Name(name),
            Token::Int(value) => Operand::Int(value),
            Token::Single(bits) => Operand::Single(bits),
            Token::Double(bits) => Operand::Double(bits),
            Token::Sign(b'!') => Operand::Not(self.word()?),
            Token::Sign(b'-') => Operand::Int(self.int()?.wrapping_neg()),
            Token::Sign(b'{') => self.group(b'}')?,
            Token::Sign(b'(') => self.group(b')')?,
            Token::Sign(b'[') => self.address()?,
            other => return Err(format!("{other:?} is no operand")),
        };
        if self.sign(b'|') {
            return Ok(Operand::Pair(Box::new((first, self.operand()?))));
        }
        Ok(first)
    }

    fn group(&mut self, end: u8) -> Result<Operand<'a>, String> {
        let mut all = Vec::new();
        while !self.sign(end) {
            all.push(self.operand()?);
            self.sign(b',');
        }
        Ok(Operand::Group(all))
    }

    fn address(&mut self) -> Result<Operand<'a>, String> {
        let base = match self.peek() {
            Some(Token::Word(name)) => {
                self.at += 1;
                self.sign(b'+');
                Some(name)
            }
            _ => None,
        };
        let offset = if self.peek() == Some(Token::Sign(b']')) { 0 } else { self.int()? };
        self.expect(b']')?;
        Ok(Operand::Address(base, offset.cast_signed()))
    }
}
