#if !defined(__ARM_NEON) || !defined(__ARM_FEATURE_FMA)
#error "compile this file for NEON with VFPv4"
#endif

#include <arm_neon.h>

#include "kernels.h"

namespace edgeface::native {
namespace {

#include "vectors_neon.h"

#include "kernels_body.h"

#include "depthwise_neon.h"

// Without a dot product instruction int8 is fastest 16 products at a time: of bytes that follow one another
// in both operands, two in each 16-bit sum (at most 128 * 127 each), then pairs of those into 32 bits. Every
// output of a tile has four partial sums, which are added at its end.
#if defined(__aarch64__)
constexpr int kBlockPixels = 4;  // 16 of the 32 registers hold sums
#else
constexpr int kBlockPixels = 2;  // 8 of the 16
#endif
constexpr int kBlockChannels = 4;
constexpr int kBytes = 16;

constexpr QuantizedLayout kBytesLayout = {kBytes, 1, 1, 0};

int32x4_t horizontal(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
#if defined(__aarch64__)
    return vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
#else
    const auto halves = [](int32x4_t v) { return vpadd_s32(vget_low_s32(v), vget_high_s32(v)); };
    return vcombine_s32(vpadd_s32(halves(a), halves(b)), vpadd_s32(halves(c), halves(d)));
#endif
}

int32x4_t dot_bytes(int32x4_t sum, int8x16_t a, int8x16_t b) {
    const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
#if defined(__aarch64__)
    return vpadalq_s16(sum, vmlal_high_s8(low, a, b));
#else
    return vpadalq_s16(sum, vmlal_s8(low, vget_high_s8(a), vget_high_s8(b)));
#endif
}

// Four channels of four pixels of a run's output; the last may lie outside the tile.
void store_block(const int32x4_t* sums, float32x4_t multipliers, const NarrowRequantizer& requantized,
                 std::int8_t* output, std::ptrdiff_t step, int pixels, int channels) {
    const float32x4_t same[4] = {multipliers, multipliers, multipliers, multipliers};
    std::int8_t bytes[kBytes];
    const int8x16_t values = requantized({{sums[0], sums[1], sums[2], sums[3]}}, same);
    if (pixels == 4 && channels >= kBlockChannels) {
        const uint32x4_t words = vreinterpretq_u32_s8(values);
        const std::uint32_t four[4] = {vgetq_lane_u32(words, 0), vgetq_lane_u32(words, 1),
                                       vgetq_lane_u32(words, 2), vgetq_lane_u32(words, 3)};
        for (int p = 0; p < 4; ++p, output += step) __builtin_memcpy(output, &four[p], sizeof(four[p]));
        return;
    }
    vst1q_s8(bytes, values);
    const int count = channels < kBlockChannels ? channels : kBlockChannels;
    for (int p = 0; p < pixels; ++p)
        __builtin_memcpy(output + p * step, bytes + p * kBlockChannels, static_cast<std::size_t>(count));
}

template <int kPixels>
void conv_bytes_tile(const QuantizedConvRun<std::int8_t>& run, const std::byte* weights, int pixel, int first,
                     int32x4_t* sums) {
    int32x4_t partial[kPixels][kBlockChannels];
    EDGEFACE_UNROLL
    for (int p = 0; p < kPixels; ++p) {
        EDGEFACE_UNROLL
        for (int c = 0; c < kBlockChannels; ++c) partial[p][c] = vdupq_n_s32(0);
    }
    const int groups = (run.channels + kBytes - 1) / kBytes;
    const std::ptrdiff_t step = run.input_step;
    for (int tap = 0; tap < run.taps; ++tap) {
        const auto* input = reinterpret_cast<const std::int8_t*>(run.inputs[tap] + pixel * step);
        for (int group = 0; group < groups; ++group, input += kBytes, weights += kTileChannels * kBytes) {
            int8x16_t values[kPixels];
            EDGEFACE_UNROLL
            for (int p = 0; p < kPixels; ++p) values[p] = vld1q_s8(input + p * step);
            EDGEFACE_UNROLL
            for (int c = 0; c < kBlockChannels; ++c) {
                const int8x16_t row = vld1q_s8(reinterpret_cast<const std::int8_t*>(weights) + c * kBytes);
                EDGEFACE_UNROLL
                for (int p = 0; p < kPixels; ++p) partial[p][c] = dot_bytes(partial[p][c], values[p], row);
            }
        }
    }
    const int32x4_t bias = vld1q_s32(run.bias + first);
    EDGEFACE_UNROLL
    for (int p = 0; p < kPixels; ++p)
        sums[p] = vaddq_s32(bias, horizontal(partial[p][0], partial[p][1], partial[p][2], partial[p][3]));
}

// Sums of four pixels at a time are requantised together.
template <int kPixels>
int conv_bytes_tiles(const QuantizedConvRun<std::int8_t>& run, const std::byte* weights, int pixel, int first,
                     const NarrowRequantizer& requantized) {
    const float32x4_t multipliers = vld1q_f32(run.multipliers + first);
    for (; pixel + kPixels <= run.pixels; pixel += kPixels) {
        int32x4_t sums[4] = {};
        constexpr int kPart = kPixels < kBlockPixels ? kPixels : kBlockPixels;
        EDGEFACE_UNROLL
        for (int done = 0; done < kPixels; done += kPart)
            conv_bytes_tile<kPart>(run, weights, pixel + done, first, sums + done);
        store_block(sums, multipliers, requantized, run.output + pixel * run.output_step + first,
                    run.output_step, kPixels, run.output_channels - first);
    }
    return pixel;
}

void conv_bytes(const QuantizedConvRun<std::int8_t>& run) {
    const NarrowRequantizer requantized(run.to);
    const std::ptrdiff_t groups = (run.channels + kBytes - 1) / kBytes;
    const std::ptrdiff_t block = run.taps * groups * kTileChannels * kBytes;
    for (int first = 0; first < run.output_channels; first += kBlockChannels) {
        const std::byte* weights =
            run.weights + first / kTileChannels * block + first % kTileChannels * kBytes;
        int pixel = conv_bytes_tiles<4>(run, weights, 0, first, requantized);
        pixel = conv_bytes_tiles<2>(run, weights, pixel, first, requantized);
        conv_bytes_tiles<1>(run, weights, pixel, first, requantized);
    }
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
    {{kBytesLayout, nullptr, conv_bytes}, kWide, depthwise_bytes, quantized_add, max_pool},
    {kUint8, kUint8, quantized_depthwise, quantized_add, max_pool}};

}  // namespace

const Kernels& neon_kernels() { return kKernels; }

}  // namespace edgeface::native
