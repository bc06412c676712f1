// The inner loops, one table of them for every instruction set.
//
// Contracts shared by all: counts are positive; pointers need no alignment; an output never overlaps an
// input unless the comment says that it may. A pixel's channels are next to each other; pixels of one image
// are `stride` floats apart, which lets a kernel read from and write into a part of a wider image.
#pragma once

#include <cstddef>

namespace edgeface::native {

// The most output pixels and channels a tile of any ISA has.
constexpr int kMaxTilePixels = 16;

// Output pixels x output channels of a convolution: out[p][c] = clamp(bias[c] + sum over taps and channels).
struct ConvTile {
    const float* const* inputs;  // [tap][tile_pixels]: the input pixel that a tap of an output pixel reads
    int taps;
    int channels;          // of the input
    const float* weights;  // [block][bias, then tap, channel][tile_channels], from pack_conv
    float* output;
    int pixels;  // 1..tile_pixels to store; the others are computed from valid pointers and dropped
    int output_channels;
    std::ptrdiff_t output_stride;
    float low;
    float high;
};

// One output pixel after another of a depthwise convolution.
struct DepthwiseRow {
    const float* const* inputs;  // [pixel][tap]
    int taps;
    int pixels;
    int channels;
    const float* weights;  // [bias, then taps][channels]
    float* output;
    std::ptrdiff_t output_stride;
    float low;
    float high;
};

struct Kernels {
    const char* isa;
    int tile_pixels;
    int tile_channels;
    void (*conv_tile)(const ConvTile& tile);
    void (*depthwise_row)(const DepthwiseRow& row);
    // out[i] = clamp(a[i] + b[i]). `out` may be `a` or `b`.
    void (*add)(const float* a, const float* b, float* out, std::size_t count, float low, float high);
    // out[i] = clamp(in[i]). `out` may be `in`.
    void (*clamp)(const float* in, float* out, std::size_t count, float low, float high);
};

const Kernels& scalar_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& neon_kernels();

}  // namespace edgeface::native
