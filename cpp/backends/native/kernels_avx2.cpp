// 256-bit vectors with fused multiply-add.
#if !defined(__AVX2__) || !defined(__FMA__)
#error "compile this file with -mavx2 -mfma"
#endif

#include <immintrin.h>

#include "kernels.h"

namespace edgeface::native {
namespace {

struct Vec {
    static constexpr int lanes = 8;
    __m256 v;

    static Vec load(const float* from) { return {_mm256_loadu_ps(from)}; }
    static Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
    void store(float* to) const { _mm256_storeu_ps(to, v); }
    static Vec fused(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
    static Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
    static Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
    static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
};

constexpr const char* kIsa = "avx2";
// 12 of the 16 registers hold sums.
constexpr int kTilePixels = 6;
constexpr int kTileChannels = 16;

#include "kernels_body.h"

}  // namespace

const Kernels& avx2_kernels() { return kKernels; }

}  // namespace edgeface::native
