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
    using Weights = __m512i;
    using Four = const std::byte*;

    static Weights load(const std::byte* from) { return _mm512_loadu_si512(from); }
    static Four four(const std::byte* from) { return from; }
    static Four one(const std::byte* from) { return from; }
    template <int i>
    static Ints dot(Weights row, Four four, Ints sum) {
        std::int32_t quad;
        __builtin_memcpy(&quad, four + i * sizeof(quad), sizeof(quad));
        return {_mm512_dpbusd_epi32(sum.v, _mm512_set1_epi32(quad), row)};
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
__m512i load_pieces(const void* from, std::ptrdiff_t step) {
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

template <int kPieces>
void store_pieces(__m512i values, void* to, std::ptrdiff_t step) {
    auto* bytes = static_cast<std::uint8_t*>(to);
    if (kPieces == 1 || step == 64 / kPieces) return _mm512_storeu_si512(bytes, values);
    if constexpr (kPieces == 2) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), _mm512_castsi512_si256(values));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes + step), _mm512_extracti64x4_epi64(values, 1));
    }
    if constexpr (kPieces == 4) {
        const auto piece = [&](int i, __m128i value) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + i * step), value);
        };
        piece(0, _mm512_castsi512_si128(values));
        piece(1, _mm512_extracti32x4_epi32(values, 1));
        piece(2, _mm512_extracti32x4_epi32(values, 2));
        piece(3, _mm512_extracti32x4_epi32(values, 3));
    }
}

// The bytes of four taps, channel by channel. Within each 128-bit lane, vector k has channels 4k to 4k + 3:
// packing such vectors of sums to bytes puts them in order again.
struct Interleaved {
    __m512i v[4];
};

Interleaved interleave(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab_low = _mm512_unpacklo_epi8(a, b);
    const __m512i ab_high = _mm512_unpackhi_epi8(a, b);
    const __m512i cd_low = _mm512_unpacklo_epi8(c, d);
    const __m512i cd_high = _mm512_unpackhi_epi8(c, d);
    return {{_mm512_unpacklo_epi16(ab_low, cd_low), _mm512_unpackhi_epi16(ab_low, cd_low),
             _mm512_unpacklo_epi16(ab_high, cd_high), _mm512_unpackhi_epi16(ab_high, cd_high)}};
}

// Nine taps in three groups; the last group's other three have no weight.
struct Taps9 {
    Interleaved groups[3];
};

Taps9 interleave(const __m512i* taps) {
    return {{interleave(taps[0], taps[1], taps[2], taps[3]), interleave(taps[4], taps[5], taps[6], taps[7]),
             interleave(taps[8], taps[8], taps[8], taps[8])}};
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

// What the pixels of a run have in common.
template <int kPieces>
struct Depthwise9 {
    Taps9 weights;
    __m512i bias[4];
    __m512 multipliers[4];
};

template <int kPieces, typename T>
Depthwise9<kPieces> load_depthwise(const QuantizedDepthwiseRun<T>& run, int c) {
    constexpr int kChannels = 64 / kPieces;
    Depthwise9<kPieces> loaded;
    __m512i taps[9];
    for (int tap = 0; tap < 9; ++tap) {
        std::int8_t bytes[64];
        const std::int16_t* weights = run.weights + static_cast<std::ptrdiff_t>(tap) * run.channels + c;
        for (int i = 0; i < 64; ++i) bytes[i] = static_cast<std::int8_t>(weights[i % kChannels]);
        taps[tap] = _mm512_loadu_si512(bytes);
    }
    loaded.weights = interleave(taps);
    const __m512i none = _mm512_setzero_si512();
    loaded.weights.groups[2] = interleave(taps[8], none, none, none);
    const __m512i offset = as_unsigned(none, run.output);
    for (int k = 0; k < 4; ++k) {
        __m512i gained = none;
        for (const Interleaved& group : loaded.weights.groups)
            gained = _mm512_dpbusd_epi32(gained, offset, group.v[k]);
        loaded.bias[k] = _mm512_sub_epi32(load_interleaved<kPieces>(run.bias + c, k), gained);
        loaded.multipliers[k] = _mm512_castsi512_ps(load_interleaved<kPieces>(run.multipliers + c, k));
    }
    return loaded;
}

__m512i packed(const __m512i* sums, const std::int8_t*) {
    return _mm512_packs_epi16(_mm512_packs_epi32(sums[0], sums[1]), _mm512_packs_epi32(sums[2], sums[3]));
}

__m512i packed(const __m512i* sums, const std::uint8_t*) {
    return _mm512_packus_epi16(_mm512_packs_epi32(sums[0], sums[1]), _mm512_packs_epi32(sums[2], sums[3]));
}

// 64 / kPieces channels of all pixels but a rest smaller than kPieces; returns how many.
template <int kPieces, typename T>
int depthwise_9(const QuantizedDepthwiseRun<T>& run, int c) {
    const Depthwise9<kPieces> common = load_depthwise<kPieces>(run, c);
    const Requantizer to(run.to);
    const std::ptrdiff_t step = run.input_step;
    const std::ptrdiff_t output_step = run.output_step;
    const T* inputs[9];
    for (int tap = 0; tap < 9; ++tap) inputs[tap] = run.inputs[tap] + c;
    T* output = run.output + c;
    int pixel = 0;
    for (const int pixels = run.pixels; pixel + kPieces <= pixels; pixel += kPieces) {
        __m512i taps[9];
        EDGEFACE_UNROLL
        for (int tap = 0; tap < 9; ++tap) {
            taps[tap] = as_unsigned(load_pieces<kPieces>(inputs[tap], step), inputs[tap]);
            inputs[tap] += kPieces * step;
        }
        const Taps9 values = interleave(taps);
        __m512i sums[4];
        EDGEFACE_UNROLL
        for (int k = 0; k < 4; ++k) {
            sums[k] = common.bias[k];
            EDGEFACE_UNROLL
            for (int group = 0; group < 3; ++group) {
                sums[k] = _mm512_dpbusd_epi32(sums[k], values.groups[group].v[k],
                                              common.weights.groups[group].v[k]);
            }
            const Vec steps{_mm512_mul_ps(_mm512_cvtepi32_ps(sums[k]), common.multipliers[k])};
            sums[k] = Ints::add(Ints::rounded(Vec::min(Vec::max(steps, to.low), to.high)), to.zero_point).v;
        }
        store_pieces<kPieces>(packed(sums, output), output, output_step);
        output += kPieces * output_step;
    }
    return pixel;
}

// The pixels from `pixel` on and `channels` channels from c on, as the other ISAs do it.
template <typename T>
void depthwise_rest(const QuantizedDepthwiseRun<T>& run, int pixel, int c, int channels) {
    if (pixel == run.pixels) return;
    QuantizedDepthwiseRun<T> rest = run;
    const T* inputs[9];
    for (int tap = 0; tap < 9; ++tap) inputs[tap] = run.inputs[tap] + pixel * run.input_step;
    rest.inputs = inputs;
    rest.output += pixel * run.output_step;
    rest.pixels -= pixel;
    for (int done = 0; done < channels; done += Ints::lanes) quantized_depthwise_vector<9>(rest, c + done);
}

template <typename T>
void depthwise_quads(const QuantizedDepthwiseRun<T>& run) {
    int c = 0;
    if (run.taps == 9 && run.narrow) {
        for (; c + 64 <= run.channels; c += 64) depthwise_9<1>(run, c);
        for (; c + 32 <= run.channels; c += 32) depthwise_rest(run, depthwise_9<2>(run, c), c, 32);
        for (; c + 16 <= run.channels; c += 16) depthwise_rest(run, depthwise_9<4>(run, c), c, 16);
    }
    quantized_depthwise_from(run, c);
}

constexpr Kernels kKernels = {"avx512vnni",
                              kTileChannels,
                              conv,
                              depthwise,
                              add,
                              clamp,
                              softmax_pairs,
                              {conv_kernels<Quads<kSignBit>, std::int8_t>(add_offset),
                               conv_kernels<Pairs, std::int8_t>(widen), depthwise_quads, quantized_add},
                              {conv_kernels<Quads<0>, std::uint8_t>(nullptr),
                               conv_kernels<Pairs, std::uint8_t>(widen), depthwise_quads, quantized_add}};

}  // namespace

const Kernels& avx512vnni_kernels() { return kKernels; }

}  // namespace edgeface::native
