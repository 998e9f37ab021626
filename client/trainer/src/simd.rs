//! Scalar types and SIMD vectors of the CPU kernels, with dispatch at run time.
//!
//! A kernel is written once, generic over [`SimdVector`], and [`Real::dispatch`] runs it with the widest
//! vectors that the processor supports. Every addition of a product is a fused multiply-add, in the same
//! order for every vector width, so all widths give the same bits.
#![expect(
    unsafe_code,
    reason = "SIMD loads and stores, and calls to code for detected CPU features"
)]
#![expect(clippy::inline_always, reason = "kernels must be inlined where the features are enabled")]

use std::fmt::{Debug, Display};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Sub};

/// Columns of a weight panel, and of the tile that a kernel keeps in registers.
pub(crate) const PANEL: usize = 32;

/// A floating-point type: `f32` for training, `f64` for tests of gradients.
pub trait Real:
    Copy
    + Default
    + Debug
    + Display
    + PartialOrd
    + Send
    + Sync
    + Sum
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + crate::process_group::Element
    + 'static
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;

    /// Converts with rounding to nearest.
    fn from_f64(value: f64) -> Self;
    /// Converts exactly.
    fn to_f64(self) -> f64;
    /// Fused multiply-add: `self * a + b`, rounded once.
    #[must_use]
    fn fused(self, a: Self, b: Self) -> Self;
    /// Square root.
    #[must_use]
    fn root(self) -> Self;
    /// Runs a kernel with the widest vectors that the processor supports.
    #[doc(hidden)]
    fn dispatch<K: SimdKernel<Self>>(kernel: K) {
        Self::dispatch_at_most(SimdLevel::Avx512, kernel);
    }
    /// Runs a kernel with the widest supported vectors up to a level.
    #[doc(hidden)]
    fn dispatch_at_most<K: SimdKernel<Self>>(level: SimdLevel, kernel: K);
}

/// Rounds to f32.
#[expect(clippy::cast_possible_truncation, reason = "rounding is the purpose")]
pub(crate) fn to_f32<T: Real>(number: T) -> f32 {
    number.to_f64() as f32
}

/// A level of SIMD support, in ascending order of vector width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[doc(hidden)]
pub enum SimdLevel {
    /// No vectors: the reference that tests compare with.
    Scalar,
    /// AVX2.
    Avx2,
    /// AVX-512.
    Avx512,
}

/// Code that is generic over the vector type.
#[doc(hidden)]
pub trait SimdKernel<T: Real> {
    /// Runs the code. `R` vectors make a panel of [`PANEL`] columns. A tile of a product has `M` rows, and
    /// one of an outer product `W`, so that the tile fits in the registers.
    fn run<V: SimdVector<T>, const R: usize, const M: usize, const W: usize>(self);
}

/// A SIMD vector.
#[doc(hidden)]
pub trait SimdVector<T>: Copy {
    /// Number of lanes.
    const COUNT: usize;
    /// All lanes set to one value.
    fn splat(value: T) -> Self;
    /// Loads the first `COUNT` elements. Panics when the slice is shorter.
    fn load(from: &[T]) -> Self;
    /// Stores to the first `COUNT` elements. Panics when the slice is shorter.
    fn store(self, to: &mut [T]);
    /// `self + a * b`, rounded once.
    fn add_product(self, a: Self, b: Self) -> Self;
}

/// The scalar reference: one panel, column by column.
impl<T: Real> SimdVector<T> for [T; PANEL] {
    const COUNT: usize = PANEL;
    #[inline(always)]
    fn splat(value: T) -> Self {
        [value; PANEL]
    }
    #[inline(always)]
    fn load(from: &[T]) -> Self {
        std::array::from_fn(|j| from[j])
    }
    #[inline(always)]
    fn store(self, to: &mut [T]) {
        to[..PANEL].copy_from_slice(&self);
    }
    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        std::array::from_fn(|j| a[j].fused(b[j], self[j]))
    }
}

/// Vectors of x86-64 processors.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{PANEL, Real, SimdKernel, SimdLevel, SimdVector};
    use std::arch::x86_64 as arch;

    macro_rules! lanes {
        ($vector:ident, $raw:ident, $number:ty, $count:literal, $splat:ident, $load:ident, $store:ident, $fma:ident) => {
            #[derive(Clone, Copy)]
            pub(super) struct $vector(arch::$raw);
            // A value exists only inside of `avx512` or `avx2` below, which run only where the features
            // were detected.
            impl SimdVector<$number> for $vector {
                const COUNT: usize = $count;
                #[inline(always)]
                fn splat(value: $number) -> Self {
                    // SAFETY: the processor has the feature, see above.
                    Self(unsafe { arch::$splat(value) })
                }
                #[inline(always)]
                fn load(from: &[$number]) -> Self {
                    let from = &from[..$count];
                    // SAFETY: the feature as above; the slice has `COUNT` elements.
                    Self(unsafe { arch::$load(from.as_ptr()) })
                }
                #[inline(always)]
                fn store(self, to: &mut [$number]) {
                    let to = &mut to[..$count];
                    // SAFETY: the feature as above; the slice has `COUNT` elements.
                    unsafe { arch::$store(to.as_mut_ptr(), self.0) }
                }
                #[inline(always)]
                fn add_product(self, a: Self, b: Self) -> Self {
                    // SAFETY: the processor has the feature, see above.
                    Self(unsafe { arch::$fma(a.0, b.0, self.0) })
                }
            }
        };
    }
    lanes!(
        F32x16,
        __m512,
        f32,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps
    );
    lanes!(
        F64x8,
        __m512d,
        f64,
        8,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_fmadd_pd
    );
    lanes!(
        F32x8,
        __m256,
        f32,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps
    );
    lanes!(
        F64x4,
        __m256d,
        f64,
        4,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_fmadd_pd
    );

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    fn avx512<T, V, K, const R: usize, const M: usize>(kernel: K)
    where
        T: Real,
        V: SimdVector<T>,
        K: SimdKernel<T>,
    {
        kernel.run::<V, R, M, 8>();
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2<T, V, K, const R: usize, const M: usize>(kernel: K)
    where
        T: Real,
        V: SimdVector<T>,
        K: SimdKernel<T>,
    {
        kernel.run::<V, R, M, 2>();
    }

    /// Runs a kernel with AVX-512, or else with AVX2 and FMA. Returns it if the processor has neither.
    macro_rules! dispatch {
        ($name:ident, $number:ty, $wide:ident, $wide_rows:literal, $narrow:ident, $narrow_rows:literal) => {
            pub(super) fn $name<K: SimdKernel<$number>>(level: SimdLevel, kernel: K) -> Option<K> {
                if level >= SimdLevel::Avx512
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                {
                    const R: usize = PANEL / <$wide as SimdVector<$number>>::COUNT;
                    // SAFETY: the features were detected; AVX-512 implies AVX2 and FMA.
                    unsafe { avx512::<$number, $wide, K, R, $wide_rows>(kernel) };
                    return None;
                }
                if level >= SimdLevel::Avx2
                    && is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                {
                    const R: usize = PANEL / <$narrow as SimdVector<$number>>::COUNT;
                    // SAFETY: the features were detected.
                    unsafe { avx2::<$number, $narrow, K, R, $narrow_rows>(kernel) };
                    return None;
                }
                Some(kernel)
            }
        };
    }
    dispatch!(single, f32, F32x16, 12, F32x8, 3);
    dispatch!(double, f64, F64x8, 6, F64x4, 1);
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    pub(super) const fn single<K>(_: super::SimdLevel, kernel: K) -> Option<K> {
        Some(kernel)
    }
    pub(super) const fn double<K>(_: super::SimdLevel, kernel: K) -> Option<K> {
        Some(kernel)
    }
}

macro_rules! real {
    ($number:ty, $dispatch:ident, $round:path) => {
        impl Real for $number {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                $round(value)
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn fused(self, a: Self, b: Self) -> Self {
                self.mul_add(a, b)
            }
            #[inline(always)]
            fn root(self) -> Self {
                self.sqrt()
            }
            fn dispatch_at_most<K: SimdKernel<Self>>(level: SimdLevel, kernel: K) {
                if let Some(kernel) = x86::$dispatch(level, kernel) {
                    // Three rows of panels fit the 32 registers of NEON.
                    kernel.run::<[Self; PANEL], 1, 3, 2>();
                }
            }
        }
    };
}
real!(f32, single, nearest);
real!(f64, double, std::convert::identity);

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "rounding is the purpose")]
const fn nearest(value: f64) -> f32 {
    value as f32
}
