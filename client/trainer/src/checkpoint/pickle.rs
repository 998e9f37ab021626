//! The pickle of a state dict, as `torch.save` writes it: data, read without running anything.
//!
//! A pickle is a program for a stack machine that can call any function of Python. Here it can call the few that
//! a state dict needs, which only describe tensors. Everything else is refused.

use std::collections::BTreeMap;

/// The remedy where a pickle has more than a state dict.
const SAVE: &str =
    "save the state dict alone, by torch.save(model.state_dict(), FILE), or as safetensors";

/// A value, which refers to others by their index in [`Pickle::values`]. Containers are filled after they were
/// created, and may be referred to from several places.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Int(i64),
    Tuple(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    /// A function or class of Python that a state dict may name.
    Global(Global),
    /// Numbers in a file of the archive.
    Storage {
        dtype: &'static str,
        file: String,
    },
    /// A view of a storage; offset and strides count numbers.
    Tensor {
        storage: usize,
        offset: u64,
        shape: Vec<u64>,
        strides: Vec<u64>,
    },
    /// None, a boolean, a float or a list, none of which a tensor depends on.
    Other,
}

/// The functions and classes that a state dict names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(&'static str),
}

/// Classes of storages, and the type of their numbers.
const STORAGES: [(&str, &str); 5] = [
    ("FloatStorage", "float32"),
    ("HalfStorage", "float16"),
    ("BFloat16Storage", "bfloat16"),
    ("DoubleStorage", "float64"),
    ("LongStorage", "int64"),
];

/// The values of a pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    pub(super) values: Vec<Value>,
    /// Index of the value that was pickled.
    pub(super) root: usize,
}

/// Reads a pickle.
///
/// # Errors
/// Says what is wrong, if it is truncated, or is not of a state dict.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle, String> {
    let mut machine = Machine { bytes, ..Machine::default() };
    while machine.step()? {}
    let root = machine.pop()?;
    Ok(Pickle { values: machine.values, root })
}

#[derive(Default)]
struct Machine<'a> {
    /// What is left to read.
    bytes: &'a [u8],
    values: Vec<Value>,
    stack: Vec<usize>,
    /// Lengths of the stack at its marks.
    marks: Vec<usize>,
    memo: BTreeMap<u32, usize>,
}

impl Machine<'_> {
    /// Runs one instruction. Returns whether another one follows.
    fn step(&mut self) -> Result<bool, String> {
        let [instruction] = self.take()?;
        match instruction {
            b'.' => return Ok(false),
            // The version of the format, and the length of a frame, which are of no use here.
            0x80 => drop(self.take::<1>()?),
            0x95 => drop(self.take::<8>()?),
            b'(' => self.marks.push(self.stack.len()),
            b'N' | 0x88 | 0x89 | b']' => self.push(Value::Other),
            b'G' => {
                self.take::<8>()?;
                self.push(Value::Other);
            }
            b'K' | b'M' | b'J' | 0x8a => self.int(instruction)?,
            b'X' | 0x8c => self.text(instruction)?,
            b'c' => self.global()?,
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85..=0x87 => {
                let count = usize::from(instruction - 0x84);
                let start = self.stack.len().checked_sub(count).ok_or_else(damaged)?;
                let items = self.stack.split_off(start);
                self.push(Value::Tuple(items));
            }
            b't' => {
                let items = self.since_mark()?;
                self.push(Value::Tuple(items));
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b's' => {
                let start = self.stack.len().checked_sub(2).ok_or_else(damaged)?;
                let items = self.stack.split_off(start);
                self.fill(&items)?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.fill(&items)?;
            }
            // Items of a list, and the attributes of a dict, such as the versions of its modules.
            b'a' | b'b' => drop(self.pop()?),
            b'e' => drop(self.since_mark()?),
            b'q' | b'r' | 0x94 => self.remember(instruction)?,
            b'h' | b'j' => self.recall(instruction)?,
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            other => {
                return Err(format!(
                    "its pickle has the instruction {other:#04x}, which no state dict needs: {SAVE}"
                ));
            }
        }
        Ok(true)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (first, rest) = self.bytes.split_first_chunk().ok_or_else(damaged)?;
        self.bytes = rest;
        Ok(*first)
    }

    fn push(&mut self, value: Value) {
        self.values.push(value);
        self.stack.push(self.values.len() - 1);
    }

    fn pop(&mut self) -> Result<usize, String> {
        self.stack.pop().ok_or_else(damaged)
    }

    /// Takes the items above the last mark.
    fn since_mark(&mut self) -> Result<Vec<usize>, String> {
        let start = self.marks.pop().filter(|start| *start <= self.stack.len());
        Ok(self.stack.split_off(start.ok_or_else(damaged)?))
    }

    fn int(&mut self, instruction: u8) -> Result<(), String> {
        let number = match instruction {
            b'K' => self.take::<1>()?[0].into(),
            b'M' => u16::from_le_bytes(self.take()?).into(),
            b'J' => i32::from_le_bytes(self.take()?).into(),
            _ => {
                // Bytes of a number of any size, of which the last one has the sign.
                let [len] = self.take()?;
                let mut bytes = [0; 8];
                for at in 0..usize::from(len) {
                    let [byte] = self.take()?;
                    *bytes.get_mut(at).ok_or("its pickle has a number of more than 64 bits")? =
                        byte;
                }
                let unused = 64 - 8 * u32::from(len);
                i64::from_le_bytes(bytes).checked_shl(unused).map_or(0, |number| number >> unused)
            }
        };
        self.push(Value::Int(number));
        Ok(())
    }

    fn text(&mut self, instruction: u8) -> Result<(), String> {
        let len = match instruction {
            b'X' => u32::from_le_bytes(self.take()?) as usize,
            _ => self.take::<1>()?[0].into(),
        };
        let (text, rest) = self.bytes.split_at_checked(len).ok_or_else(damaged)?;
        self.bytes = rest;
        let text =
            str::from_utf8(text).map_err(|error| format!("its pickle is damaged: {error}"))?;
        self.push(Value::Text(text.to_owned()));
        Ok(())
    }

    /// A function or class, by its module and its name on a line each.
    fn global(&mut self) -> Result<(), String> {
        let mut line = || {
            let end = self.bytes.iter().position(|byte| *byte == b'\n').ok_or_else(damaged)?;
            let line = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
            self.bytes = &self.bytes[end + 1..];
            Ok::<_, String>(line)
        };
        let (module, name) = (line()?, line()?);
        let storage = STORAGES.iter().find(|(class, _)| module == "torch" && name == *class);
        let global = match (&*module, &*name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            _ => match storage {
                Some((_, dtype)) => Global::Storage(dtype),
                None => return Err(format!("its pickle names {module}.{name}: {SAVE}")),
            },
        };
        self.push(Value::Global(global));
        Ok(())
    }

    /// Adds keys and values to the dict below them.
    fn fill(&mut self, items: &[usize]) -> Result<(), String> {
        let (pairs, []) = items.as_chunks::<2>() else { return Err(damaged()) };
        let dict = *self.stack.last().ok_or_else(damaged)?;
        let Value::Dict(entries) = &mut self.values[dict] else { return Err(damaged()) };
        entries.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn remember(&mut self, instruction: u8) -> Result<(), String> {
        let key = match instruction {
            b'q' => self.take::<1>()?[0].into(),
            b'r' => u32::from_le_bytes(self.take()?),
            _ => u32::try_from(self.memo.len()).map_err(|error| error.to_string())?,
        };
        self.memo.insert(key, *self.stack.last().ok_or_else(damaged)?);
        Ok(())
    }

    fn recall(&mut self, instruction: u8) -> Result<(), String> {
        let key = match instruction {
            b'h' => self.take::<1>()?[0].into(),
            _ => u32::from_le_bytes(self.take()?),
        };
        self.stack.push(*self.memo.get(&key).ok_or_else(damaged)?);
        Ok(())
    }

    /// A storage: `("storage", class, file, device, count)`.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let [_, class, file, ..] = *self.tuple(id)? else { return Err(damaged()) };
        let (Value::Global(Global::Storage(dtype)), Value::Text(file)) =
            (&self.values[class], &self.values[file])
        else {
            return Err(damaged());
        };
        let storage = Value::Storage { dtype, file: file.clone() };
        self.push(storage);
        Ok(())
    }

    /// A call of a function with a tuple of arguments.
    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Global(function) = self.values[function] else { return Err(damaged()) };
        match (function, self.tuple(arguments)?) {
            (Global::OrderedDict, []) => self.push(Value::Dict(Vec::new())),
            (Global::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                let offset = self.number(offset)?;
                let (shape, strides) = (self.numbers(shape)?, self.numbers(strides)?);
                self.push(Value::Tensor { storage, offset, shape, strides });
            }
            // A parameter is its tensor.
            (Global::RebuildParameter, &[tensor, ..]) => self.stack.push(tensor),
            _ => return Err(format!("its pickle calls {function:?} with other arguments: {SAVE}")),
        }
        Ok(())
    }

    fn tuple(&self, index: usize) -> Result<&[usize], String> {
        match &self.values[index] {
            Value::Tuple(items) => Ok(items),
            _ => Err(damaged()),
        }
    }

    fn number(&self, index: usize) -> Result<u64, String> {
        match self.values[index] {
            Value::Int(number) => {
                u64::try_from(number).map_err(|error| format!("its pickle is damaged: {error}"))
            }
            _ => Err(damaged()),
        }
    }

    fn numbers(&self, index: usize) -> Result<Vec<u64>, String> {
        self.tuple(index)?.iter().map(|item| self.number(*item)).collect()
    }
}

fn damaged() -> String {
    "its pickle is damaged or truncated".to_owned()
}
