// Receives the mistakes of a kernel: from the signal handler, and from the checks that -fsanitize compiles into its code.
#pragma once

// The function at which a thread resumes after the signal handler, on this stack.
alignas(16) static char escape_stack[32 << 10];
STANDIN_EXPORT char* standin_escape_stack() { return escape_stack + sizeof escape_stack; }
STANDIN_EXPORT void standin_escape(int, unsigned long address, unsigned long instruction) {
    using namespace standin;
    launch->address = address;
    launch->instruction = instruction;
    char* stack = stacks[running_fiber];
    if ((char*)address >= stack && (char*)address < stack + CLOSED) {
        fault(OVERFLOW, 0, "the stack of %lu bytes overflows", STACK - CLOSED);
    }
    fault(SIGNAL, 0, "");
}

// The functions that -fsanitize calls. The data of each begins with a source location.
struct StandinPlace {
    const char* file;
    unsigned line, column;
};
#define STANDIN_CHECK(name, ...) \
    extern "C" __attribute__((visibility("hidden"), noreturn)) void __ubsan_handle_##name(StandinPlace* place __VA_ARGS__)
STANDIN_CHECK(type_mismatch_v1_abort, , unsigned long address) {
    standin::launch->address = address;
    standin::fault(standin::MISALIGNED, place->line, "a misaligned access");
}
STANDIN_CHECK(out_of_bounds_abort, , unsigned long index) {
    standin::fault(standin::UNDEFINED, place->line, "index %ld is outside of its array", (long)index);
}
STANDIN_CHECK(shift_out_of_bounds_abort, , unsigned long, unsigned long by) {
    standin::fault(standin::UNDEFINED, place->line, "a shift by %ld, which C++ does not define", (long)by);
}
STANDIN_CHECK(divrem_overflow_abort, , unsigned long, unsigned long) {
    standin::fault(standin::UNDEFINED, place->line, "a division by zero, or one that overflows");
}
STANDIN_CHECK(float_cast_overflow_abort, , unsigned long) {
    standin::fault(standin::UNDEFINED, place->line, "a float becomes an integer that cannot hold it");
}
STANDIN_CHECK(builtin_unreachable) {
    standin::fault(standin::UNDEFINED, place->line, "code that the source declares unreachable was reached");
}
STANDIN_CHECK(missing_return) {
    standin::fault(standin::UNDEFINED, place->line, "a function ends without returning its result");
}
