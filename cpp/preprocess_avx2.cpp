// 256-bit vectors.
#if !defined(__AVX2__)
#error "compile this file with -mavx2"
#endif

#include <immintrin.h>

#include "preprocess_kernels.h"

namespace edgeface {
namespace {

struct Shorts {
    static constexpr int lanes = 16;
    using Taps = __m256i;
    __m256i v;

    static __m256i load_bytes(const void* from) {
        return _mm256_loadu_si256(static_cast<const __m256i*>(from));
    }
    static Shorts load(const std::int16_t* from) { return {load_bytes(from)}; }
    void store(std::int16_t* to) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v); }
    static Shorts broadcast(int x) { return {_mm256_set1_epi16(static_cast<short>(x))}; }
    static Shorts add(Shorts a, Shorts b) { return {_mm256_add_epi16(a.v, b.v)}; }
    static Shorts subtract(Shorts a, Shorts b) { return {_mm256_sub_epi16(a.v, b.v)}; }
    static Shorts rounded_product(Shorts a, Shorts b) { return {_mm256_mulhrs_epi16(a.v, b.v)}; }
    static Shorts high_product(Shorts a, Shorts b) { return {_mm256_mulhi_epi16(a.v, b.v)}; }
    void store_rounded(std::uint8_t* to) const {
        const __m256i rounded = _mm256_srli_epi16(_mm256_add_epi16(v, _mm256_set1_epi16(64)), 7);
        _mm_storeu_si128(
            reinterpret_cast<__m128i*>(to),
            _mm_packus_epi16(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)));
    }

    void store_clamped(std::uint8_t* to) const {
        const __m256i rounded = _mm256_srai_epi16(_mm256_add_epi16(v, _mm256_set1_epi16(16)), 5);
        _mm_storeu_si128(
            reinterpret_cast<__m128i*>(to),
            _mm_packus_epi16(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)));
    }

    static __m128i four_pixels(const std::uint8_t* from, const std::uint8_t* order) {
        return _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)),
                                _mm_loadu_si128(reinterpret_cast<const __m128i*>(order)));
    }
    static Shorts broadcast_pixel(const std::int16_t* from) {
        long long pixel;
        __builtin_memcpy(&pixel, from, sizeof pixel);
        return {_mm256_set1_epi64x(pixel)};
    }
    static Shorts spread(const std::uint8_t* from, int, const std::uint8_t* order) {
        return {_mm256_slli_epi16(_mm256_cvtepu8_epi16(four_pixels(from, order)), 7)};
    }
    static __m128i two_windows(const std::uint8_t* row, const std::int32_t* windows) {
        long long bytes[2];
        __builtin_memcpy(&bytes[0], row + windows[0], kWindow);
        __builtin_memcpy(&bytes[1], row + windows[1], kWindow);
        return _mm_set_epi64x(bytes[1], bytes[0]);
    }
    static Taps load_taps(const std::uint8_t* row, const std::int32_t* windows, const std::uint8_t* shuffle) {
        const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(two_windows(row, windows)),
                                                      two_windows(row, windows + 2), 1);
        return _mm256_shuffle_epi8(bytes, load_bytes(shuffle));
    }
    // Into the upper half of each lane: times 256.
    static Shorts left(Taps taps) {
        return {_mm256_srli_epi16(_mm256_unpacklo_epi8(_mm256_setzero_si256(), taps), 1)};
    }
    static Shorts right(Taps taps) {
        return {_mm256_srli_epi16(_mm256_unpackhi_epi8(_mm256_setzero_si256(), taps), 1)};
    }
};

struct Floats {
    static constexpr int lanes = 8;
    __m256 v;

    static Floats broadcast(float x) { return {_mm256_set1_ps(x)}; }
    static Floats broadcast_pixel(const float* from) {
        return {_mm256_broadcast_ps(reinterpret_cast<const __m128*>(from))};
    }
    static Floats from_pixels(const std::uint8_t* from) {
        return {_mm256_cvtepi32_ps(
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))))};
    }
    static Floats from_channel(const std::uint8_t* from, int channel) {
        const __m256i shifted = _mm256_srl_epi32(Shorts::load_bytes(from), _mm_cvtsi32_si128(8 * channel));
        return {_mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(0xff)))};
    }
    static Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.v, b.v)}; }
    static Floats subtract(Floats a, Floats b) { return {_mm256_sub_ps(a.v, b.v)}; }
    static Floats multiply(Floats a, Floats b) { return {_mm256_mul_ps(a.v, b.v)}; }
    static Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.v, b.v)}; }
    static Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.v, b.v)}; }
    void store(float* to) const { _mm256_storeu_ps(to, v); }
    void store_pixels(float* to) const {
        _mm_storeu_ps(to, _mm256_castps256_ps128(v));
        _mm_storeu_ps(to + 3, _mm256_extractf128_ps(v, 1));
    }
    void store_rounded_pixels(std::uint8_t* to) const {
        const __m256i rounded =
            _mm256_cvttps_epi32(_mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        // Each half's three bytes to where they belong, then both in one.
        const __m256i order = _mm256_setr_epi8(0, 4, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                               -1, -1, -1, 0, 4, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
        const __m256i bytes = _mm256_shuffle_epi8(rounded, order);
        const __m128i both = _mm_or_si128(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to), both);
    }
};

#include "preprocess_body.h"

const PreprocessKernels kKernels = {"avx2",           resize_columns, blend_rows,        normalise_plane,
                                    normalise_pixels, convert_pixels, map_pixels<Floats>};

}  // namespace

const PreprocessKernels& avx2_preprocess() { return kKernels; }

}  // namespace edgeface
