// The inner loops, one table of them for every instruction set.
//
// Contracts shared by all: counts are positive; pointers need no alignment; an output never overlaps an
// input unless the comment says that it may. A pixel's channels are next to each other; pixels of one image
// are `stride` floats apart, which lets a kernel read from and write into a part of a wider image.
#pragma once

#include <cstddef>
#include <cstdint>

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

// One output pixel after another of a depthwise convolution: tap t of pixel p reads inputs[t] + p * steps[t].
struct DepthwiseRow {
    const float* const* inputs;
    const std::ptrdiff_t* steps;
    int taps;
    int pixels;
    int channels;
    const float* weights;  // [bias, then taps][channels]
    float* output;
    std::ptrdiff_t output_stride;
    float low;
    float high;
};

// What turns a sum of products into an output: clamp(float(sum) * multiplier), rounded to the nearest, halves
// to even, plus the zero point. `low` and `high` are whole numbers within the type, less the zero point.
struct Requantization {
    float low;
    float high;
    int zero_point;
};

// As ConvTile, of int8 or uint8 values. The input's zero point is folded into the bias; what lies beyond the
// edges is that zero point.
template <typename T>
struct QuantizedConvTile {
    const T* const* inputs;
    int taps;
    int channels;
    const std::int16_t* weights;  // [block][tap][pair of channels][tile_channels][2]
    const std::int32_t* bias;     // [block][tile_channels]
    const float* multipliers;     // [block][tile_channels]
    Requantization to;
    T* output;
    int pixels;
    int output_channels;
    std::ptrdiff_t output_stride;
};

// As DepthwiseRow.
template <typename T>
struct QuantizedDepthwiseRow {
    const T* const* inputs;
    const std::ptrdiff_t* steps;
    int taps;
    int pixels;
    int channels;
    const std::int16_t* weights;  // [tap][channels]
    const std::int32_t* bias;
    const float* multipliers;
    Requantization to;
    T* output;
    std::ptrdiff_t output_stride;
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
    // Results of these are the same for every ISA.
    void (*conv_tile_int8)(const QuantizedConvTile<std::int8_t>& tile);
    void (*conv_tile_uint8)(const QuantizedConvTile<std::uint8_t>& tile);
    void (*depthwise_row_int8)(const QuantizedDepthwiseRow<std::int8_t>& row);
    void (*depthwise_row_uint8)(const QuantizedDepthwiseRow<std::uint8_t>& row);
};

const Kernels& scalar_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& neon_kernels();

}  // namespace edgeface::native
