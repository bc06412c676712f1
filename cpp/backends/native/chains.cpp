#include "chains.h"

#include <unistd.h>

namespace edgeface::native {
namespace {

std::vector<int> count_readers(const Network& network) {
    std::vector<int> readers(network.values().size());
    for (const Operation& operation : network.operations()) {
        for (const int input : operation.inputs) ++readers[static_cast<std::size_t>(input)];
    }
    for (const auto& [name, value] : network.outputs()) ++readers[static_cast<std::size_t>(value)];
    return readers;
}

// Whose rows each come from a few neighbouring ones of the first input.
bool works_in_bands(const Operation& operation) {
    return window_of(operation) != nullptr || std::holds_alternative<Upsample>(operation.op);
}

// Whether no row that it reads is read for two rows of its output by windows.
bool reads_rows_once(const Operation& operation) {
    const Window* window = window_of(operation);
    return window == nullptr || (window->kernel_height - 1) * window->dilation_y < window->stride_y;
}

}  // namespace

CacheSizes cache_sizes() {
    // Boards whose C library does not tell have a Cortex-A53 or something larger.
    constexpr std::size_t kSmallest = 256 * 1024;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    const long known = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (known > 0) return {static_cast<std::size_t>(known)};
#endif
    return {kSmallest};
}

std::vector<Chain> plan_chains(const Network& network, const CacheSizes& caches, int threads) {
    const std::vector<int> readers = count_readers(network);
    const std::size_t bytes = network.type() == DataType::float32 ? sizeof(float) : 1;
    // Alone, no row is computed twice.
    const std::size_t large = threads == 1 ? caches.level2 / 8 : caches.level2;
    const auto continues = [&](const Operation& operation, const Operation& next) {
        const auto made = static_cast<std::size_t>(operation.output);
        if (!works_in_bands(operation) || !works_in_bands(next)) return false;
        if (next.inputs.front() != operation.output || readers[made] != 1) return false;
        return reads_rows_once(next) || network.values()[made].shape.values() * bytes > large;
    };
    const std::vector<Operation>& operations = network.operations();
    std::vector<Chain> chains;
    for (std::size_t i = 0; i < operations.size(); ++i) {
        const int number = static_cast<int>(i);
        if (i > 0 && continues(operations[i - 1], operations[i])) {
            chains.back().last = number;
        } else {
            chains.push_back({number, number});
        }
    }
    return chains;
}

}  // namespace edgeface::native
