// After warm-up, running the network allocates nothing, and a detect allocates its candidates and result
// alone.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "backends/native/engine.h"
#include "small_detector.h"

namespace {

std::atomic<int> allocations{0};

}  // namespace

void* operator new(std::size_t size) {
    ++allocations;
    if (void* memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace edgeface;

int of_runs(int threads) {
    native::Engine engine(test::make_network(), threads, "");
    engine.run();
    const int before = allocations;
    for (int i = 0; i < 100; ++i) engine.run();
    return allocations - before;
}

struct Detects {
    std::size_t faces = 0;
    int first = 0;
    int last = 0;
};

// The same frame again and again: every detect must allocate as often as the one before it.
Detects of_detects() {
    const auto detector = test::make_detector(2);
    const test::RandomFrame frame(64, 48);
    Detects detects;
    for (int i = 0; i <= 100; ++i) {
        const int before = allocations;
        const Result result = detector->detect(frame.frame(), frame.whole());
        detects.last = allocations - before;
        if (i == 0) detects.first = detects.last;
        detects.faces = result.faces.size();
    }
    return detects;
}

}  // namespace

int main() {
    int failures = 0;
    for (const int threads : {1, 2, 3}) {
        const int counted = of_runs(threads);
        std::printf("100 runs on %d threads: %d allocations\n", threads, counted);
        failures += counted != 0;
    }
    const Detects detects = of_detects();
    std::printf("%zu faces; first detect: %d allocations, hundredth: %d\n", detects.faces, detects.first,
                detects.last);
    // The first plans the resize for the frame's size; the others make one list of candidates and one of
    // faces.
    failures += detects.faces == 0 || detects.last > 2 || detects.last > detects.first;
    return failures;
}
