// Warp-level operations. Each lane waits until all lanes of its mask are at the same operation.
#pragma once

namespace standin {

int lane() { return running % 32; }

// The lane that a shuffle reads (PTX, shfl.sync). A lane outside the segment reads its own value.
int shuffle_source(int kind, int lane, int by, int width) {
    int first = lane & ~(width - 1), last = first + width - 1;
    int source = kind == 0 ? first + (by & (width - 1)) : kind == 1 ? lane - by : kind == 2 ? lane + by : lane ^ by;
    bool outside = kind == 1 ? source < first : source > last;
    return outside ? lane : source;
}

static unsigned long combine(WarpOp what, unsigned long a, unsigned long b) {
    switch (what) {
        case BALLOT: case ANY: case OR: return a | b;
        case ALL: case AND: return a & b;
        case XOR: return a ^ b;
        case ADD: return a + b;
        case MIN: return (long)a < (long)b ? a : b;
        case MAX: return (long)a > (long)b ? a : b;
        default: return 0;
    }
}

// The lanes at the same operation, if all lanes of the mask have arrived, otherwise 0. Lanes that do not exist or have ended
// are not waited for.
static unsigned gathered(int me) {
    const Thread& mine = threads[me];
    unsigned here = 0;
    for (int lane = 0; lane < 32 && me / 32 * 32 + lane < count; lane++) {
        const Thread& other = threads[me / 32 * 32 + lane];
        if (!(mine.mask >> lane & 1) || other.state == OVER) continue;
        bool same = other.line == mine.line && other.warp_op == mine.warp_op && other.mask == mine.mask;
        if (other.state != AT_WARP_OP || !same) return 0;
        here |= 1u << lane;
    }
    return here;
}

// Computes the result of each of the lanes, which then continue.
static bool conclude(int warp, unsigned here) {
    unsigned long values[32], result = 0;
    bool first = true;
    for (int lane = 0; lane < 32; lane++) {
        if (!(here >> lane & 1)) continue;
        const Thread& thread = threads[warp + lane];
        values[lane] = thread.value;
        unsigned long value = thread.warp_op == BALLOT ? thread.value << lane : thread.value;
        result = first ? value : combine(thread.warp_op, result, value);
        first = false;
    }
    for (int lane = 0; lane < 32; lane++) {
        if (!(here >> lane & 1)) continue;
        Thread& thread = threads[warp + lane];
        if (thread.warp_op == SHUFFLE && !(here >> thread.source & 1)) {
            become(warp + lane);
            return broken(DIVERGED, thread.line, "a shuffle reads lane %d, which does not participate", thread.source);
        }
        thread.value = thread.warp_op == SHUFFLE ? values[thread.source] : result;
        thread.state = READY;
    }
    return true;
}

unsigned long warp_op(WarpOp what, unsigned mask, unsigned long value, int source, unsigned line) {
    int me = running;
    if (!(mask >> (me % 32) & 1)) fault(DIVERGED, line, "a lane is not in its own mask %#x", mask);
    Thread& thread = threads[me];
    thread.state = AT_WARP_OP;
    thread.warp_op = what;
    thread.mask = mask;
    thread.line = line;
    thread.source = source;
    thread.value = value;
    unsigned here = gathered(me);
    if (here && conclude(me / 32 * 32, here)) {
        thread.state = RUNNING;
    } else {
        to_scheduler();
    }
    return thread.value;
}

}  // namespace standin
