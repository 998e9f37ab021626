//! The pickles of CIFAR's batches for Python: a dictionary with one large array of bytes and a few lists.
//!
//! Nothing of a pickle is executed. Calls become opaque values, and strings stay where they are in the
//! file, so that an image is a range of it. Only the operations that these files need are known.

use std::ops::Range;

use super::super::error::DatasetError;
use super::window::Window;

/// Most operations of a pickle. That of CIFAR-100's training images has 370 thousand.
const MAX_OPERATIONS: u32 = 4 << 20;

/// Longest key of a dictionary.
const MAX_KEY: u64 = 64;

/// A value of a pickle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// Something that is not needed: a float, a function.
    Opaque,
    Int(i64),
    /// A string of bytes or text, as a range of the file.
    Bytes(u64, u64),
    /// A value of several others, by its number.
    Compound(usize),
    /// The start of the values of the next compound.
    Mark,
}

/// A loaded pickle.
pub(super) struct Pickle<'w, 'a> {
    window: &'w mut Window<'a>,
    at: u64,
    stack: Vec<Value>,
    memo: Vec<Value>,
    /// The parts of each compound value: of a list or tuple its items, of a dictionary its keys and
    /// values, of an object its arguments and its state.
    compounds: Vec<Vec<Value>>,
    /// The dictionary.
    root: usize,
}

impl<'w, 'a> Pickle<'w, 'a> {
    /// Reads a whole pickle, which must be a dictionary.
    ///
    /// # Errors
    /// When the file cannot be read, or is not such a pickle.
    pub(super) fn load(window: &'w mut Window<'a>) -> Result<Self, DatasetError> {
        let (stack, memo, compounds) = (Vec::new(), Vec::new(), Vec::new());
        let mut pickle = Self { window, at: 0, stack, memo, compounds, root: 0 };
        for _ in 0..MAX_OPERATIONS {
            let operation = pickle.take::<1>()?[0];
            if operation == b'.' {
                let Value::Compound(root) = pickle.pop()? else {
                    return Err(pickle.error("it is not a dictionary"));
                };
                pickle.root = root;
                return Ok(pickle);
            }
            pickle.run(operation)?;
        }
        Err(pickle.error("it has more than 4 million parts"))
    }

    /// The whole numbers of a list in the dictionary; `None` if there is no such list.
    pub(super) fn numbers(&mut self, key: &str) -> Result<Option<Vec<i64>>, DatasetError> {
        let Some(list) = self.list(key)? else { return Ok(None) };
        let number =
            |value: Value| if let Value::Int(number) = value { Some(number) } else { None };
        Ok(list.into_iter().map(number).collect())
    }

    /// The strings of a list in the dictionary, as ranges of the file; `None` if there is no such list.
    pub(super) fn strings(&mut self, key: &str) -> Result<Option<Vec<Range<u64>>>, DatasetError> {
        let Some(list) = self.list(key)? else { return Ok(None) };
        let string = |value: Value| match value {
            Value::Bytes(start, end) => Some(start..end),
            _ => None,
        };
        Ok(list.into_iter().map(string).collect())
    }

    /// The bytes of an array in the dictionary: a string, or the only string of the state of a NumPy
    /// array. `None` if there is no such array, or one in the order of Fortran.
    pub(super) fn array(&mut self, key: &str) -> Result<Option<Range<u64>>, DatasetError> {
        let array = match self.get(key)? {
            Some(Value::Bytes(start, end)) => return Ok(Some(start..end)),
            Some(Value::Compound(array)) => array,
            _ => return Ok(None),
        };
        let Some(Value::Compound(state)) = self.compounds[array].last() else { return Ok(None) };
        Ok(match self.compounds[*state][..] {
            [_, _, _, Value::Int(0), Value::Bytes(start, end)] => Some(start..end),
            _ => None,
        })
    }

    fn list(&mut self, key: &str) -> Result<Option<Vec<Value>>, DatasetError> {
        Ok(match self.get(key)? {
            Some(Value::Compound(list)) => Some(self.compounds[list].clone()),
            _ => None,
        })
    }

    fn get(&mut self, key: &str) -> Result<Option<Value>, DatasetError> {
        for pair in self.compounds[self.root].as_chunks::<2>().0 {
            let [Value::Bytes(start, end), value] = *pair else { continue };
            if end - start <= MAX_KEY && self.window.read(start, end - start)? == key.as_bytes() {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    fn run(&mut self, operation: u8) -> Result<(), DatasetError> {
        match operation {
            // The version of the format, and the length of a part of the file.
            0x80 => self.pass(1)?,
            0x95 => self.pass(8)?,
            b'(' => self.stack.push(Value::Mark),
            b'N' => self.stack.push(Value::Opaque),
            0x88 => self.stack.push(Value::Int(1)),
            0x89 => self.stack.push(Value::Int(0)),
            b'K' => self.int(|[byte]: [u8; 1]| byte.into())?,
            b'M' => self.int(|bytes| u16::from_le_bytes(bytes).into())?,
            b'J' => self.int(|bytes| i32::from_le_bytes(bytes).into())?,
            0x8A => {
                let [length] = self.take()?;
                self.string(length.into())?;
                let long = self.pop()?;
                let long = self.long(long)?;
                self.stack.push(long);
            }
            b'U' | b'C' | 0x8C | b'T' | b'B' | b'X' | 0x8D | 0x8E => {
                let length = match operation {
                    b'U' | b'C' | 0x8C => u8::from_le_bytes(self.take()?).into(),
                    b'T' | b'B' | b'X' => u32::from_le_bytes(self.take()?).into(),
                    _ => u64::from_le_bytes(self.take()?),
                };
                self.string(length)?;
            }
            b'c' => {
                self.line()?;
                self.line()?;
                self.stack.push(Value::Opaque);
            }
            0x93 => {
                self.pop()?;
                self.pop()?;
                self.stack.push(Value::Opaque);
            }
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember(operation)?,
            b']' | b'}' | b')' => self.compound(Vec::new()),
            b't' => {
                let items = self.pop_to_mark()?;
                self.compound(items);
            }
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(operation - 0x84))?;
                self.compound(items);
            }
            // The state of an object is added to it as an item is to a list.
            b'a' | b'b' | b's' => {
                let items = self.pop_many(if operation == b's' { 2 } else { 1 })?;
                self.extend(items)?;
            }
            b'e' | b'u' => {
                let items = self.pop_to_mark()?;
                self.extend(items)?;
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                self.pop()?;
                self.compound(vec![arguments]);
            }
            _ => {
                let what = format!("its operation 0x{operation:02x} is not known");
                return Err(self.error(&what));
            }
        }
        Ok(())
    }

    /// Writes a value to the memo, or reads one from it.
    fn remember(&mut self, operation: u8) -> Result<(), DatasetError> {
        let index = match operation {
            b'q' | b'h' => usize::from(self.take::<1>()?[0]),
            b'r' | b'j' => u32::from_le_bytes(self.take()?) as usize,
            _ => self.memo.len(),
        };
        if matches!(operation, b'h' | b'j') {
            let value = self.memo.get(index).copied();
            self.stack.push(value.ok_or_else(|| self.error("a value is missing"))?);
            return Ok(());
        }
        let value = self.stack.last().copied().ok_or_else(|| self.error("a value is missing"))?;
        if index >= MAX_OPERATIONS as usize {
            return Err(self.error("it has more than 4 million parts"));
        }
        if index >= self.memo.len() {
            self.memo.resize(index + 1, Value::Opaque);
        }
        self.memo[index] = value;
        Ok(())
    }

    fn compound(&mut self, items: Vec<Value>) {
        self.stack.push(Value::Compound(self.compounds.len()));
        self.compounds.push(items);
    }

    /// Adds parts to the compound on top of the stack.
    fn extend(&mut self, items: Vec<Value>) -> Result<(), DatasetError> {
        match self.stack.last() {
            Some(Value::Compound(index)) => {
                self.compounds[*index].extend(items);
                Ok(())
            }
            _ => Err(self.error("a list or object is missing")),
        }
    }

    fn pop(&mut self) -> Result<Value, DatasetError> {
        self.stack.pop().ok_or_else(|| self.error("a value is missing"))
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>, DatasetError> {
        let start = self.stack.len().checked_sub(count);
        let start = start.ok_or_else(|| self.error("a value is missing"))?;
        Ok(self.stack.split_off(start))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, DatasetError> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark);
        let mark = mark.ok_or_else(|| self.error("a value is missing"))?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn int<const N: usize>(&mut self, value: fn([u8; N]) -> i64) -> Result<(), DatasetError> {
        let bytes = self.take()?;
        self.stack.push(Value::Int(value(bytes)));
        Ok(())
    }

    /// A number of any length, which is only known if it fits into 64 bits.
    fn long(&mut self, bytes: Value) -> Result<Value, DatasetError> {
        let Value::Bytes(start, end) = bytes else { return Ok(Value::Opaque) };
        if end - start > 8 {
            return Ok(Value::Opaque);
        }
        let bytes = self.window.read(start, end - start)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xFF } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    /// Passes over a string.
    fn string(&mut self, length: u64) -> Result<(), DatasetError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.window.size());
        let end = end.ok_or_else(|| self.error("the file is truncated"))?;
        self.stack.push(Value::Bytes(self.at, end));
        self.at = end;
        Ok(())
    }

    fn pass(&mut self, length: u64) -> Result<(), DatasetError> {
        self.string(length)?;
        self.stack.pop();
        Ok(())
    }

    /// Passes over a line.
    fn line(&mut self) -> Result<(), DatasetError> {
        while self.take::<1>()? != [b'\n'] {}
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], DatasetError> {
        if self.window.size() - self.at < N as u64 {
            return Err(self.error("the file is truncated"));
        }
        let bytes = self.window.read(self.at, N as u64)?;
        let bytes = *bytes.first_chunk().expect("as many bytes were read");
        self.at += N as u64;
        Ok(bytes)
    }

    fn error(&self, what: &str) -> DatasetError {
        DatasetError::Shard {
            path: self.window.path().into(),
            offset: self.at,
            what: format!(
                "{what}, so it is not a batch of CIFAR as it is distributed; restore it, or use the binary \
                 version"
            ),
        }
    }
}
