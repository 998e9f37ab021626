// Runs a kernel on the CPU: blocks run sequentially, and the threads of a block are fibers.
//
// A fiber runs threads sequentially until one of them waits, at a barrier or for other lanes of its warp. Then another
// fiber continues with the next thread. A kernel without barriers therefore runs as a plain loop.
#pragma once

#define STANDIN_EXPORT extern "C" __attribute__((visibility("default")))

namespace standin {

// Both structures are mirrored by run.rs.
struct Kernel {
    const char* name;
    void (*call)(void** params);
    const unsigned long* sizes;
    unsigned long params;
    unsigned long max_threads;
};
struct Launch {
    unsigned grid[3], block[3];
    void** params;
    void* shared;
    unsigned long shared_bytes;
    int reverse;
    // The result of the launch.
    int fault;
    unsigned long address, instruction;
    unsigned line;
    unsigned at_block[3], at_thread[3];
    char what[256];
};

constexpr int MAX_THREADS = 1024;
constexpr unsigned long STACK = 256 << 10, CLOSED = 4096;
constexpr unsigned POISON = 0x7fbadbad;

extern "C" void* mmap(void*, unsigned long, int, int, int, long);
extern "C" int mprotect(void*, unsigned long, int);
extern "C" int vsnprintf(char*, unsigned long, const char*, __builtin_va_list);
extern "C" unsigned __start_standin_shared[] __attribute__((weak, visibility("hidden")));
extern "C" unsigned __stop_standin_shared[] __attribute__((weak, visibility("hidden")));

// Saves the caller's registers on its stack and the stack pointer in *save, and resumes the context saved in `load`.
extern "C" void standin_switch(void** save, void* load) __attribute__((visibility("hidden")));
__asm__(R"(
    .text
    .hidden standin_switch
    .globl standin_switch
    .type standin_switch, @function
standin_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size standin_switch, . - standin_switch
)");

enum State : char { NEW, RUNNING, READY, AT_BARRIER, AT_WARP_OP, OVER };

struct Thread {
    State state;
    int fiber;
    WarpOp warp_op;
    unsigned mask, line;
    int source;
    unsigned long value;
};

static Thread threads[MAX_THREADS];
static void* fibers[MAX_THREADS];  // the saved stack pointer of each fiber; null before it ran
static char* stacks[MAX_THREADS];
static int idle[MAX_THREADS], idle_count;  // fibers without a thread
static void* scheduler;
static int running, running_fiber, count, started;
static const Kernel* kernel;
static Launch* launch;

// The number of the thread that starts as number n.
static int ordered(int n) { return launch->reverse ? count - 1 - n : n; }

static void become(int thread) {
    running = thread;
    const unsigned x = launch->block[0], y = launch->block[1], t = thread;
    threadIdx = {t % x, t / x % y, t / x / y};
}

static void to_scheduler() { standin_switch(&fibers[running_fiber], scheduler); }

static void fiber_main() {
    while (true) {
        while (started < count) {
            int thread = ordered(started++);
            threads[thread].fiber = running_fiber;
            threads[thread].state = RUNNING;
            become(thread);
            kernel->call(launch->params);
            threads[running].state = OVER;
        }
        idle[idle_count++] = running_fiber;
        to_scheduler();
    }
}

// Runs a fiber until its thread waits or there are no more threads to start.
static void resume(int fiber) {
    if (!fibers[fiber]) {
        if (!stacks[fiber]) {
            // Readable and writable; private, anonymous, unreserved. A stack overflow faults at the protected page.
            stacks[fiber] = (char*)mmap(nullptr, STACK, 3, 0x4022, -1, 0);
            mprotect(stacks[fiber], CLOSED, 0);
        }
        // Each stack starts at another offset in its page, so that they do not share a few cache lines.
        void** top = (void**)(stacks[fiber] + STACK - fiber * 448 % (64 << 10));
        *--top = nullptr;
        *--top = (void*)fiber_main;
        fibers[fiber] = top - 6;
    }
    running_fiber = fiber;
    standin_switch(&scheduler, fibers[fiber]);
}

static void report(Fault kind, unsigned line, const char* what, __builtin_va_list values) {
    launch->fault = kind;
    launch->line = line;
    __builtin_memcpy(launch->at_block, &blockIdx, sizeof launch->at_block);
    __builtin_memcpy(launch->at_thread, &threadIdx, sizeof launch->at_thread);
    vsnprintf(launch->what, sizeof launch->what, what, values);
}

// Reports a fault found by the scheduler, which then ends the launch.
static bool broken(Fault kind, unsigned line, const char* what, ...) {
    __builtin_va_list values;
    __builtin_va_start(values, what);
    report(kind, line, what, values);
    __builtin_va_end(values);
    return false;
}

// Reports a fault of a thread, and does not return.
void fault(Fault kind, unsigned line, const char* what, ...) {
    __builtin_va_list values;
    __builtin_va_start(values, what);
    report(kind, line, what, values);
    __builtin_va_end(values);
    to_scheduler();
    __builtin_trap();
}

void barrier(unsigned line) {
    int me = running;
    threads[me].state = AT_BARRIER;
    threads[me].line = line;
    to_scheduler();
}

}  // namespace standin
#include "cuda_warp.h"
namespace standin {

// Called when no thread can run. Lanes may wait for one that has ended, or all threads may be at the same barrier; everything
// else is a mistake of the kernel. Returns false if the block ends.
static bool release() {
    for (int n = 0; n < count; n++) {
        unsigned here = threads[n].state == AT_WARP_OP ? gathered(n) : 0;
        if (here) return conclude(n / 32 * 32, here);
    }
    int at_barrier = 0, over = 0, first = -1;
    for (int n = 0; n < count; n++) {
        const Thread& thread = threads[n];
        if (thread.state == OVER) {
            over++;
            continue;
        }
        become(n);
        if (thread.state == AT_WARP_OP) {
            return broken(DIVERGED, thread.line, "a lane waits for others of its mask %#x, which do not arrive", thread.mask);
        }
        at_barrier++;
        first = first < 0 ? n : first;
        if (thread.line != threads[first].line) {
            unsigned other = threads[first].line;
            return broken(DIVERGED, thread.line, "divergent barriers: others of the block wait at line %u", other);
        }
    }
    if (at_barrier && over) {
        return broken(DIVERGED, threads[first].line, "divergent barrier: %d threads wait, %d have ended", at_barrier, over);
    }
    for (int n = 0; n < count; n++) {
        if (threads[n].state == AT_BARRIER) threads[n].state = READY;
    }
    return at_barrier > 0;
}

static void run_block() {
    for (unsigned* at = __start_standin_shared; at < __stop_standin_shared; at++) *at = POISON;
    for (unsigned long i = 0; i < launch->shared_bytes / 4; i++) ((unsigned*)launch->shared)[i] = POISON;
    for (int i = 0; i < count; i++) threads[i].state = NEW;
    started = 0;
    do {
        while (started < count && !launch->fault) resume(idle[--idle_count]);
        for (bool moved = true; moved && !launch->fault;) {
            moved = false;
            for (int n = 0; n < count && !launch->fault; n++) {
                int thread = ordered(n);
                if (threads[thread].state != READY) continue;
                moved = true;
                threads[thread].state = RUNNING;
                become(thread);
                resume(threads[thread].fiber);
            }
        }
    } while (!launch->fault && release() && !launch->fault);
}

// The types of the parameters are those of the kernel.
template <auto F> struct Entry;
template <class... P, void (*F)(P...)> struct Entry<F> {
    static constexpr unsigned long sizes[] = {sizeof(P)..., 0};
    static constexpr unsigned long count = sizeof...(P);
    template <int... I> struct Indices {};
    template <int... I> static void with(Indices<I...>, void** params) { F(*(P*)params[I]...); }
    static void call(void** params) { with(Indices<__integer_pack((int)sizeof...(P))...>(), params); }
};

}  // namespace standin

STANDIN_EXPORT void standin_launch(const standin::Kernel* which, standin::Launch* how) {
    using namespace standin;
    kernel = which;
    launch = how;
    dynamic_shared = how->shared;
    gridDim = dim3(how->grid[0], how->grid[1], how->grid[2]);
    blockDim = dim3(how->block[0], how->block[1], how->block[2]);
    count = (int)(how->block[0] * how->block[1] * how->block[2]);
    // Fibers that a fault has abandoned are reset.
    idle_count = 0;
    for (int i = MAX_THREADS - 1; i >= 0; i--) {
        fibers[i] = nullptr;
        idle[idle_count++] = i;
    }
    const unsigned long x = how->grid[0], y = how->grid[1], blocks = x * y * how->grid[2];
    for (unsigned long n = 0; n < blocks && !how->fault; n++) {
        unsigned long block = how->reverse ? blocks - 1 - n : n;
        blockIdx = {(unsigned)(block % x), (unsigned)(block / x % y), (unsigned)(block / x / y)};
        run_block();
    }
}

#define STANDIN_KERNEL(name, bounds) \
    { #name, standin::Entry<&name>::call, standin::Entry<&name>::sizes, standin::Entry<&name>::count, bounds }

#include "cuda_check.h"
