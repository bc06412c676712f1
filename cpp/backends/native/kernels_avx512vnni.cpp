// AVX-512 with VNNI: sums of four products of uint8 and int8 in one instruction.
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VNNI__)
#error "compile this file with -mavx512f -mavx512bw -mavx512vnni"
#endif

#include <immintrin.h>

#include "kernels.h"

namespace edgeface::native {
namespace {

#include "vectors_avx512.h"

// int8 inputs gain 128 to become uint8.
template <int kOffset>
struct Quads {
    static constexpr int depth = 4;
    static constexpr int input_bytes = 1;
    static constexpr int weight_bytes = 1;
    static constexpr int offset = kOffset;
    static constexpr int tile_pixels = 8;  // with 12, GCC 12 keeps half of the sums in memory
    static constexpr bool unrolls = false;
    using Weights = __m512i;
    using Four = const std::byte*;

    static Weights load(const std::byte* from) { return _mm512_loadu_si512(from); }
    static Four four(const std::byte* from) { return from; }
    static Four one(const std::byte* from) { return from; }
    template <int i>
    static Ints dot(Weights row, Four four, Ints sum) {
        std::int32_t quad;
        __builtin_memcpy(&quad, four + i * sizeof(quad), sizeof(quad));
        const __m512i all = _mm512_set1_epi32(quad);
#if defined(__clang__)
        return {_mm512_dpbusd_epi32(sum.v, all, row)};
#else
        // GCC 12 copies every sum to another register and back in each round of a loop over the intrinsic.
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum.v) : "v"(all), "v"(row));
        return sum;
#endif
    }
};

#include "kernels_body.h"

constexpr int kSignBit = 128;

__m512i as_unsigned(__m512i values, const std::int8_t*) {
    return _mm512_xor_si512(values, _mm512_set1_epi8(static_cast<char>(kSignBit)));
}

__m512i as_unsigned(__m512i values, const std::uint8_t*) { return values; }

void add_offset(const std::int8_t* values, std::byte* prepared, std::size_t count) {
    constexpr std::size_t kBytes = 64;
    std::size_t i = 0;
    for (; i + kBytes <= count; i += kBytes)
        _mm512_storeu_si512(prepared + i, as_unsigned(_mm512_loadu_si512(values + i), values));
    for (; i < count; ++i) prepared[i] = static_cast<std::byte>(values[i] ^ kSignBit);
}

// 64 bytes: kPieces neighbouring pixels' 64 / kPieces channels.
template <int kPieces>
__attribute__((always_inline)) inline __m512i load_pieces(const void* from, std::ptrdiff_t step) {
    const auto* bytes = static_cast<const std::uint8_t*>(from);
    if (kPieces == 1 || step == 64 / kPieces) return _mm512_loadu_si512(bytes);
    if constexpr (kPieces == 2) {
        const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
        const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + step));
        return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
    }
    if constexpr (kPieces == 4) {
        const auto piece = [&](int i) {
            return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i * step));
        };
        __m512i all = _mm512_castsi128_si512(piece(0));
        all = _mm512_inserti32x4(all, piece(1), 1);
        all = _mm512_inserti32x4(all, piece(2), 2);
        return _mm512_inserti32x4(all, piece(3), 3);
    }
}

// The bytes of four taps, channel by channel. Within each 128-bit lane, vector k has channels 4k to 4k + 3:
// narrowing such vectors of sums to bytes puts them in order again.
struct Interleaved {
    __m512i v[4];
};

__attribute__((always_inline)) inline Interleaved interleave(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab_low = _mm512_unpacklo_epi8(a, b);
    const __m512i ab_high = _mm512_unpackhi_epi8(a, b);
    const __m512i cd_low = _mm512_unpacklo_epi8(c, d);
    const __m512i cd_high = _mm512_unpackhi_epi8(c, d);
    return {{_mm512_unpacklo_epi16(ab_low, cd_low), _mm512_unpackhi_epi16(ab_low, cd_low),
             _mm512_unpacklo_epi16(ab_high, cd_high), _mm512_unpackhi_epi16(ab_high, cd_high)}};
}

// A column of the window: three taps. What the fourth holds meets no weight.
__attribute__((always_inline)) inline Interleaved interleave(__m512i a, __m512i b, __m512i c) {
    return interleave(a, b, c, c);
}

// Values by channel in the order of Interleaved.
template <int kPieces>
__m512i load_interleaved(const void* from, int k) {
    constexpr int kLanes = 4 / kPieces;  // 128-bit lanes of bytes that one pixel fills
    const auto lane = [&](int i) {
        const auto* values = static_cast<const std::int32_t*>(from) + (i % kLanes) * 16 + 4 * k;
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
    };
    __m512i all = _mm512_castsi128_si512(lane(0));
    all = _mm512_inserti32x4(all, lane(1), 1);
    all = _mm512_inserti32x4(all, lane(2), 2);
    return _mm512_inserti32x4(all, lane(3), 3);
}

// The weights of a tap, as bytes, for each of kPieces pixels.
template <int kPieces>
__m512i load_weights(const std::int16_t* from) {
    if constexpr (kPieces == 4) {
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        return _mm512_broadcast_i32x4(_mm512_cvtepi32_epi8(_mm512_cvtepi16_epi32(words)));
    }
    const __m256i low = _mm512_cvtepi16_epi8(_mm512_loadu_si512(from));
    if constexpr (kPieces == 2) return _mm512_broadcast_i64x4(low);
    const __m256i high = _mm512_cvtepi16_epi8(_mm512_loadu_si512(from + 32));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// What the pixels of a run have in common.
template <int kPieces>
struct Depthwise9 {
    Interleaved weights[3];  // of each column
    __m512i bias[4];
    __m512 multipliers[4];
};

template <int kPieces, typename T>
Depthwise9<kPieces> load_depthwise(const QuantizedDepthwiseRun<T>& run, int c) {
    Depthwise9<kPieces> loaded;
    const __m512i none = _mm512_setzero_si512();
    const auto tap = [&](int i) {
        return load_weights<kPieces>(run.weights + static_cast<std::ptrdiff_t>(i) * run.channels + c);
    };
    for (int column = 0; column < 3; ++column)
        loaded.weights[column] = interleave(tap(column), tap(3 + column), tap(6 + column), none);
    const __m512i offset = as_unsigned(none, run.output);
    for (int k = 0; k < 4; ++k) {
        __m512i gained = none;
        for (const Interleaved& column : loaded.weights)
            gained = _mm512_dpbusd_epi32(gained, offset, column.v[k]);
        loaded.bias[k] = _mm512_sub_epi32(load_interleaved<kPieces>(run.bias + c, k), gained);
        loaded.multipliers[k] = _mm512_castsi512_ps(load_interleaved<kPieces>(run.multipliers + c, k));
    }
    return loaded;
}

// Three columns of the window, of kPieces pixels each -> as many pixels of the output.
template <int kPieces, typename To, typename T>
__attribute__((always_inline)) inline void depthwise_pixels(const Depthwise9<kPieces>& common, const To& to,
                                                            const Ints::Narrowing& narrowing,
                                                            const Interleaved& left,
                                                            const Interleaved& middle,
                                                            const Interleaved& right, T* output,
                                                            std::ptrdiff_t step) {
    Ints values[4];
    EDGEFACE_UNROLL
    for (int k = 0; k < 4; ++k) {
        __m512i sum = _mm512_dpbusd_epi32(common.bias[k], left.v[k], common.weights[0].v[k]);
        sum = _mm512_dpbusd_epi32(sum, middle.v[k], common.weights[1].v[k]);
        sum = _mm512_dpbusd_epi32(sum, right.v[k], common.weights[2].v[k]);
        values[k] = to.narrowed({sum}, {common.multipliers[k]});
    }
    store_pieces<kPieces>(narrowing.bytes(values, output), output, step);
}

// The same column of the three rows, of kPieces neighbouring pixels.
template <int kPieces, typename T>
__attribute__((always_inline)) inline Interleaved load_column(const T* const* rows, std::ptrdiff_t at,
                                                              std::ptrdiff_t step) {
    const auto load = [&](int row) {
        return as_unsigned(load_pieces<kPieces>(rows[row] + at, step), rows[row]);
    };
    return interleave(load(0), load(1), load(2));
}

// kPieces neighbouring pixels from the `by`-th of a's on, and so on into b's.
template <int kPieces, int by>
__attribute__((always_inline)) inline Interleaved shifted(const Interleaved& a, const Interleaved& b) {
    Interleaved between;
    EDGEFACE_UNROLL
    for (int k = 0; k < 4; ++k) between.v[k] = _mm512_alignr_epi64(b.v[k], a.v[k], by * 8 / kPieces);
    return between;
}

// With stride 1, columns are interleaved once and serve three pixels.
template <int kPieces, typename To, typename T>
int depthwise_9_dense(const QuantizedDepthwiseRun<T>& run, const To& to, int c) {
    const Depthwise9<kPieces> common = load_depthwise<kPieces>(run, c);
    const Ints::Narrowing narrowing(run.to);
    const std::ptrdiff_t step = run.input_step;
    const T* const rows[3] = {run.inputs[0] + c, run.inputs[3] + c, run.inputs[6] + c};
    T* output = run.output + c;
    const auto column = [&](int first) __attribute__((always_inline)) {
        return load_column<kPieces>(rows, first * step, step);
    };
    const auto make = [&](const Interleaved& left, const Interleaved& middle,
                          const Interleaved& right) __attribute__((always_inline)) {
        depthwise_pixels<kPieces>(common, to, narrowing, left, middle, right, output, run.output_step);
        output += kPieces * run.output_step;
    };
    int pixel = 0;
    const int pixels = run.pixels;
    Interleaved left = column(0);
    if constexpr (kPieces == 1) {
        Interleaved middle = column(1);
        for (; pixel < pixels; ++pixel) {
            const Interleaved right = column(pixel + 2);
            make(left, middle, right);
            left = middle;
            middle = right;
        }
    } else {
        for (; pixel + kPieces <= pixels; pixel += kPieces) {
            const Interleaved next = column(pixel + kPieces);
            if constexpr (kPieces == 2) make(left, shifted<2, 1>(left, next), next);
            if constexpr (kPieces == 4) make(left, shifted<4, 1>(left, next), shifted<4, 2>(left, next));
            left = next;
        }
    }
    return pixel;
}

// 64 / kPieces channels of all pixels but a rest smaller than kPieces; returns how many.
template <int kPieces, typename To, typename T>
int depthwise_9(const QuantizedDepthwiseRun<T>& run, const To& to, int c) {
    if (run.input_step == run.column_step) return depthwise_9_dense<kPieces>(run, to, c);
    const Depthwise9<kPieces> common = load_depthwise<kPieces>(run, c);
    const Ints::Narrowing narrowing(run.to);
    T* output = run.output + c;
    int pixel = 0;
    for (const int pixels = run.pixels; pixel + kPieces <= pixels; pixel += kPieces) {
        const auto column = [&](int number) __attribute__((always_inline)) {
            const T* rows[3];
            for (int row = 0; row < 3; ++row) rows[row] = run.inputs[3 * row + number] + c;
            return load_column<kPieces>(rows, pixel * run.input_step, run.input_step);
        };
        depthwise_pixels<kPieces>(common, to, narrowing, column(0), column(1), column(2), output,
                                  run.output_step);
        output += kPieces * run.output_step;
    }
    return pixel;
}

// The pixels from `pixel` on and `channels` channels from c on, as the other ISAs do it.
template <typename To, typename T>
void depthwise_rest(const QuantizedDepthwiseRun<T>& run, const To& to, int pixel, int c, int channels) {
    if (pixel == run.pixels) return;
    const T* inputs[9];
    const QuantizedDepthwiseRun<T> rest = pixels_from(run, pixel, inputs);
    for (int done = 0; done < channels; done += Ints::lanes)
        quantized_depthwise_vector<9>(rest, to, c + done);
}

template <typename T>
void depthwise_quads(const QuantizedDepthwiseRun<T>& run) {
    int c = 0;
    if (run.taps == 9 && run.narrow) {
        with_requantizer(run.to, [&](const auto& to) {
            for (; c + 64 <= run.channels; c += 64) depthwise_9<1>(run, to, c);
            for (; c + 32 <= run.channels; c += 32)
                depthwise_rest(run, to, depthwise_9<2>(run, to, c), c, 32);
            for (; c + 16 <= run.channels; c += 16)
                depthwise_rest(run, to, depthwise_9<4>(run, to, c), c, 16);
        });
    }
    quantized_depthwise_from(run, c);
}

constexpr Kernels kKernels = {
    "avx512vnni",
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
    {conv_kernels<Quads<kSignBit>, std::int8_t>(add_offset), conv_kernels<Pairs, std::int8_t>(widen),
     depthwise_quads, quantized_add, max_pool},
    {conv_kernels<Quads<0>, std::uint8_t>(nullptr), conv_kernels<Pairs, std::uint8_t>(widen), depthwise_quads,
     quantized_add, max_pool}};

}  // namespace

const Kernels& avx512vnni_kernels() { return kKernels; }

}  // namespace edgeface::native
