//! Which kernels a worker runs: plain Rust, or the same compiled or written for wider vectors.
//!
//! A [`Simd`] that says AVX2 or AVX-512 can only come from [`Simd::detect`] or [`Simd::all`], so
//! holding one proves that the CPU has it, and with AVX2 FMA: kernels rely on that. All kinds give
//! the same bytes.

/// The instruction set that kernels may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simd {
    level: Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Scalar,
    Avx2,
    Avx512,
}

impl Simd {
    /// Plain Rust, on every machine.
    pub const SCALAR: Self = Self { level: Level::Scalar };

    /// The best that this CPU has.
    pub fn detect() -> Self {
        Self::all().last().unwrap_or(Self::SCALAR)
    }

    /// All that this CPU has, from plain Rust to the best.
    pub fn all() -> impl Iterator<Item = Self> {
        let levels =
            [(Level::Scalar, true), (Level::Avx2, has_avx2()), (Level::Avx512, has_avx512())];
        levels.into_iter().filter_map(|(level, there)| there.then_some(Self { level }))
    }

    /// Without AVX-512, for a kernel that AVX2 serves better.
    pub(crate) const fn at_most_avx2(self) -> Self {
        Self { level: if self.avx2() { Level::Avx2 } else { Level::Scalar } }
    }

    /// Whether the CPU has AVX2 and FMA and kernels should use them.
    pub const fn avx2(self) -> bool {
        matches!(self.level, Level::Avx2 | Level::Avx512)
    }

    /// Whether the CPU has AVX-512 and kernels should use it: F, BW, DQ, VL, VBMI and VNNI, which
    /// Ice Lake, Zen 4 and what followed them have.
    pub const fn avx512(self) -> bool {
        matches!(self.level, Level::Avx512)
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni")
}

#[cfg(not(target_arch = "x86_64"))]
const fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
const fn has_avx512() -> bool {
    false
}

impl Default for Simd {
    fn default() -> Self {
        Self::detect()
    }
}
/// Defines a function of the given arguments and a leading [`Simd`], whose body is compiled plainly,
/// with AVX2 and with AVX-512 for the compiler's own vectors. The source is one, Rust contracts no
/// floating-point operations, so all give the same bits.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name(simd: $crate::simd::Simd, $($arg: $type),*) $(-> $result)? {
            // Always, so that the body is compiled with the features of its caller.
            #[inline(always)]
            fn plain($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            if simd.avx512() {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $type),*) $(-> $result)? {
                    plain($($arg),*)
                }
                #[expect(unsafe_code, reason = "a call across target features")]
                // SAFETY: `simd` proves that the CPU has AVX-512.
                return unsafe { avx512($($arg),*) };
            }
            #[cfg(target_arch = "x86_64")]
            if simd.avx2() {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $result)? {
                    plain($($arg),*)
                }
                #[expect(unsafe_code, reason = "a call across target features")]
                // SAFETY: `simd` proves that the CPU has AVX2.
                return unsafe { avx2($($arg),*) };
            }
            plain($($arg),*)
        }
    };
}
pub(crate) use kernel;
