// 256-bit vectors with fused multiply-add.
#if !defined(__AVX2__) || !defined(__FMA__)
#error "compile this file with -mavx2 -mfma"
#endif

#include <immintrin.h>

#include "kernels.h"

namespace edgeface::native {
namespace {

struct Ints;

struct Vec {
    static constexpr int lanes = 8;
    using Four = const float*;
    static constexpr bool walks = false;
    __m256 v;

    static Vec load(const float* from) { return {_mm256_loadu_ps(from)}; }
    static Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
    void store(float* to) const { _mm256_storeu_ps(to, v); }
    void store_first(int count, float* to) const {
        const __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), numbers), v);
    }
    static Four four(const float* from) { return from; }
    template <int i>
    static Vec fused(Vec row, Four four, Vec sum) {
        return {_mm256_fmadd_ps(row.v, _mm256_broadcast_ss(four + i), sum.v)};
    }
    static Vec fused(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
    static Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
    static Vec subtract(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
    static Vec divide(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
    static Vec multiply(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
    static Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
    static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
    static Vec two_to(Ints whole);
    static void deinterleave(const float* in, Vec* a, Vec* b) {
        const __m256 first = _mm256_loadu_ps(in);
        const __m256 second = _mm256_loadu_ps(in + lanes);
        const __m256 low = _mm256_permute2f128_ps(first, second, 0x20);
        const __m256 high = _mm256_permute2f128_ps(first, second, 0x31);
        a->v = _mm256_shuffle_ps(low, high, 0x88);
        b->v = _mm256_shuffle_ps(low, high, 0xdd);
    }
    static void interleave(Vec a, Vec b, float* out) {
        const __m256 low = _mm256_unpacklo_ps(a.v, b.v);
        const __m256 high = _mm256_unpackhi_ps(a.v, b.v);
        _mm256_storeu_ps(out, _mm256_permute2f128_ps(low, high, 0x20));
        _mm256_storeu_ps(out + lanes, _mm256_permute2f128_ps(low, high, 0x31));
    }
};

struct Ints {
    static constexpr int lanes = 8;
    static constexpr int packed = 1;
    __m256i v;

    static Ints load(const std::int32_t* from) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))};
    }
    static Ints broadcast(std::int32_t x) { return {_mm256_set1_epi32(x)}; }
    static Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.v, b.v)}; }
    static Ints subtract(Ints a, Ints b) { return {_mm256_sub_epi32(a.v, b.v)}; }
    static Ints halved(Ints a) { return {_mm256_srai_epi32(a.v, 1)}; }
    void store_bytes(std::uint8_t* to) const {
        const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xff));
        const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
    }
    void store_first_bytes(int count, std::uint8_t* to) const {
        std::uint8_t bytes[lanes];
        store_bytes(bytes);
        __builtin_memcpy(to, bytes, static_cast<std::size_t>(count));
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
    static Vec to_floats(Ints a) { return {_mm256_cvtepi32_ps(a.v)}; }
    static Ints rounded(Vec a) {
        return {_mm256_cvttps_epi32(_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))};
    }
};

Vec Vec::two_to(Ints whole) {
    constexpr int kBias = 127;
    constexpr int kMantissa = 23;
    const __m256i exponent = _mm256_add_epi32(whole.v, _mm256_set1_epi32(kBias));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, kMantissa))};
}

// 12 of the 16 registers hold sums.
constexpr int kTilePixels = 6;
constexpr int kTileChannels = 16;
using Narrow = Vec;
constexpr int kDepthwisePixels = 4;
constexpr int kStridedPixels = 4;
constexpr bool kDepthwiseAcross = true;
constexpr int kNarrowPixels = 12;  // as many sums: two in each of 4 cycles that one takes

struct Pairs {
    static constexpr int depth = 2;
    static constexpr int input_bytes = 2;
    static constexpr int weight_bytes = 2;
    static constexpr int offset = 0;
    static constexpr int tile_pixels = kTilePixels;
    static constexpr bool unrolls = true;
    using Weights = __m256i;
    using Four = const std::byte*;

    static Weights load(const std::byte* from) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    }
    static Four four(const std::byte* from) { return from; }
    static Four one(const std::byte* from) { return from; }
    template <int i>
    static Ints dot(Weights row, Four four, Ints sum) {
        std::int32_t pair;
        __builtin_memcpy(&pair, four + i * sizeof(pair), sizeof(pair));
        return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(_mm256_set1_epi32(pair), row))};
    }
};

#include "kernels_body.h"

constexpr QuantizedConvKernels<std::int8_t> kInt8 = conv_kernels<Pairs, std::int8_t>(widen);
constexpr QuantizedConvKernels<std::uint8_t> kUint8 = conv_kernels<Pairs, std::uint8_t>(widen);

constexpr Kernels kKernels = {"avx2",
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
                              {kInt8, kInt8, quantized_depthwise, quantized_add, max_pool},
                              {kUint8, kUint8, quantized_depthwise, quantized_add, max_pool}};

}  // namespace

const Kernels& avx2_kernels() { return kKernels; }

}  // namespace edgeface::native
