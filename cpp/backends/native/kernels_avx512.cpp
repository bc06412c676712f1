// 512-bit vectors: AVX-512F, and BW for 16-bit integers.
#if !defined(__AVX512F__) || !defined(__AVX512BW__)
#error "compile this file with -mavx512f -mavx512bw"
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
    static Vec multiply(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
    static Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
    static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
};

struct Ints {
    static constexpr int lanes = 16;
    using Pairs = __m512i;
    __m512i v;

    static Ints load(const std::int32_t* from) { return {_mm512_loadu_si512(from)}; }
    static Ints broadcast(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
    static Ints add(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
    void store_bytes(std::uint8_t* to) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(v));
    }
    static Ints widen(const std::int8_t* from) {
        return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
    }
    static Ints widen(const std::uint8_t* from) {
        return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
    }
    // As in kernels_avx2.cpp: 0 in the upper halves.
    using Factors = __m512i;
    static Factors load_factors(const std::int16_t* from) {
        return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }
    static Ints multiply_add(Ints sum, Ints values, Factors with) {
        return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(values.v, with))};
    }
    static Pairs load_pairs(const std::int16_t* from) { return _mm512_loadu_si512(from); }
    static Ints pair_dot(Ints sum, std::int32_t pair, Pairs with) {
        return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(_mm512_set1_epi32(pair), with))};
    }
    static Vec to_floats(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
    static Ints rounded(Vec a) {
        return {_mm512_cvt_roundps_epi32(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
    }
};

constexpr const char* kIsa = "avx512";
// 24 of the 32 registers hold sums.
constexpr int kTilePixels = 12;
constexpr int kTileChannels = 32;

#include "kernels_body.h"

}  // namespace

const Kernels& avx512_kernels() { return kKernels; }

}  // namespace edgeface::native
