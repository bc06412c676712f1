// Pixels -> network input: colour order, bilinear resize, mean and scale, in one pass over the rows.
#pragma once

#include <vector>

#include "spec.h"
#include "types.h"

namespace edgeface {

// One output column (or row) of a bilinear resize: two neighbours and the weight of the second.
struct Tap {
    int first = 0;
    int second = 0;
    int weight = 0;  // of `second`, in 1/2048
};

// Everything about a resize that depends on sizes alone, and the rows it works in; kept between frames.
struct ResizePlan {
    Size from;
    Size to;  // the part of the network input that the frame covers, from its top left corner
    std::vector<Tap> columns;
    std::vector<Tap> rows;
    std::vector<std::uint16_t> interpolated;  // two source rows after the horizontal pass
    std::vector<std::uint8_t> line;           // one finished row, interleaved
    Placement placement;
};

ResizePlan plan_resize(Size frame, Size input, Resize resize);

// Fills the whole of `input`, quantised where it is; what a letterbox leaves free becomes 0, the mean colour.
// Integer arithmetic up to the last step: the same bytes on every machine.
void preprocess(const Frame& frame, const InputSpec& spec, ResizePlan& plan, const InputView& input);

}  // namespace edgeface
