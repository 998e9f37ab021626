//! The signal handler for invalid memory accesses.
//!
//! In a kernel, the thread resumes at the module's exit function, and the launch returns a fault. In host code, if the access was to
//! pinned memory that a copy uses, the stand-in prints a message and aborts; otherwise the previous signal handler runs.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::OnceLock;

use crate::report::log;

/// The exit function at which a faulting kernel resumes: `entry(signal, address, instruction)`, on its own stack. It must not return.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exit {
    pub(crate) entry: usize,
    pub(crate) stack: usize,
}

thread_local! {
    /// The exit, while this thread runs a kernel.
    static EXIT: Cell<Option<Exit>> = const { Cell::new(None) };
}

/// Judges an access of host code that faulted, by its address and whether it was a write: an error describes a mistake, success
/// means that the access can be repeated, and `None` that the fault is not of the stand-in.
pub(crate) type Judge = fn(u64, bool) -> Option<Result<(), String>>;

static JUDGE: OnceLock<Judge> = OnceLock::new();

/// The handled signals, and their previous handlers.
static BEFORE: OnceLock<[(c_int, libc::sigaction); 3]> = OnceLock::new();

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Runs a kernel. Until it returns, faults of this thread resume at `exit`.
pub(crate) fn guarded(exit: Exit, kernel: impl FnOnce()) {
    give_stack();
    EXIT.set(Some(exit));
    kernel();
    EXIT.set(None);
}

/// Installs the handler, once for the process.
pub(crate) fn install(judge: Judge) {
    JUDGE.get_or_init(|| judge);
    BEFORE.get_or_init(|| {
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE].map(|signal| {
            let handler: Handler = on_signal;
            let mut before = MaybeUninit::uninit();
            // SAFETY: the handler has the signature of SA_SIGINFO, and both structures are valid.
            let before = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                libc::sigaction(signal, &raw const action, before.as_mut_ptr());
                before.assume_init()
            };
            (signal, before)
        })
    });
}

/// Installs a signal stack, because the stack of the kernel may be what overflowed. Threads of Rust have one already.
fn give_stack() {
    const SIZE: usize = 64 << 10;
    // SAFETY: the thread has no signal stack; it keeps this one for its lifetime, so the memory is leaked.
    unsafe {
        let mut now: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(null_mut(), &raw mut now);
        if now.ss_flags & libc::SS_DISABLE != 0 {
            let memory: &'static mut [u8] = Box::leak(vec![0; SIZE].into_boxed_slice());
            let stack =
                libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIZE };
            libc::sigaltstack(&raw const stack, null_mut());
        }
    }
}

extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the operating system passes both pointers, which are valid during the handler.
    let (address, code, registers) = unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        ((*info).si_addr().addr(), (*info).si_code, &mut context.uc_mcontext.gregs)
    };
    if let Some(exit) = EXIT.take() {
        leave_kernel(exit, signal, address, code, registers);
        return;
    }
    // Bit 1 of the error code of a page fault is set for a write.
    let writes = registers[libc::REG_ERR as usize] & 2 != 0;
    match JUDGE.get().and_then(|judge| judge(address as u64, writes)) {
        Some(Ok(())) => {}
        Some(Err(what)) => {
            log(&what);
            std::process::abort();
        }
        None => hand_back(signal),
    }
}

/// Changes the registers so that the thread resumes at the exit when the handler returns.
fn leave_kernel(exit: Exit, signal: c_int, address: usize, code: c_int, registers: &mut [i64; 23]) {
    // A general protection fault has no address: on x86-64 it is a misaligned vector access.
    let kind =
        if signal == libc::SIGSEGV && code == libc::SI_KERNEL { libc::SIGBUS } else { signal };
    registers[libc::REG_RDI as usize] = i64::from(kind);
    registers[libc::REG_RSI as usize] = address.cast_signed() as i64;
    registers[libc::REG_RDX as usize] = registers[libc::REG_RIP as usize];
    registers[libc::REG_RIP as usize] = exit.entry.cast_signed() as i64;
    // The stack pointer is 8 below a multiple of 16, as after a call.
    registers[libc::REG_RSP as usize] = (exit.stack - 8).cast_signed() as i64;
}

/// Restores the previous handler. The instruction then faults again and reaches it.
fn hand_back(signal: c_int) {
    let before = BEFORE.get().into_iter().flatten().find(|(handled, _)| *handled == signal);
    if let Some((_, before)) = before {
        // SAFETY: the action is one that sigaction returned.
        unsafe { libc::sigaction(signal, before, null_mut()) };
    }
}
