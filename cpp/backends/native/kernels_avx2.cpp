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
    static Vec multiply(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
    static Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
    static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
};

struct Ints {
    static constexpr int lanes = 8;
    using Pairs = __m256i;
    __m256i v;

    static Ints load(const std::int32_t* from) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))};
    }
    static Ints broadcast(std::int32_t x) { return {_mm256_set1_epi32(x)}; }
    static Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.v, b.v)}; }
    void store_bytes(std::uint8_t* to) const {
        const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xff));
        const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
    }
    static Ints widen(const std::int8_t* from) {
        return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))};
    }
    static Ints widen(const std::uint8_t* from) {
        return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))};
    }
    // The factor in the lower half of each lane, 0 in the upper: madd then multiplies the lower halves alone,
    // in half the time of a 32-bit multiplication.
    using Factors = __m256i;
    static Factors load_factors(const std::int16_t* from) {
        return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    }
    static Ints multiply_add(Ints sum, Ints values, Factors with) {
        return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(values.v, with))};
    }
    static Pairs load_pairs(const std::int16_t* from) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    }
    static Ints pair_dot(Ints sum, std::int32_t pair, Pairs with) {
        return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(_mm256_set1_epi32(pair), with))};
    }
    static Vec to_floats(Ints a) { return {_mm256_cvtepi32_ps(a.v)}; }
    static Ints rounded(Vec a) {
        return {_mm256_cvttps_epi32(_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))};
    }
};

constexpr const char* kIsa = "avx2";
// 12 of the 16 registers hold sums.
constexpr int kTilePixels = 6;
constexpr int kTileChannels = 16;

#include "kernels_body.h"

}  // namespace

const Kernels& avx2_kernels() { return kKernels; }

}  // namespace edgeface::native
