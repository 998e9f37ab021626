//! The instruction sets of kernels.
//!
//! A kernel is written once in plain Rust and, where that pays, a second time for wider vectors.
//! [`Simd`] selects between the two. The levels beyond plain Rust hold a token, [`Avx2`] or
//! [`Avx512`], and the only way to get a token is to ask the CPU. A safe function that takes one
//! may therefore call code that needs its features:
//!
//! ```text
//!   Simd::detect() -> simd.avx2(): Option<Avx2> -> kernel(token, ..)      safe: the proof is there
//!                                                    -> unsafe { body(..) }   #[target_feature]
//! ```
//!
//! Every level gives the same bytes as every other. Tests iterate over [`Simd::all`] to show it.

/// The instruction set that kernels may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simd(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Scalar,
    Avx2(Avx2),
    Avx512(Avx512),
}

/// Proof that the CPU has AVX2, FMA, BMI1 and BMI2. Haswell, Excavator and everything after them
/// has all four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

/// Proof that the CPU has what [`Avx2`] proves and AVX-512 F, BW, DQ, VL, VBMI and VNNI, as Ice
/// Lake, Zen 4 and their successors do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(Avx2);

impl Simd {
    /// Plain Rust, which every machine can run.
    pub const SCALAR: Self = Self(Level::Scalar);

    /// The widest level of this CPU.
    pub fn detect() -> Self {
        Self::all().last().unwrap_or(Self::SCALAR)
    }

    /// Every level of this CPU, from plain Rust to the widest.
    pub fn all() -> impl Iterator<Item = Self> {
        let (avx2, avx512) = (Avx2::detect(), Avx512::detect());
        [Some(Level::Scalar), avx2.map(Level::Avx2), avx512.map(Level::Avx512)]
            .into_iter()
            .flatten()
            .map(Self)
    }

    /// The proof that kernels for AVX2 may run, if they should.
    pub(crate) const fn avx2(self) -> Option<Avx2> {
        match self.0 {
            Level::Scalar => None,
            Level::Avx2(avx2) | Level::Avx512(Avx512(avx2)) => Some(avx2),
        }
    }

    /// The proof that kernels for AVX-512 may run, if they should.
    pub(crate) const fn avx512(self) -> Option<Avx512> {
        match self.0 {
            Level::Scalar | Level::Avx2(_) => None,
            Level::Avx512(avx512) => Some(avx512),
        }
    }
}

impl Default for Simd {
    fn default() -> Self {
        Self::detect()
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2");
        found.then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vnni");
        Avx2::detect().filter(|_| found).map(Self)
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Avx2 {
    const fn detect() -> Option<Self> {
        None
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Avx512 {
    const fn detect() -> Option<Self> {
        None
    }
}

/// Defines a function that is compiled once in plain Rust and once for each listed instruction set,
/// `[avx512, avx2]` by default. The function takes a [`Simd`] before its own arguments and runs the
/// widest of its versions that the `Simd` allows.
///
/// All versions come from one body, and Rust never contracts or reorders floating-point operations,
/// so that their results are equal to the bit. `bmi2` is the part of AVX2's level for loops that
/// shift bits and gain nothing from vectors.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis fn $($function:tt)*) => {
        $crate::simd::kernel! { [avx512, avx2] $(#[$meta])* $vis fn $($function)* }
    };
    (
        [$($set:ident),+] $(#[$meta:meta])*
        $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name(simd: $crate::simd::Simd, $($arg: $type),*) $(-> $result)? {
            // Inlined into each caller, so that the body is compiled with the caller's features.
            #[inline(always)]
            fn scalar($($arg: $type),*) $(-> $result)? $body

            $crate::simd::kernel! {
                @try [$($set),+] simd, scalar, ($($arg: $type),*), ($($result)?)
            }
            scalar($($arg),*)
        }
    };
    (@try [$($set:ident),+] $simd:ident, $scalar:ident, $args:tt, $result:tt) => {
        $(
            #[cfg(target_arch = "x86_64")]
            $crate::simd::kernel! { @try_one $set, $simd, $scalar, $args, $result }
        )+
    };
    (@try_one avx512, $simd:ident, $($function:tt)*) => {
        $crate::simd::kernel! {
            @compile "avx512f,avx512bw,avx512dq,avx512vl", $simd.avx512(), $($function)*
        }
    };
    (@try_one avx2, $simd:ident, $($function:tt)*) => {
        $crate::simd::kernel! { @compile "avx2", $simd.avx2(), $($function)* }
    };
    (@try_one bmi2, $simd:ident, $($function:tt)*) => {
        $crate::simd::kernel! { @compile "bmi1,bmi2", $simd.avx2(), $($function)* }
    };
    (
        @compile $features:tt, $token:expr,
        $scalar:ident, ($($arg:ident: $type:ty),*), ($($result:ty)?)
    ) => {
        if $token.is_some() {
            #[target_feature(enable = $features)]
            fn compiled($($arg: $type),*) $(-> $result)? {
                $scalar($($arg),*)
            }
            #[expect(unsafe_code, reason = "a call across target features")]
            // SAFETY: the token proves that the CPU has the features.
            return unsafe { compiled($($arg),*) };
        }
    };
}
pub(crate) use kernel;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_listed_from_narrow_to_wide_and_the_widest_is_detected() {
        let all: Vec<Simd> = Simd::all().collect();
        assert_eq!(all[0], Simd::SCALAR);
        assert_eq!(all.last(), Some(&Simd::detect()));
        let widths = all.iter().map(|simd| (simd.avx2().is_some(), simd.avx512().is_some()));
        let known = [(false, false), (true, false), (true, true)];
        assert!(widths.eq(known.into_iter().take(all.len())), "{all:?}");
    }
}
