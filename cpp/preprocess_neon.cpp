// 128-bit NEON.
#if !defined(__ARM_NEON)
#error "compile this file for NEON"
#endif

#include <arm_neon.h>

#include "preprocess_kernels.h"

namespace edgeface {
namespace {

uint8x16_t shuffled(uint8x8_t low, uint8x8_t high, uint8x16_t order) {
#if defined(__aarch64__)
    return vqtbl1q_u8(vcombine_u8(low, high), order);
#else
    const uint8x8x2_t bytes = {{low, high}};
    return vcombine_u8(vtbl2_u8(bytes, vget_low_u8(order)), vtbl2_u8(bytes, vget_high_u8(order)));
#endif
}

struct Shorts {
    static constexpr int lanes = 8;
    using Taps = uint8x16_t;
    int16x8_t v;

    static Shorts load(const std::int16_t* from) { return {vld1q_s16(from)}; }
    void store(std::int16_t* to) const { vst1q_s16(to, v); }
    static Shorts broadcast(int x) { return {vdupq_n_s16(static_cast<std::int16_t>(x))}; }
    static Shorts add(Shorts a, Shorts b) { return {vaddq_s16(a.v, b.v)}; }
    static Shorts subtract(Shorts a, Shorts b) { return {vsubq_s16(a.v, b.v)}; }
    static Shorts rounded_product(Shorts a, Shorts b) { return {vqrdmulhq_s16(a.v, b.v)}; }
    // NEON doubles the product; half of `b` is hoisted out of the loop.
    static Shorts high_product(Shorts a, Shorts b) { return {vqdmulhq_s16(a.v, vshrq_n_s16(b.v, 1))}; }
    void store_rounded(std::uint8_t* to) const { vst1_u8(to, vqrshrun_n_s16(v, 7)); }

    void store_clamped(std::uint8_t* to) const { vst1_u8(to, vqrshrun_n_s16(v, 5)); }

    static Shorts broadcast_pixel(const std::int16_t* from) {
        return {vcombine_s16(vld1_s16(from), vld1_s16(from))};
    }
    static Shorts spread(const std::uint8_t* from, int, const std::uint8_t* order) {
        return {vreinterpretq_s16_u16(vshll_n_u8(vtbl1_u8(vld1_u8(from), vld1_u8(order)), 7))};
    }
    static Taps load_taps(const std::uint8_t* row, const std::int32_t* windows, const std::uint8_t* shuffle) {
        return shuffled(vld1_u8(row + windows[0]), vld1_u8(row + windows[1]), vld1q_u8(shuffle));
    }
    static Shorts left(Taps taps) { return {vreinterpretq_s16_u16(vshll_n_u8(vget_low_u8(taps), 7))}; }
    static Shorts right(Taps taps) { return {vreinterpretq_s16_u16(vshll_n_u8(vget_high_u8(taps), 7))}; }
};

// Four registers, because one register of bytes becomes four of floats.
struct Floats {
    static constexpr int lanes = 16;
    float32x4_t v[4];

    template <typename Make>
    static Floats each(Make make) {
        return {{make(0), make(1), make(2), make(3)}};
    }
    static Floats broadcast(float x) {
        return each([&](int) { return vdupq_n_f32(x); });
    }
    static Floats broadcast_pixel(const float* from) {
        return each([&](int) { return vld1q_f32(from); });
    }
    static Floats from_pixels(const std::uint8_t* from) {
        const uint8x16_t bytes = vld1q_u8(from);
        const uint16x8_t low = vmovl_u8(vget_low_u8(bytes));
        const uint16x8_t high = vmovl_u8(vget_high_u8(bytes));
        return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
                 vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
                 vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))}};
    }
    static Floats from_channel(const std::uint8_t* from, int channel) {
        return each([&](int i) {
            const uint32x4_t pixels = vreinterpretq_u32_u8(vld1q_u8(from + 16 * i));
            const uint32x4_t shifted = vshlq_u32(pixels, vdupq_n_s32(-8 * channel));
            return vcvtq_f32_u32(vandq_u32(shifted, vdupq_n_u32(0xff)));
        });
    }
    static Floats add(const Floats& a, const Floats& b) {
        return each([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
    }
    static Floats subtract(const Floats& a, const Floats& b) {
        return each([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
    }
    static Floats multiply(const Floats& a, const Floats& b) {
        return each([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
    }
    static Floats min(const Floats& a, const Floats& b) {
        return each([&](int i) { return vminq_f32(a.v[i], b.v[i]); });
    }
    static Floats max(const Floats& a, const Floats& b) {
        return each([&](int i) { return vmaxq_f32(a.v[i], b.v[i]); });
    }
    void store(float* to) const {
        for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, v[i]);
    }
    void store_pixels(float* to) const {
        for (int i = 0; i < 4; ++i) vst1q_f32(to + 3 * i, v[i]);
    }
    // As in the engine's scalar kernels: with 1.5 * 2^23 added, the lowest bits are the rounded number.
    void store_rounded_pixels(std::uint8_t* to) const {
        const Floats moved = add(*this, broadcast(12582912));
        const auto low_half = [&](int i) { return vmovn_u32(vreinterpretq_u32_f32(moved.v[i])); };
        const uint8x8_t first = vmovn_u16(vcombine_u16(low_half(0), low_half(1)));
        const uint8x8_t second = vmovn_u16(vcombine_u16(low_half(2), low_half(3)));
        const uint8x16_t order = {0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 16, 16, 16};
        vst1q_u8(to, shuffled(first, second, order));
    }
};

#include "preprocess_body.h"

const PreprocessKernels kKernels = {"neon",           resize_columns, blend_rows,        normalise_plane,
                                    normalise_pixels, convert_pixels, map_pixels<Floats>};

}  // namespace

const PreprocessKernels& neon_preprocess() { return kKernels; }

}  // namespace edgeface
