// Heads -> candidate faces.
#pragma once

#include <vector>

#include "priors.h"
#include "spec.h"
#include "types.h"

namespace edgeface {

struct Heads {
    Head scores;      // 1 column: the face's; 2: background, face
    Head boxes;       // 4 columns
    Head landmarks;   // 10 columns, or no data
    Head objectness;  // 1 column, or no data: scores are then sqrt(score * objectness), both 0 to 1
};

// Candidates whose score reaches the threshold and whose longer side reaches min_face, in network input
// pixels; rows that decode to something not finite are left out.
// Offsets: x = prior.x + o0 * variance * prior.width, width = prior.width * exp(o2 * variance), SSD
// section 2.2. `min_face` is given for each axis, because stretching scales them differently.
std::vector<Detection> decode(const Heads& heads, const std::vector<Prior>& priors, const ModelSpec& spec,
                              Size input, float score_threshold, Point min_face);

}  // namespace edgeface
