// The inner loops of preprocessing, one table of them for every instruction set.
//
// In between a column has four places: for a pixel the network's channels in their order, and one that is not
// used; for planes of YUV, several pixels' samples. Counts are positive, pointers need no alignment, results
// are the same bytes for every ISA. Lines and columns come in whole groups of kColumnGroup, so that no vector
// crosses their end; what lies in the last group beyond the width is computed and dropped.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgeface {

constexpr int kColumnGroup = 16;
// Bytes of a row that hold all that a column is blended from.
constexpr int kWindow = 8;
// Bytes behind a line that convert_pixels may read.
constexpr int kLinePadding = 64;

// The columns of a resize. From the windows of two columns, `shuffle` takes the left pixels of both, then the
// right ones.
struct Columns {
    const std::int32_t* windows;  // [columns] bytes from the start of the row
    const std::uint8_t* shuffle;  // [columns / 2][2 of left and right][2 columns][4 places]
    const std::int16_t* weights;  // [columns][4 places] of the right pixel, in 1/32768
    int count;
    int places;  // that are used, 3 or 4
};

// Y, U or V of a line, and what it adds to the network's channels.
struct Samples {
    const std::uint8_t* line;  // with kLinePadding
    int step;                  // bytes from a pixel to the next, on the average of four
    int middle;                // the value that adds nothing
    std::uint8_t order[16];    // where each of four pixels has its own, four times
    std::int16_t factor[4];    // in 1/8192
};

// From a pixel to what a quantised network stores: pixel * factor + offset, not below low nor above high, to
// the nearest, halves to even. Each step rounds; whoever uses a map tries all 256 pixels first.
struct PixelMap {
    float factor[4];
    float offset[4];
    float low;
    float high;
};

struct PreprocessKernels {
    const char* isa;
    // out[column][place] = 128 * (left + (right - left) * weight), to the nearest, halves up.
    void (*resize_columns)(const Columns& columns, const std::uint8_t* row, std::int16_t* out);
    // out[i] = (first[i] + (second[i] - first[i]) * weight / 2048) / 128, to the nearest, halves up.
    void (*blend_rows)(const std::int16_t* first, const std::int16_t* second, int weight, int count,
                       std::uint8_t* out);
    // out[x] = (line[x][channel] - mean) * scale, rounded twice; only ARMv7 makes 0 of what is below 1e-38.
    void (*normalise_plane)(const std::uint8_t* line, int width, int channel, float mean, float scale,
                            float* out);
    // out[x][channel] likewise, of three channels; `mean` and `scale` have four places.
    void (*normalise_pixels)(const std::uint8_t* line, int width, const float* mean, const float* scale,
                             float* out);
    // out[x][place] = the sum over Y, U and V of (value - middle) * factor, each to the nearest 1/32, halves
    // up; then to the nearest pixel value, halves up.
    void (*convert_pixels)(const Samples (&yuv)[3], int width, std::uint8_t* out);
    // out[x][channel] = line[x][channel] mapped, of three channels. Null where a table is as fast.
    void (*map_pixels)(const std::uint8_t* line, int width, const PixelMap& map, std::uint8_t* out);
};

const PreprocessKernels& scalar_preprocess();
const PreprocessKernels& avx2_preprocess();
const PreprocessKernels& avx512_preprocess();
const PreprocessKernels& neon_preprocess();

}  // namespace edgeface
