// Where every value of a network lies in one block of memory.
#pragma once

#include <cstddef>
#include <vector>

#include "chains.h"
#include "network.h"

namespace edgeface::native {

// In elements; see Image.
struct Location {
    std::size_t offset = 0;  // of the first pixel, from the start of the arena
    std::ptrdiff_t stride = 0;
    std::ptrdiff_t pitch = 0;
    int margin = 0;
};

struct MemoryPlan {
    std::vector<Location> values;  // by the value's number; without offset for what stays inside a chain
    std::size_t size = 0;          // elements
};

// Values that are only joined or looked at another way share their memory, so that Concat and View cost
// nothing (where quantised values keep their scale); the rest share by lifetime. What a window reads beyond
// the ends of a row is part of its image.
MemoryPlan plan_memory(const Network& network, const std::vector<Chain>& chains);

// Pixels before and behind a row that the windows of its readers reach: by the value's number.
std::vector<int> plan_margins(const Network& network);

}  // namespace edgeface::native
