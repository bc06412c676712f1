// aarch64 with the dot product instructions (ARMv8.2 and later: Cortex-A55, A75, A76): sums of four products
// of int8 in one.
#if !defined(__aarch64__) || !defined(__ARM_FEATURE_DOTPROD)
#error "compile this file with -march=armv8.2-a+dotprod"
#endif

#include <arm_neon.h>

#include "kernels.h"

namespace edgeface::native {
namespace {

#include "vectors_neon.h"

struct Quads {
    static constexpr int depth = 4;
    static constexpr int input_bytes = 1;
    static constexpr int weight_bytes = 1;
    static constexpr int offset = 0;
    static constexpr int tile_pixels = kTilePixels;
    static constexpr bool unrolls = true;
    using Weights = int8x16_t;
    using Four = int8x16_t;

    static Weights load(const std::byte* from) {
        return vld1q_s8(reinterpret_cast<const std::int8_t*>(from));
    }
    static Four four(const std::byte* from) { return load(from); }
    static Four one(const std::byte* from) {
        return vreinterpretq_s8_u32(vdupq_n_u32(Ints::load_four(from)));
    }
    template <int i>
    static Ints dot(Weights row, Four four, Ints sum) {
        return {vdotq_laneq_s32(sum.v, row, four, i)};
    }
};

#include "kernels_body.h"

#include "requantize_neon.h"

#include "depthwise_neon.h"

constexpr QuantizedConvKernels<std::uint8_t> kUint8 = conv_kernels<Singles, std::uint8_t>(widen);

constexpr Kernels kKernels = {
    "neon_dotprod",
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
    {conv_kernels<Quads, std::int8_t>(nullptr), conv_kernels<Singles, std::int8_t>(widen), depthwise_bytes,
     add_bytes, max_pool, 1, true},
    {kUint8, kUint8, quantized_depthwise, quantized_add, max_pool}};

}  // namespace

const Kernels& neon_dotprod_kernels() { return kKernels; }

}  // namespace edgeface::native
