//! Numbers and vectors: what a kernel may do with them, and which vectors this processor has.
//!
//! A kernel is written once, over any [`Lanes`], and run by [`Real::dispatch`] with the widest
//! vectors found at run time. Every product that is added is a fused multiply-add in the same order on
//! every path, so the paths give the same bits.
#![expect(unsafe_code, reason = "SIMD: loads, stores and calls into code for detected features")]
#![expect(clippy::inline_always, reason = "kernels must be inlined where the features are enabled")]

use std::fmt::{Debug, Display};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Sub};

/// Columns of a weight panel, and of the tile that a kernel holds in registers.
pub(crate) const PANEL: usize = 32;

/// `f32` to train, `f64` to check gradients.
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
    + crate::ranks::Number
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;

    /// Rounds to the nearest.
    fn from_f64(value: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// `self * a + b`, rounded once.
    #[must_use]
    fn fused(self, a: Self, b: Self) -> Self;
    /// Square root.
    #[must_use]
    fn root(self) -> Self;
    /// Runs a kernel with the widest vectors of this processor.
    #[doc(hidden)]
    fn dispatch<K: Kernel<Self>>(kernel: K) {
        Self::dispatch_within(Vectors::Wide, kernel);
    }
    /// The same with at most some vectors.
    #[doc(hidden)]
    fn dispatch_within<K: Kernel<Self>>(most: Vectors, kernel: K);
}

/// Which vectors may be used, where the processor has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[doc(hidden)]
pub enum Vectors {
    /// None: the scalar twin.
    None,
    /// AVX2.
    Narrow,
    /// AVX-512.
    Wide,
}

/// Something to run with vectors that are `R` to a panel of [`PANEL`] columns.
#[doc(hidden)]
pub trait Kernel<T: Real> {
    /// Runs it. `M` rows of a tile of a product fit in registers, `W` of an outer product.
    fn run<V: Lanes<T>, const R: usize, const M: usize, const W: usize>(self);
}

/// A vector of neighbouring numbers.
#[doc(hidden)]
pub trait Lanes<T>: Copy {
    /// How many.
    const COUNT: usize;
    /// All the same.
    fn splat(value: T) -> Self;
    /// The first `COUNT` of a slice that has them.
    fn load(from: &[T]) -> Self;
    /// Into the first `COUNT` of a slice that has them.
    fn store(self, to: &mut [T]);
    /// `self + a * b`, rounded once.
    fn add_product(self, a: Self, b: Self) -> Self;
}

/// The scalar twin: the panel's columns one by one.
impl<T: Real> Lanes<T> for [T; PANEL] {
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

/// The vectors of a processor, by feature.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, Lanes, PANEL, Real, Vectors};
    use std::arch::x86_64 as arch;

    macro_rules! lanes {
        ($vector:ident, $raw:ident, $number:ty, $count:literal, $splat:ident, $load:ident, $store:ident, $fma:ident) => {
            #[derive(Clone, Copy)]
            pub(super) struct $vector(arch::$raw);
            // A value exists only inside `avx512` or `avx2` below, so its features are there.
            impl Lanes<$number> for $vector {
                const COUNT: usize = $count;
                #[inline(always)]
                fn splat(value: $number) -> Self {
                    // SAFETY: the processor has the feature, see above.
                    Self(unsafe { arch::$splat(value) })
                }
                #[inline(always)]
                fn load(from: &[$number]) -> Self {
                    let from = &from[..$count];
                    // SAFETY: the feature as above; the slice has the numbers that are read.
                    Self(unsafe { arch::$load(from.as_ptr()) })
                }
                #[inline(always)]
                fn store(self, to: &mut [$number]) {
                    let to = &mut to[..$count];
                    // SAFETY: the feature as above; the slice has room for what is written.
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
        V: Lanes<T>,
        K: Kernel<T>,
    {
        kernel.run::<V, R, M, 8>();
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2<T, V, K, const R: usize, const M: usize>(kernel: K)
    where
        T: Real,
        V: Lanes<T>,
        K: Kernel<T>,
    {
        kernel.run::<V, R, M, 2>();
    }

    /// Runs a kernel with AVX-512, else with AVX2 and FMA; gives it back where there is neither.
    macro_rules! dispatch {
        ($name:ident, $number:ty, $wide:ident, $wide_rows:literal, $narrow:ident, $narrow_rows:literal) => {
            pub(super) fn $name<K: Kernel<$number>>(most: Vectors, kernel: K) -> Option<K> {
                if most >= Vectors::Wide
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                {
                    const R: usize = PANEL / <$wide as Lanes<$number>>::COUNT;
                    // SAFETY: the features were found; AVX-512 implies AVX2 and FMA.
                    unsafe { avx512::<$number, $wide, K, R, $wide_rows>(kernel) };
                    return None;
                }
                if most >= Vectors::Narrow
                    && is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                {
                    const R: usize = PANEL / <$narrow as Lanes<$number>>::COUNT;
                    // SAFETY: the features were found.
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
    pub(super) const fn single<K>(_: super::Vectors, kernel: K) -> Option<K> {
        Some(kernel)
    }
    pub(super) const fn double<K>(_: super::Vectors, kernel: K) -> Option<K> {
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
            fn dispatch_within<K: Kernel<Self>>(most: Vectors, kernel: K) {
                if let Some(kernel) = x86::$dispatch(most, kernel) {
                    // Three rows of panels suit the 32 registers of NEON.
                    kernel.run::<[Self; PANEL], 1, 3, 2>();
                }
            }
        }
    };
}
real!(f32, single, nearest);
real!(f64, double, std::convert::identity);

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
const fn nearest(value: f64) -> f32 {
    value as f32
}
