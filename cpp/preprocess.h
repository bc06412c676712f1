// Pixels -> network input: colour order, bilinear resize, mean and scale, in one pass over the rows.
#pragma once

#include <string>
#include <vector>

#include "preprocess_kernels.h"
#include "spec.h"
#include "types.h"

namespace edgeface {

// One output column or row of a bilinear resize: a source pixel, and the weight of the next one.
struct Tap {
    int first = 0;
    int weight = 0;  // in 1/2048, below 1; 0 where there is no next one
};

// The resize of one of a frame's planes, and the rows it works in.
struct PlaneResize {
    int row_bytes = 0;
    int pixels = 1;                     // of the network that share a column's four places
    std::vector<std::int32_t> windows;  // with the next two, Columns
    std::vector<std::uint8_t> shuffle;
    std::vector<std::int16_t> weights;
    std::vector<Tap> rows;
    std::vector<std::int16_t> resized;  // two source rows after the horizontal pass
    std::vector<std::uint8_t> line;     // one finished row, and kLinePadding

    int places() const { return static_cast<int>(weights.size()); }
};

// Everything about a resize that is the same from frame to frame.
struct ResizePlan {
    Size from;
    Channels channels = Channels::bgr;  // of the frame
    int chroma_x = 0;
    int chroma_y = 0;
    Size to;  // the part of the network input that the frame covers, from its top left corner
    std::vector<PlaneResize> planes;    // one, or that of Y and that of U and V, or of each
    std::vector<std::uint8_t> colours;  // of YUV frames: one finished row, converted
    Samples yuv[3] = {};                // and what it is converted from
    Placement placement;
    const PreprocessKernels* kernels = nullptr;

    bool fits(const Frame& frame) const {
        return from == frame.size && channels == frame.channels && chroma_x == frame.chroma_x &&
               chroma_y == frame.chroma_y;
    }
};

// The kernels of the ISA that the engine uses when asked for `isa` (native::select_kernels), or of the next
// one below it that has any.
const PreprocessKernels& select_preprocess(const std::string& isa);

ResizePlan plan_resize(const Frame& frame, const InputSpec& spec, const PreprocessKernels& kernels);

// Fills the whole of `input`, quantised where it is; what a letterbox leaves free becomes 0, the mean colour.
// `plan` has to fit the frame. Integer arithmetic up to the last step: the same bytes on every machine.
void preprocess(const Frame& frame, const InputSpec& spec, ResizePlan& plan, const InputView& input);

}  // namespace edgeface
