// 512-bit vectors: AVX-512F, and BW for bytes and 16-bit integers.
#if !defined(__AVX512F__) || !defined(__AVX512BW__)
#error "compile this file with -mavx512f -mavx512bw"
#endif

#include <immintrin.h>

#include "preprocess_kernels.h"

namespace edgeface {
namespace {

struct Shorts {
    static constexpr int lanes = 32;
    using Taps = __m512i;
    __m512i v;

    static Shorts load(const std::int16_t* from) { return {_mm512_loadu_si512(from)}; }
    void store(std::int16_t* to) const { _mm512_storeu_si512(to, v); }
    static Shorts broadcast(int x) { return {_mm512_set1_epi16(static_cast<short>(x))}; }
    static Shorts add(Shorts a, Shorts b) { return {_mm512_add_epi16(a.v, b.v)}; }
    static Shorts subtract(Shorts a, Shorts b) { return {_mm512_sub_epi16(a.v, b.v)}; }
    static Shorts rounded_product(Shorts a, Shorts b) { return {_mm512_mulhrs_epi16(a.v, b.v)}; }
    static Shorts high_product(Shorts a, Shorts b) { return {_mm512_mulhi_epi16(a.v, b.v)}; }
    void store_rounded(std::uint8_t* to) const {
        const __m512i rounded = _mm512_srli_epi16(_mm512_add_epi16(v, _mm512_set1_epi16(64)), 7);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(rounded));
    }

    void store_clamped(std::uint8_t* to) const {
        const __m512i rounded = _mm512_srai_epi16(_mm512_add_epi16(v, _mm512_set1_epi16(16)), 5);
        const __m512i positive = _mm512_max_epi16(rounded, _mm512_setzero_si512());
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtusepi16_epi8(positive));
    }

    static __m128i four_pixels(const std::uint8_t* from, const std::uint8_t* order) {
        return _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)),
                                _mm_loadu_si128(reinterpret_cast<const __m128i*>(order)));
    }
    static Shorts broadcast_pixel(const std::int16_t* from) {
        long long pixel;
        __builtin_memcpy(&pixel, from, sizeof pixel);
        return {_mm512_set1_epi64(pixel)};
    }
    static Shorts spread(const std::uint8_t* from, int step, const std::uint8_t* order) {
        const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(four_pixels(from, order)),
                                                      four_pixels(from + 4 * step, order), 1);
        return {_mm512_slli_epi16(_mm512_cvtepu8_epi16(bytes), 7)};
    }
    static __m128i two_windows(const std::uint8_t* row, const std::int32_t* windows) {
        long long bytes[2];
        __builtin_memcpy(&bytes[0], row + windows[0], kWindow);
        __builtin_memcpy(&bytes[1], row + windows[1], kWindow);
        return _mm_set_epi64x(bytes[1], bytes[0]);
    }
    static __m256i four_windows(const std::uint8_t* row, const std::int32_t* windows) {
        return _mm256_inserti128_si256(_mm256_castsi128_si256(two_windows(row, windows)),
                                       two_windows(row, windows + 2), 1);
    }
    static Taps load_taps(const std::uint8_t* row, const std::int32_t* windows, const std::uint8_t* shuffle) {
        const __m512i bytes = _mm512_inserti64x4(_mm512_castsi256_si512(four_windows(row, windows)),
                                                 four_windows(row, windows + 4), 1);
        return _mm512_shuffle_epi8(bytes, _mm512_loadu_si512(shuffle));
    }
    // Into the upper half of each lane: times 256.
    static Shorts left(Taps taps) {
        return {_mm512_srli_epi16(_mm512_unpacklo_epi8(_mm512_setzero_si512(), taps), 1)};
    }
    static Shorts right(Taps taps) {
        return {_mm512_srli_epi16(_mm512_unpackhi_epi8(_mm512_setzero_si512(), taps), 1)};
    }
};

struct Floats {
    static constexpr int lanes = 16;
    __m512 v;

    static Floats broadcast(float x) { return {_mm512_set1_ps(x)}; }
    static Floats broadcast_pixel(const float* from) { return {_mm512_broadcast_f32x4(_mm_loadu_ps(from))}; }
    static Floats from_pixels(const std::uint8_t* from) {
        return {_mm512_cvtepi32_ps(
            _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))))};
    }
    static Floats from_channel(const std::uint8_t* from, int channel) {
        const __m512i shifted = _mm512_srl_epi32(_mm512_loadu_si512(from), _mm_cvtsi32_si128(8 * channel));
        return {_mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(0xff)))};
    }
    static Floats add(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
    static Floats subtract(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
    static Floats multiply(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
    static Floats min(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
    static Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
    void store(float* to) const { _mm512_storeu_ps(to, v); }
    void store_pixels(float* to) const {
        const __m512i order = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 0, 0, 0, 0);
        _mm512_storeu_ps(to, _mm512_permutexvar_ps(order, v));
    }
    void store_rounded_pixels(std::uint8_t* to) const {
        const __m512i rounded = _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        const __m128i order = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                         _mm_shuffle_epi8(_mm512_cvtepi32_epi8(rounded), order));
    }
};

#include "preprocess_body.h"

const PreprocessKernels kKernels = {"avx512",         resize_columns, blend_rows,        normalise_plane,
                                    normalise_pixels, convert_pixels, map_pixels<Floats>};

}  // namespace

const PreprocessKernels& avx512_preprocess() { return kKernels; }

}  // namespace edgeface
