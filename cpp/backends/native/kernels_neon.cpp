// 128-bit NEON with fused multiply-add: every aarch64 core, and ARMv7 cores with VFPv4.
#if !defined(__ARM_NEON) || !defined(__ARM_FEATURE_FMA)
#error "compile this file for NEON with VFPv4"
#endif

#include <arm_neon.h>

#include "kernels.h"

namespace edgeface::native {
namespace {

struct Vec {
    static constexpr int lanes = 4;
    float32x4_t v;

    static Vec load(const float* from) { return {vld1q_f32(from)}; }
    static Vec broadcast(float x) { return {vdupq_n_f32(x)}; }
    void store(float* to) const { vst1q_f32(to, v); }
    static Vec fused(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
    static Vec add(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
    static Vec multiply(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
    static Vec min(Vec a, Vec b) { return {vminq_f32(a.v, b.v)}; }
    static Vec max(Vec a, Vec b) { return {vmaxq_f32(a.v, b.v)}; }
};

struct Ints {
    static constexpr int lanes = 4;
    using Pairs = int16x8_t;
    int32x4_t v;

    static Ints load(const std::int32_t* from) { return {vld1q_s32(from)}; }
    static Ints broadcast(std::int32_t x) { return {vdupq_n_s32(x)}; }
    static Ints add(Ints a, Ints b) { return {vaddq_s32(a.v, b.v)}; }
    void store_bytes(std::uint8_t* to) const {
        const int16x4_t words = vmovn_s32(v);
        const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
        const std::uint32_t four = vget_lane_u32(vreinterpret_u32_s8(bytes), 0);
        __builtin_memcpy(to, &four, sizeof(four));
    }
    static Ints widen(const std::int8_t* from) { return {{from[0], from[1], from[2], from[3]}}; }
    static Ints widen(const std::uint8_t* from) { return {{from[0], from[1], from[2], from[3]}}; }
    using Factors = int32x4_t;
    static Factors load_factors(const std::int16_t* from) { return vmovl_s16(vld1_s16(from)); }
    static Ints multiply_add(Ints sum, Ints values, Factors with) {
        return {vmlaq_s32(sum.v, values.v, with)};
    }
    static Pairs load_pairs(const std::int16_t* from) { return vld1q_s16(from); }
    static Ints pair_dot(Ints sum, std::int32_t pair, Pairs with) {
        const int16x4_t factors = vreinterpret_s16_s32(vdup_n_s32(pair));
        const int32x4_t low = vmull_s16(vget_low_s16(with), factors);
        const int32x4_t high = vmull_s16(vget_high_s16(with), factors);
#if defined(__aarch64__)
        return {vaddq_s32(sum.v, vpaddq_s32(low, high))};
#else
        return {vaddq_s32(sum.v, vcombine_s32(vpadd_s32(vget_low_s32(low), vget_high_s32(low)),
                                              vpadd_s32(vget_low_s32(high), vget_high_s32(high))))};
#endif
    }
    static Vec to_floats(Ints a) { return {vcvtq_f32_s32(a.v)}; }
    static Ints rounded(Vec a) {
#if defined(__aarch64__)
        return {vcvtnq_s32_f32(a.v)};
#else
        // ARMv7 can only truncate. Adding 1.5 * 2^23 leaves no bits for a fraction, so the addition itself
        // rounds as IEEE says: halves to even.
        const float32x4_t magic = vdupq_n_f32(12582912);
        return {vcvtq_s32_f32(vsubq_f32(vaddq_f32(a.v, magic), magic))};
#endif
    }
};

constexpr const char* kIsa = "neon";
#if defined(__aarch64__)
constexpr int kTilePixels = 8;  // 16 of the 32 registers hold sums
#else
constexpr int kTilePixels = 4;  // 8 of the 16
#endif
constexpr int kTileChannels = 8;

#include "kernels_body.h"

}  // namespace

const Kernels& neon_kernels() { return kKernels; }

}  // namespace edgeface::native
