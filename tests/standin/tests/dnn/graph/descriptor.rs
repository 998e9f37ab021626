//! Descriptors of cuDNN's backend API, by cudarc's bindings.

use std::ffi::c_void;
use std::ptr::null_mut;

use cudarc::cudnn::sys::{
    self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptor_t, cudnnBackendDescriptorType_t as Kind,
};

use crate::gpu::Failure;

pub(super) struct Descriptor {
    kind: Kind,
    pub(super) raw: cudnnBackendDescriptor_t,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor was created and is not used afterward.
        unsafe { sys::cudnnBackendDestroyDescriptor(self.raw) };
    }
}

impl Descriptor {
    pub(super) fn new(kind: Kind) -> Result<Self, Failure> {
        let mut raw = null_mut();
        // SAFETY: the pointer is valid.
        unsafe { sys::cudnnBackendCreateDescriptor(kind, &raw mut raw).result()? };
        Ok(Self { kind, raw })
    }

    /// Sets an attribute to values whose Rust type has the size of the attribute's type.
    pub(super) fn set<T>(self, name: Name, type_: Type, values: &[T]) -> Result<Self, Failure> {
        let (count, values) = (i64::try_from(values.len())?, values.as_ptr().cast());
        // SAFETY: the array has this many elements.
        unsafe {
            sys::cudnnBackendSetAttribute(self.raw, name, type_, count, values).result()?;
        }
        Ok(self)
    }

    pub(super) fn ints(self, name: Name, values: &[i64]) -> Result<Self, Failure> {
        self.set(name, Type::CUDNN_TYPE_INT64, values)
    }

    pub(super) fn children(self, name: Name, values: &[&Self]) -> Result<Self, Failure> {
        let raw: Vec<_> = values.iter().map(|child| child.raw).collect();
        self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &raw)
    }

    pub(super) fn finalize(self) -> Result<Self, Failure> {
        // SAFETY: the descriptor exists.
        unsafe { sys::cudnnBackendFinalize(self.raw).result()? };
        Ok(self)
    }

    /// Reads at most `room` values of an attribute.
    pub(super) fn get<T: Copy + Default>(
        &self,
        name: Name,
        type_: Type,
        room: usize,
    ) -> Result<Vec<T>, Failure> {
        let mut values = vec![T::default(); room];
        let count = self.read(name, type_, room, values.as_mut_ptr().cast())?;
        values.truncate(count);
        Ok(values)
    }

    /// Reads at most `room` descriptors of an attribute.
    pub(super) fn fill(&self, name: Name, kind: Kind, room: usize) -> Result<Vec<Self>, Failure> {
        let mut made = Vec::with_capacity(room);
        for _ in 0..room {
            made.push(Self::new(kind)?);
        }
        let mut raw: Vec<_> = made.iter().map(|child| child.raw).collect();
        let type_ = Type::CUDNN_TYPE_BACKEND_DESCRIPTOR;
        let count = self.read(name, type_, room, raw.as_mut_ptr().cast())?;
        made.truncate(count);
        Ok(made)
    }

    fn read(
        &self,
        name: Name,
        type_: Type,
        room: usize,
        values: *mut c_void,
    ) -> Result<usize, Failure> {
        let mut count = 0;
        // SAFETY: the array has this much room.
        unsafe {
            sys::cudnnBackendGetAttribute(
                self.raw,
                name,
                type_,
                i64::try_from(room)?,
                &raw mut count,
                values,
            )
            .result()?;
        }
        Ok(usize::try_from(count)?)
    }

    /// A new descriptor of the same kind.
    pub(super) fn another(&self) -> Result<Self, Failure> {
        Self::new(self.kind)
    }
}
