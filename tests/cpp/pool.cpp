// Phases of a thread pool: every part is done once, and sees all that the phase before wrote; without a
// phase, nothing is. On Linux no thread is left on the caller's CPU while there is another. Values are plain
// memory, so that the thread sanitizer finds an order which is missing.
#include "backends/native/threads.h"

#include <sched.h>

#include <atomic>
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

#if defined(__linux__)
// How many CPUs the calling thread may use.
int count_cpus() {
    cpu_set_t allowed;
    return sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : 0;
}

void count_others_cpus(void* context, int /*phase*/, int /*part*/, int rank) {
    if (rank == 1) static_cast<std::atomic<int>*>(context)->store(count_cpus());
}

bool leaves_callers_cpu() {
    const int allowed = count_cpus();
    std::atomic<int> others{0};
    ThreadPool pool(2);
    while (others == 0) pool.run(1, count_others_cpus, &others);  // until it has come in time for a part
    std::printf("%d CPUs for the caller, %d for the other thread\n", count_cpus(), others.load());
    return count_cpus() == allowed && others == (allowed > 1 ? allowed - 1 : allowed);
}
#else
bool leaves_callers_cpu() { return true; }
#endif

}  // namespace

int main() {
    const bool same = after_all_runs(kThreads).values == expected().values;
    std::printf("%d runs of %d phases on %d threads: %s\n", kRuns, kPhases, kThreads,
                same ? "same" : "OTHER");
    return same && leaves_callers_cpu() ? 0 : 1;
}
