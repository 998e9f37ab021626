//! Descriptors: their values, which are set, checked when the descriptor is finalized, and read.
//!
//! A descriptor keeps a copy of each descriptor that it is given, as cuDNN does: a child must be finalized before it is set, and may
//! be destroyed afterward.

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Arc;

use super::attributes::{self, Attribute, Need};
use super::names::{Type, attribute, kind};
use crate::dnn::{Answer, Status, wrong};
use crate::table::Table;

#[derive(Clone, Debug)]
pub(super) struct Descriptor {
    pub(super) kind: u32,
    pub(super) values: Values,
    /// What the descriptor means, once it is finalized.
    pub(super) meaning: Option<Meaning>,
}

/// A tensor, an operation, a plan, ...
pub(super) type Meaning = Arc<dyn Any + Send + Sync>;

/// The values of attributes, by number.
pub(super) type Values = BTreeMap<u32, Value>;

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// The bits of each element.
    Plain(Type, Vec<u64>),
    Children(Vec<Descriptor>),
}

/// All descriptors of the process. The handle of a destroyed one is never used again.
pub(super) static DESCRIPTORS: Table<Descriptor> = Table::new();

pub(super) fn get(handle: usize) -> Answer<Descriptor> {
    match DESCRIPTORS.get(handle) {
        Some(found) => Ok(found),
        None if handle == 0 => wrong(Status::NULL_POINTER, "a descriptor is NULL"),
        None => wrong(Status::BAD_PARAM, "a descriptor that does not exist, or was destroyed"),
    }
}

impl Descriptor {
    pub(super) fn new(kind: u32) -> Answer<Self> {
        match attributes::of(kind) {
            Some(_) => Ok(Self { kind, values: Values::new(), meaning: None }),
            None if kind <= kind::LAST => {
                wrong(Status::NOT_SUPPORTED, format!("descriptors of kind {kind}"))
            }
            None => wrong(Status::ALLOCATION, format!("there are no descriptors of kind {kind}")),
        }
    }

    /// A descriptor that the library makes.
    pub(super) fn made(kind: u32, values: Values, meaning: Meaning) -> Self {
        Self { kind, values, meaning: Some(meaning) }
    }

    fn attribute(&self, number: u32, type_: u32) -> Answer<(&'static Attribute, Type)> {
        let known = attributes::of(self.kind).unwrap_or(&[]);
        let Some(found) = known.iter().find(|known| known.number == number) else {
            let what = format!("a descriptor of kind {} has no {}", self.kind, attribute(number));
            return wrong(Status::BAD_PARAM, what);
        };
        if let Some(type_) = found.types.iter().find(|known| known.number == type_) {
            return Ok((found, *type_));
        }
        let what = format!("{} has type {}, not {type_}", attribute(number), found.types[0].number);
        // As cuDNN answers.
        let is_pack = self.kind == kind::VARIANT_PACK;
        wrong(if is_pack { Status::NOT_SUPPORTED } else { Status::ATTRIBUTE_TYPE }, what)
    }

    /// # Safety
    /// The array has `count` elements of the type.
    pub(super) unsafe fn set(
        &mut self,
        number: u32,
        type_: u32,
        count: i64,
        array: *const c_void,
    ) -> Answer {
        if self.meaning.is_some() {
            let what = format!("{} is set after the descriptor was finalized", attribute(number));
            return wrong(Status::BAD_PARAM, what);
        }
        let (found, type_) = self.attribute(number, type_)?;
        match found.need {
            Need::ReadOnly => {
                return wrong(Status::BAD_PARAM, format!("{} is read-only", attribute(number)));
            }
            Need::Unsupported => return wrong(Status::NOT_SUPPORTED, attribute(number)),
            Need::Required | Need::Optional => {}
        }
        let count =
            usize::try_from(count).ok().filter(|count| (found.least..=found.most).contains(count));
        let Some(count) = count else {
            let what =
                format!("{} has {} to {} elements", attribute(number), found.least, found.most);
            return wrong(Status::BAD_PARAM, what);
        };
        if count > 0 && array.is_null() {
            return wrong(
                Status::BAD_PARAM,
                format!("the values of {} are NULL", attribute(number)),
            );
        }
        // SAFETY: the caller guarantees the array.
        let raw: Vec<u64> = (0..count).map(|at| unsafe { read(array, at, type_.bytes) }).collect();
        let value = if type_ == Type::DESCRIPTOR {
            let mut children = Vec::with_capacity(count);
            for handle in raw {
                let child = get(usize::try_from(handle).unwrap_or(0))?;
                if self.kind == kind::GRAPH && child.meaning.is_none() {
                    return wrong(Status::NOT_FINALIZED, "an operation is not finalized");
                }
                children.push(child);
            }
            Value::Children(children)
        } else {
            Value::Plain(type_, raw)
        };
        self.values.insert(number, value);
        Ok(())
    }

    /// What a finalized descriptor means, if it is a `T`.
    pub(super) fn is<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.meaning.clone()?.downcast().ok()
    }

    /// Checks that the descriptor can be finalized: required attributes are set, and children were finalized before they were set.
    pub(super) fn check(&self) -> Answer {
        if self.meaning.is_some() {
            return wrong(Status::BAD_PARAM, "a descriptor is finalized twice");
        }
        for known in attributes::of(self.kind).unwrap_or(&[]) {
            if known.need == Need::Required && !self.values.contains_key(&known.number) {
                return wrong(
                    Status::BAD_PARAM,
                    format!("{} was not set", attribute(known.number)),
                );
            }
            if let Some(Value::Children(children)) = self.values.get(&known.number)
                && children.iter().any(|child| child.meaning.is_none())
            {
                let what =
                    format!("{} was not finalized before it was set", attribute(known.number));
                return wrong(Status::NOT_FINALIZED, what);
            }
        }
        Ok(())
    }

    /// Copies the values of an attribute. Returns how many elements there are, or were copied.
    ///
    /// # Safety
    /// The array has room for `room` elements of the type.
    pub(super) unsafe fn read(
        &self,
        number: u32,
        type_: u32,
        room: i64,
        array: *mut c_void,
    ) -> Answer<i64> {
        let (found, type_) = self.attribute(number, type_)?;
        if self.meaning.is_none() {
            let what = format!("{} is read before the descriptor is finalized", attribute(number));
            return wrong(Status::NOT_INITIALIZED, what);
        }
        if found.need == Need::Unsupported {
            return wrong(Status::NOT_SUPPORTED, attribute(number));
        }
        let Ok(room) = usize::try_from(room) else {
            return wrong(Status::BAD_PARAM, format!("{room} elements are requested"));
        };
        let there = self.values.get(&number).map_or(0, Value::len);
        if array.is_null() {
            if room > 0 {
                return wrong(Status::NULL_POINTER, "the array for the values is NULL");
            }
            return Ok(i64::try_from(there).unwrap_or(i64::MAX));
        }
        let count = match self.values.get(&number) {
            None => 0,
            Some(Value::Plain(stored, raw)) => {
                if stored.number != type_.number {
                    let what = format!("{} was set with type {}", attribute(number), stored.number);
                    return wrong(Status::ATTRIBUTE_TYPE, what);
                }
                for (at, bits) in raw.iter().take(room).enumerate() {
                    // SAFETY: the caller guarantees the room.
                    unsafe { write(array, at, type_.bytes, *bits) };
                }
                raw.len().min(room)
            }
            Some(Value::Children(children)) => {
                let mut filled = 0;
                for child in children.iter().take(room) {
                    // SAFETY: as above. The elements are handles of the caller.
                    let handle = unsafe { read(array, filled, type_.bytes) };
                    if !fill(usize::try_from(handle).unwrap_or(0), child) {
                        break;
                    }
                    filled += 1;
                }
                filled
            }
        };
        Ok(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

/// Gives a descriptor of the caller, which is new, the contents of one of the library's. Returns whether it could.
fn fill(handle: usize, with: &Descriptor) -> bool {
    match get(handle) {
        Ok(found) if found.kind == with.kind && found.meaning.is_none() => {
            DESCRIPTORS.set(handle, with.clone()).is_some()
        }
        Ok(found) => {
            let (wanted, kind) = (with.kind, found.kind);
            crate::report::log(&format!(
                "cuDNN: a result needs a new descriptor of kind {wanted}: this one is of kind {kind}, or was finalized"
            ));
            false
        }
        Err(_) => false,
    }
}

impl Value {
    fn len(&self) -> usize {
        match self {
            Self::Plain(_, raw) => raw.len(),
            Self::Children(children) => children.len(),
        }
    }

    pub(super) fn ints(values: &[i64]) -> Self {
        Self::Plain(Type::INT64, values.iter().map(|value| value.cast_unsigned()).collect())
    }

    pub(super) fn numbers(type_: Type, values: &[u32]) -> Self {
        Self::Plain(type_, values.iter().map(|value| u64::from(*value)).collect())
    }
}

/// # Safety
/// The array has an element at this index.
unsafe fn read(array: *const c_void, at: usize, bytes: usize) -> u64 {
    let mut raw = [0; 8];
    // SAFETY: the caller guarantees it.
    unsafe { raw.as_mut_ptr().copy_from_nonoverlapping(array.cast::<u8>().add(at * bytes), bytes) };
    u64::from_le_bytes(raw)
}

/// # Safety
/// The array has room for an element at this index.
unsafe fn write(array: *mut c_void, at: usize, bytes: usize, bits: u64) {
    // SAFETY: the caller guarantees it.
    unsafe {
        array
            .cast::<u8>()
            .add(at * bytes)
            .copy_from_nonoverlapping(bits.to_le_bytes().as_ptr(), bytes);
    }
}
