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
        return {add(sum.v, _mm512_set1_epi32(quad), row)};
    }
    static __m512i add(__m512i sum, __m512i inputs, __m512i weights) {
#if defined(__clang__)
        return _mm512_dpbusd_epi32(sum, inputs, weights);
#else
        // GCC 12 copies every sum to another register and back in each round of a loop over the intrinsic.
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(inputs), "v"(weights));
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

// How sums become bytes, four vectors at a time. `scale` and `lifted`: what `narrowed` wants of multipliers,
// and of the bias that sums start from.
template <bool kIsPlain>
struct PackingRequantizer {
    using Scale = Vec;

    explicit PackingRequantizer(const Requantization& to)
        : requantized(to),
          narrowing(to) {}

    static Scale scale(Vec multipliers) { return multipliers; }
    static Ints lifted(Ints bias) { return bias; }
    Ints narrowed(Ints sums, Scale scale) const { return requantized.narrowed(sums, scale); }
    template <typename T>
    __m512i bytes(const Ints* values, const T* output) const {
        return narrowing.bytes(values, output);
    }

    Requantizer<kIsPlain> requantized;
    Ints::Narrowing narrowing;
};

// Of a small run (Requantization). A sum plus the bits of 2^23 is the bits of the float 2^23 + sum, or of one
// below 2^23 where the sum is negative, which the lower bound makes 0 of. One fused operation takes 2^23 off
// and multiplies: 2^23 * multiplier is exact, so that it rounds as the product alone would.
struct SmallRequantizer {
    struct Scale {
        Vec multipliers;
        Vec offset;
    };

    explicit SmallRequantizer(const Requantization& to)
        : narrowing(to) {}

    static Scale scale(Vec multipliers) {
        return {multipliers, Vec::multiply(multipliers, Vec::broadcast(-8388608))};
    }
    static Ints lifted(Ints bias) { return Ints::add(bias, Ints::broadcast(0x4b000000)); }
    static Ints narrowed(Ints sums, const Scale& scale) {
        return Ints::rounded(Vec::fused({_mm512_castsi512_ps(sums.v)}, scale.multipliers, scale.offset));
    }
    template <typename T>
    __m512i bytes(const Ints* values, const T* output) const {
        return narrowing.template bytes<false>(values, output);
    }

    Ints::Narrowing narrowing;
};

// Calls make(one of them), without a branch for every vector.
template <typename Make>
__attribute__((always_inline)) inline void with_packing_requantizer(const Requantization& to,
                                                                    const Make& make) {
    if (to.small) return make(SmallRequantizer(to));
    if (to.plain) return make(PackingRequantizer<true>(to));
    make(PackingRequantizer<false>(to));
}

#include "depthwise_avx512vnni.h"

#include "conv_avx512vnni.h"

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
    {quads_kernels<Quads<kSignBit>, std::int8_t>(add_offset), conv_kernels<Pairs, std::int8_t>(widen),
     depthwise_quads, quantized_add, max_pool, 2},
    {quads_kernels<Quads<0>, std::uint8_t>(nullptr), conv_kernels<Pairs, std::uint8_t>(widen),
     depthwise_quads, quantized_add, max_pool, 2}};

}  // namespace

const Kernels& avx512vnni_kernels() { return kKernels; }

}  // namespace edgeface::native
