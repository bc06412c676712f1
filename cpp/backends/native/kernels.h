// The inner loops, one table of them for every instruction set.
//
// Contracts shared by all: counts are positive; pointers need no alignment; an output never overlaps an
// input unless the comment says that it may. A pixel's channels are next to each other. A run is output
// pixels `output_step` elements apart whose inputs are `input_step` elements apart: a row of an image, or
// several where nothing lies between them. What a tap reads beyond an image's edges is there in memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "winograd.h"

namespace edgeface::native {

// out[p][c] = clamp(bias[c] + sum over taps and channels), tap t of pixel p from inputs[t] + p * input_step
// on. Here and below clamp(x) = min(max(x, slope * x, low), high), with a slope above 0 and at most 1.
struct ConvRun {
    const float* const* inputs;  // [tap]
    int taps;
    int channels;  // that one tap reads
    std::ptrdiff_t input_step;
    const float* weights;  // [block][bias, then tap, channel][tile_channels], from pack_conv
    float* output;
    int pixels;
    int output_channels;
    std::ptrdiff_t output_step;
    float low;
    float high;
    float slope;
};

// Rows as the factors of Winograd's products (winograd.h): out[product][patch][channel]. At least
// winograd::kMostLanes channels.
struct WinogradInputRun {
    const float* inputs[winograd::kFactors];  // rows, from what the first output reads first on
    std::ptrdiff_t input_step;
    int columns;  // that outputs read; what a last patch has beyond them counts as 0
    int channels;
    float* output;
    std::ptrdiff_t product_step;
};

// out[row][p][c] = clamp(bias[c] + what the products of p's patch come to). Up to winograd::kMostLanes - 1
// values are read after the last channel's.
struct WinogradOutputRun {
    const float* products;  // [product][patch][channel]
    std::ptrdiff_t product_step;
    std::ptrdiff_t patch_step;
    const float* bias;
    float* outputs[winograd::kOutputs];  // null where there is no such row
    int pixels;
    int channels;
    std::ptrdiff_t output_step;
    float low;
    float high;
    float slope;
};

// The same as ConvRun, channel by channel.
struct DepthwiseRun {
    const float* const* inputs;
    int taps;
    std::ptrdiff_t input_step;
    std::ptrdiff_t column_step;  // from one tap to the next in a row of three; 0 in other rows
    const float* weights;        // [bias, then taps][channels]
    float* output;
    int pixels;
    int channels;
    std::ptrdiff_t output_step;
    float low;
    float high;
    float slope;
};

// What turns a sum of products into an output: clamp(float(sum) * multiplier), rounded to the nearest, halves
// to even, plus the zero point. `low` and `high` are whole numbers within the type, less the zero point. A
// plain one has no slope, no upper bound but the type's, and steps that fit into an int32 whatever the input.
// A small one is plain, its low and zero point are 0, and no sum reaches 2^23, of either sign.
struct Requantization {
    float low;
    float high;
    int zero_point;
    float slope;
    bool plain;
    bool small;
};

// out[p][c] = the largest of inputs[t][p * input_step + c] over the taps.
template <typename T>
struct MaxPoolRun {
    const T* const* inputs;
    int taps;
    std::ptrdiff_t input_step;
    T* output;
    int pixels;
    int channels;
    std::ptrdiff_t output_step;
};

// As ConvRun, of int8 or uint8 values. Inputs are as QuantizedKernels::prepare left them; a tap may read up
// to 15 of them after its last channel.
template <typename T>
struct QuantizedConvRun {
    const std::byte* const* inputs;
    int taps;
    int channels;
    std::ptrdiff_t input_step;  // in bytes
    const std::byte* weights;   // [block][tap][group of `depth` channels][tile_channels][depth]
    const std::int32_t* bias;   // [block][tile_channels]
    const float* multipliers;   // [block][tile_channels]
    Requantization to;
    T* output;
    int pixels;
    int output_channels;
    std::ptrdiff_t output_step;
    int chain;  // so many products of an input and a weight of it fit in 16 bits, whatever the input
};

// As DepthwiseRun. Up to 32 values may be read after those of the last tap's last pixel.
template <typename T>
struct QuantizedDepthwiseRun {
    const T* const* inputs;
    int taps;
    std::ptrdiff_t input_step;
    std::ptrdiff_t column_step;
    const std::int16_t* weights;  // [tap][channels]
    bool narrow;                  // they are from -127 to 127
    const std::int32_t* bias;
    const float* multipliers;
    Requantization to;
    T* output;
    int pixels;
    int channels;
    std::ptrdiff_t output_step;
    int chain;  // the same of taps in turn, from the first on and from the next ones on
};

// out[i] = requantised fl(fl((a[i] - zero_a) * ratio_a) + fl((b[i] - zero_b) * ratio_b)). `output` may be `a`
// or `b`.
template <typename T>
struct QuantizedAddRun {
    const T* a;
    const T* b;
    T* output;
    std::size_t count;
    int zero_a;
    int zero_b;
    float ratio_a;
    float ratio_b;
    Requantization to;
};

// How a convolution wants its operands: `depth` products are summed at a time, inputs and weights take so
// many bytes each, and `offset` is what inputs have gained, which the bias takes back.
struct QuantizedLayout {
    int depth;
    int input_bytes;
    int weight_bytes;
    int offset;
};

// The kernels for one type of quantised values; their results are the same for every ISA. The layout holds
// for weights from -127 to 127; `wide` ones, which only uint8 files have, need kernels of their own.
template <typename T>
struct QuantizedConvKernels {
    QuantizedLayout layout;
    // Stored values -> what conv reads; null where that is the same.
    void (*prepare)(const T* values, std::byte* prepared, std::size_t count);
    void (*conv)(const QuantizedConvRun<T>& run);
};

template <typename T>
struct QuantizedKernels {
    QuantizedConvKernels<T> narrow;
    QuantizedConvKernels<T> wide;
    // Runs that differ only in their inputs and outputs: rows one below the other.
    void (*depthwise)(const QuantizedDepthwiseRun<T>* runs, int rows);
    void (*add)(const QuantizedAddRun<T>& run);
    void (*max_pool)(const MaxPoolRun<T>& run);
    int depthwise_rows = 1;  // so many at a time take less than one by one
    bool centres = false;    // whether longer chains are worth centred values (Network::centre)
};

struct Kernels {
    const char* isa;
    int tile_channels;
    void (*conv)(const ConvRun& run);
    void (*winograd_inputs)(const WinogradInputRun& run);
    void (*winograd_outputs)(const WinogradOutputRun& run);
    void (*depthwise)(const DepthwiseRun& run);
    // out[i] = clamp(a[i] + b[i]). `out` may be `a` or `b`.
    void (*add)(const float* a, const float* b, float* out, std::size_t count, float low, float high,
                float slope);
    // out[i] = clamp(in[i]). `out` may be `in`.
    void (*clamp)(const float* in, float* out, std::size_t count, float low, float high, float slope);
    void (*max_pool)(const MaxPoolRun<float>& run);
    // out[i] = 1 / (1 + e^-in[i]). `out` may be `in`.
    void (*sigmoid)(const float* in, float* out, std::size_t count);
    // Of `count` pairs of values: out = softmax(in). `out` may be `in`.
    void (*softmax_pairs)(const float* in, float* out, std::size_t count);
    QuantizedKernels<std::int8_t> int8;
    QuantizedKernels<std::uint8_t> uint8;
};

const Kernels& scalar_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512vnni_kernels();
const Kernels& neon_kernels();
const Kernels& neon_dotprod_kernels();

}  // namespace edgeface::native
