// Phases of a thread pool: every part is done once, and sees all that the phase before wrote; without a
// phase, nothing is. Values are plain memory, so that the thread sanitizer finds an order which is missing.
#include "backends/native/threads.h"

#include <cstddef>
#include <cstdio>
#include <vector>

namespace {

using edgeface::native::ThreadPool;

constexpr int kThreads = 4;
constexpr int kPhases = 5;
constexpr int kRuns = 5000;

struct Sums {
    std::vector<std::vector<long>> values;  // by phase, by part
};

// 1 more than the sum of the phase before; what the last run left, if a part comes too early.
void add_up(void* context, int phase, int part, int /*rank*/) {
    auto& values = static_cast<Sums*>(context)->values;
    long sum = values[static_cast<std::size_t>(phase)][static_cast<std::size_t>(part)] + 1;
    if (phase > 0) {
        for (const long before : values[static_cast<std::size_t>(phase) - 1]) sum += before;
    }
    values[static_cast<std::size_t>(phase)][static_cast<std::size_t>(part)] = sum % 1000003;
}

Sums after_all_runs(int threads) {
    Sums sums{std::vector<std::vector<long>>(kPhases, std::vector<long>(kThreads))};
    ThreadPool pool(threads);
    for (int run = 0; run < kRuns; ++run) {
        pool.run(0, add_up, &sums);
        pool.run(kPhases, add_up, &sums);
    }
    return sums;
}

Sums expected() {
    Sums sums{std::vector<std::vector<long>>(kPhases, std::vector<long>(kThreads))};
    for (int run = 0; run < kRuns; ++run) {
        for (int phase = 0; phase < kPhases; ++phase) {
            for (int part = 0; part < kThreads; ++part) add_up(&sums, phase, part, 0);
        }
    }
    return sums;
}

}  // namespace

int main() {
    const bool same = after_all_runs(kThreads).values == expected().values;
    std::printf("%d runs of %d phases on %d threads: %s\n", kRuns, kPhases, kThreads,
                same ? "same" : "OTHER");
    return same ? 0 : 1;
}
