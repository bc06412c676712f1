// The boxes that the network's regression is relative to.
#pragma once

#include <vector>

#include "spec.h"
#include "types.h"

namespace edgeface {

// Centre and size relative to the network input.
struct Prior {
    float x = 0;
    float y = 0;
    float width = 0;
    float height = 0;
};

// Level by level, row by row, cell by cell, one prior a min_size: the order of the heads' rows.
// SSD (Liu et al., 2016), section 2.2, with square priors of given sizes alone.
std::vector<Prior> make_priors(const PriorSpec& spec, Size input);

}  // namespace edgeface
