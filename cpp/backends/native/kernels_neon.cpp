#if !defined(__ARM_NEON) || !defined(__ARM_FEATURE_FMA)
#error "compile this file for NEON with VFPv4"
#endif

#include <arm_neon.h>

#include "kernels.h"

namespace edgeface::native {
namespace {

#include "vectors_neon.h"

#include "kernels_body.h"

#include "requantize_neon.h"

#include "depthwise_neon.h"

// Without a dot product instruction int8 is fastest two channels at a time: weights of both, in turn, of
// eight output channels times a pixel's two, repeated. Two or four products are summed in 16 bits, then
// neighbours, which are one output's, into its 32 bits: no sum is in parts at the end.
constexpr int kPair = 2;
constexpr QuantizedLayout kPairsLayout = {kPair, 1, 1, 0};

#if defined(__aarch64__)
constexpr int kPairsPixels = 4;  // x 16 channels: 16 of the 32 registers hold sums, 8 weights, 4 inputs
constexpr int kPairsVectors = 4;
using Repeated = int8x16_t;
#else
constexpr int kPairsPixels = 4;  // x 8: 8 of the 16, 4 and 2
constexpr int kPairsVectors = 2;
using Repeated = int8x8_t;
#endif

// Two channels again and again; the pointer moves on, for nothing.
Repeated next_pair(const std::int8_t** at) {
    Repeated values;
    const auto& read = *reinterpret_cast<const std::int8_t (*)[kPair]>(*at);
#if defined(__aarch64__)
    __asm__("ld1r {%0.8h}, [%1], #2" : "=w"(values), "+r"(*at) : "m"(read));
#else
    __asm__("vld1.16 {%P0[]}, [%1]!" : "=w"(values), "+r"(*at) : "m"(read));
#endif
    return values;
}

int16x8_t products(int8x16_t row, Repeated values, int half) {
#if defined(__aarch64__)
    return product(row, values, half);
#else
    return product(half == 0 ? vget_low_s8(row) : vget_high_s8(row), values, 0);
#endif
}

int16x8_t add_products(int16x8_t sum, int8x16_t row, Repeated values, int half) {
#if defined(__aarch64__)
    return add_product(sum, row, values, half);
#else
    return add_product(sum, half == 0 ? vget_low_s8(row) : vget_high_s8(row), values, 0);
#endif
}

// Of kPixels pixels x kVectors vectors of channels, kChain products in 16 bits. Weights are in blocks of two
// vectors each.
template <int kPixels, int kVectors, int kChain>
struct PairsTile {
    static constexpr int kBlocks = (kVectors + 1) / 2;
    static constexpr int kRow = kTileChannels * kPair;
    int32x4_t sums[kPixels][kVectors];

    template <int kPairs>
    __attribute__((always_inline)) void add(const std::int8_t* weights, std::ptrdiff_t block,
                                            const std::int8_t** inputs) {
        int8x16_t rows[kBlocks][kPairs];
        EDGEFACE_UNROLL
        for (int b = 0; b < kBlocks; ++b) {
            EDGEFACE_UNROLL
            for (int i = 0; i < kPairs; ++i) rows[b][i] = vld1q_s8(weights + b * block + i * kRow);
        }
        EDGEFACE_UNROLL
        for (int p = 0; p < kPixels; ++p) {
            Repeated values[kPairs];
            EDGEFACE_UNROLL
            for (int i = 0; i < kPairs; ++i) values[i] = next_pair(&inputs[p]);
            EDGEFACE_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                add_chains<kPairs>(&sums[p][v], rows[v / 2], values, v % 2);
                // Or a compiler loads the next pixels' values before, for which there are no registers.
                if (p + 1 < kPixels) __asm__("" : "+w"(sums[p][v]), "+r"(inputs[p + 1]));
            }
        }
    }

    template <int kPairs>
    __attribute__((always_inline)) static void add_chains(int32x4_t* sum, const int8x16_t* row,
                                                          const Repeated* values, int half) {
        EDGEFACE_UNROLL
        for (int first = 0; first < kPairs; first += kChain) {
            int16x8_t chain = products(row[first], values[first], half);
            const int end = first + kChain < kPairs ? first + kChain : kPairs;
            EDGEFACE_UNROLL
            for (int i = first + 1; i < end; ++i) chain = add_products(chain, row[i], values[i], half);
            *sum = vpadalq_s16(*sum, chain);
        }
    }

    __attribute__((always_inline)) void add_tap(const std::int8_t* weights, std::ptrdiff_t block,
                                                const std::int8_t* input, std::ptrdiff_t step, int pairs) {
        const std::int8_t* inputs[kPixels];
        EDGEFACE_UNROLL
        for (int p = 0; p < kPixels; ++p) inputs[p] = input + p * step;
        for (int left = pairs; left >= 4; left -= 4, weights += 4 * kRow) add<4>(weights, block, inputs);
        if ((pairs & 2) != 0) add<2>(weights, block, inputs);
        if ((pairs & 1) != 0) add<1>(weights + (pairs & 2) * kRow, block, inputs);
    }
};

template <int kPixels, int kVectors, int kChain, typename Requantized>
void conv_pairs_tile(const QuantizedConvRun<std::int8_t>& run, const std::int8_t* weights, int pixel,
                     int first, const Requantized& requantized) {
    PairsTile<kPixels, kVectors, kChain> tile;
    EDGEFACE_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        const int32x4_t bias = vld1q_s32(run.bias + first + 4 * v);
        EDGEFACE_UNROLL
        for (int p = 0; p < kPixels; ++p) tile.sums[p][v] = bias;
    }
    const int pairs = static_cast<int>((static_cast<unsigned>(run.channels) + kPair - 1) / kPair);
    const std::ptrdiff_t tap_size = pairs * tile.kRow;
    const std::ptrdiff_t block = run.taps * tap_size;
    for (int tap = 0; tap < run.taps; ++tap, weights += tap_size) {
        const auto* input = reinterpret_cast<const std::int8_t*>(run.inputs[tap]);
        tile.add_tap(weights, block, input + pixel * run.input_step, run.input_step, pairs);
    }
    float32x4_t multipliers[kVectors];
    EDGEFACE_UNROLL
    for (int v = 0; v < kVectors; ++v) multipliers[v] = vld1q_f32(run.multipliers + first + 4 * v);
    std::int8_t* output = run.output + pixel * run.output_step + first;
    const int channels = run.output_channels - first;
    if (channels >= 4 * kVectors) {
        store_vectors<kPixels, kVectors, true>(&tile.sums[0][0], multipliers, requantized, output,
                                               run.output_step, channels);
    } else {
        store_vectors<kPixels, kVectors, false>(&tile.sums[0][0], multipliers, requantized, output,
                                                run.output_step, channels);
    }
}

template <int kVectors, int kChain, typename Requantized>
void conv_pairs_block(const QuantizedConvRun<std::int8_t>& run, const std::int8_t* weights, int first,
                      const Requantized& requantized) {
    for_tiles<kPairsPixels>(run.pixels, [&](auto pixels, int pixel) __attribute__((always_inline)) {
        conv_pairs_tile<decltype(pixels)::count, kVectors, kChain>(run, weights, pixel, first, requantized);
    });
}

template <int kChain, typename Requantized>
void conv_pairs_as(const QuantizedConvRun<std::int8_t>& run, const Requantized& requantized) {
    const auto* weights = reinterpret_cast<const std::int8_t*>(run.weights);
    const std::ptrdiff_t pairs = (run.channels + kPair - 1) / kPair;
    constexpr int kMost = 4 * kPairsVectors;
    for (int first = 0; first < run.output_channels; first += kMost) {
        const int left = run.output_channels - first;
        if (left > kTileChannels && kPairsVectors == 4) {
            conv_pairs_block<kPairsVectors, kChain>(run, weights, first, requantized);
        } else if (left > 4) {
            conv_pairs_block<2, kChain>(run, weights, first, requantized);
        } else {
            conv_pairs_block<1, kChain>(run, weights, first, requantized);
        }
        weights += kMost * run.taps * pairs * kPair;
    }
}

void conv_pairs(const QuantizedConvRun<std::int8_t>& run) {
    with_narrow_requantizer(run.to, [&](const auto& requantized) {
        if (run.chain >= 4) return conv_pairs_as<4>(run, requantized);
        conv_pairs_as<2>(run, requantized);
    });
}

constexpr QuantizedConvKernels<std::int8_t> kWide = conv_kernels<Singles, std::int8_t>(widen);
constexpr QuantizedConvKernels<std::uint8_t> kUint8 = conv_kernels<Singles, std::uint8_t>(widen);

constexpr Kernels kKernels = {
    "neon",
    kTileChannels,
    conv,
    winograd_inputs,
    winograd_outputs,
    depthwise,
    add,
    clamp,
    max_pool,
    sigmoid,
    softmax_pairs,
    {{kPairsLayout, nullptr, conv_pairs}, kWide, depthwise_bytes, add_bytes, max_pool, 1, true},
    {kUint8, kUint8, quantized_depthwise, quantized_add, max_pool}};

}  // namespace

const Kernels& neon_kernels() { return kKernels; }

}  // namespace edgeface::native
