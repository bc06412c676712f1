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
    static Vec min(Vec a, Vec b) { return {vminq_f32(a.v, b.v)}; }
    static Vec max(Vec a, Vec b) { return {vmaxq_f32(a.v, b.v)}; }
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
