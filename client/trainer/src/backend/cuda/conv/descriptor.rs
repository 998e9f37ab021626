//! Backend descriptors of cuDNN's graph API, each destroyed once.
//!
//! A descriptor is created, its attributes are set, and it is finalized; after that, its attributes are only read.
//! cuDNN's manual does not say whether an attribute that is another descriptor copies or references it. So a
//! descriptor here keeps those that it was given. A descriptor that is read from another one is created by the caller,
//! filled by cuDNN, and owned by the caller.

#![expect(unsafe_code, reason = "calls of cuDNN")]

use std::rc::Rc;

use cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendAttributeType_t as Type;
use sys::cudnnBackendDescriptorType_t as Kind;

use super::library::{GraphApi, Handle, Raw};
use super::refusal::Refusal;

/// A backend descriptor.
pub(super) struct Descriptor {
    api: GraphApi,
    raw: Raw,
    /// The descriptors that this one refers to.
    kept: Vec<Rc<Self>>,
}

impl Descriptor {
    /// Creates a descriptor, sets its attributes and finalizes it.
    pub(super) fn build(
        api: GraphApi,
        kind: Kind,
        set: impl FnOnce(&mut Self) -> Result<(), Refusal>,
    ) -> Result<Rc<Self>, Refusal> {
        let mut descriptor = Self::empty(api, kind)?;
        set(&mut descriptor)?;
        // SAFETY: created above.
        let finalized = unsafe { api.finalize(descriptor.raw) };
        finalized.map_err(|refusal| Refusal(format!("{refusal} when finalizing {kind:?}")))?;
        Ok(Rc::new(descriptor))
    }

    /// A descriptor without attributes.
    fn empty(api: GraphApi, kind: Kind) -> Result<Self, Refusal> {
        Ok(Self { api, raw: api.create(kind)?, kept: Vec::new() })
    }

    pub(super) const fn raw(&self) -> Raw {
        self.raw
    }

    /// Sets an attribute of whole numbers.
    pub(super) fn numbers(&mut self, name: Name, numbers: &[i64]) -> Result<(), Refusal> {
        // SAFETY: a live descriptor and numbers of 64 bits.
        unsafe { self.api.set(self.raw, name, Type::CUDNN_TYPE_INT64, numbers) }
    }

    /// Sets an attribute that is an enumerator of the given type.
    pub(super) fn setting(&mut self, name: Name, kind: Type, value: u32) -> Result<(), Refusal> {
        // SAFETY: a live descriptor; enumerators have 32 bits.
        unsafe { self.api.set(self.raw, name, kind, &[value]) }
    }

    /// Sets an attribute that is true or false.
    pub(super) fn flag(&mut self, name: Name, flag: bool) -> Result<(), Refusal> {
        // SAFETY: a live descriptor; a boolean has one byte.
        unsafe { self.api.set(self.raw, name, Type::CUDNN_TYPE_BOOLEAN, &[flag]) }
    }

    /// Sets an attribute that is a factor.
    pub(super) fn factor(&mut self, name: Name, factor: f32) -> Result<(), Refusal> {
        // SAFETY: a live descriptor.
        unsafe { self.api.set(self.raw, name, Type::CUDNN_TYPE_FLOAT, &[factor]) }
    }

    /// Sets an attribute that is a handle.
    pub(super) fn handle(&mut self, name: Name, handle: &Handle) -> Result<(), Refusal> {
        // SAFETY: a live descriptor and handle.
        unsafe { self.api.set(self.raw, name, Type::CUDNN_TYPE_HANDLE, &[handle.raw]) }
    }

    /// Sets an attribute of addresses on the GPU.
    pub(super) fn addresses(&mut self, name: Name, addresses: &[u64]) -> Result<(), Refusal> {
        // SAFETY: a live descriptor; pointers have 64 bits. cuDNN does not read from them here.
        unsafe { self.api.set(self.raw, name, Type::CUDNN_TYPE_VOID_PTR, addresses) }
    }

    /// Sets an attribute of descriptors, and keeps them.
    pub(super) fn descriptors(&mut self, name: Name, given: &[Rc<Self>]) -> Result<(), Refusal> {
        let raw: Vec<Raw> = given.iter().map(|descriptor| descriptor.raw).collect();
        self.kept.extend(given.iter().map(Rc::clone));
        // SAFETY: live descriptors.
        unsafe { self.api.set(self.raw, name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &raw) }
    }

    /// Keeps a descriptor to which this one may refer by way of another one, which cuDNN filled.
    pub(super) fn keep(&mut self, other: &Rc<Self>) {
        self.kept.push(Rc::clone(other));
    }

    /// Reads an attribute of one whole number.
    pub(super) fn number(&self, name: Name) -> Result<i64, Refusal> {
        let mut number = [0_i64];
        // SAFETY: a live descriptor and a number of 64 bits.
        let count = unsafe { self.api.get(self.raw, name, Type::CUDNN_TYPE_INT64, &mut number) }?;
        if count == 1 { Ok(number[0]) } else { Err(Refusal(format!("{name:?} is empty"))) }
    }

    /// Reads an attribute of at most `room` enumerators of the given type.
    pub(super) fn settings(
        &self,
        name: Name,
        kind: Type,
        room: usize,
    ) -> Result<Vec<u32>, Refusal> {
        let mut values = vec![0_u32; room];
        // SAFETY: a live descriptor; enumerators have 32 bits.
        let count = unsafe { self.api.get(self.raw, name, kind, &mut values) }?;
        values.truncate(count);
        Ok(values)
    }

    /// Reads an attribute of at most `room` descriptors.
    pub(super) fn fill(
        &self,
        name: Name,
        kind: Kind,
        room: usize,
    ) -> Result<Vec<Rc<Self>>, Refusal> {
        let empty = (0..room).map(|_| Self::empty(self.api, kind)).collect::<Result<Vec<_>, _>>();
        let mut found = empty?;
        let mut raw: Vec<Raw> = found.iter().map(|descriptor| descriptor.raw).collect();
        let kind = Type::CUDNN_TYPE_BACKEND_DESCRIPTOR;
        // SAFETY: live descriptors, which cuDNN fills in place.
        let count = unsafe { self.api.get(self.raw, name, kind, &mut raw) }?;
        found.truncate(count);
        Ok(found.into_iter().map(Rc::new).collect())
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created once and destroyed once, before those that it refers to.
        unsafe { self.api.destroy(self.raw) };
    }
}
