// 512-bit vectors: AVX-512F alone.
#if !defined(__AVX512F__)
#error "compile this file with -mavx512f"
#endif

#include <immintrin.h>

#include "kernels.h"

namespace edgeface::native {
namespace {

struct Vec {
    static constexpr int lanes = 16;
    __m512 v;

    static Vec load(const float* from) { return {_mm512_loadu_ps(from)}; }
    static Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
    void store(float* to) const { _mm512_storeu_ps(to, v); }
    static Vec fused(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
    static Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
    static Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
    static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
};

constexpr const char* kIsa = "avx512";
// 24 of the 32 registers hold sums.
constexpr int kTilePixels = 12;
constexpr int kTileChannels = 32;

#include "kernels_body.h"

}  // namespace

const Kernels& avx512_kernels() { return kKernels; }

}  // namespace edgeface::native
