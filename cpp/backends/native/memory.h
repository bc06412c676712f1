// Where every value of a network lies in one block of memory.
#pragma once

#include <cstddef>
#include <vector>

#include "network.h"

namespace edgeface::native {

// Elements from the start of the arena, and between two pixels.
struct Location {
    std::size_t offset = 0;
    std::ptrdiff_t stride = 0;
};

struct MemoryPlan {
    std::vector<Location> values;  // by the value's number
    std::size_t size = 0;          // elements
};

// Values that are only joined or looked at another way share their memory, so that Concat and View cost
// nothing (where quantised values keep their scale); the rest share by lifetime.
MemoryPlan plan_memory(const Network& network);

}  // namespace edgeface::native
