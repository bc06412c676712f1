// For the oldest CPU we ship for.
#include "kernels.h"

namespace edgeface::native {
namespace {

// The compilers' portable vectors: what the baseline of the architecture has (SSE2 on x86-64), or plain
// floats.
typedef float Lanes __attribute__((vector_size(16)));

struct Ints;

struct Vec {
    static constexpr int lanes = 4;
    using Four = const float*;
    static constexpr bool walks = false;
    Lanes v;

    static Vec load(const float* from) {
        Vec r;
        __builtin_memcpy(&r.v, from, sizeof(r.v));
        return r;
    }
    static Vec broadcast(float x) { return {Lanes{x, x, x, x}}; }
    void store(float* to) const { __builtin_memcpy(to, &v, sizeof(v)); }
    void store_first(int count, float* to) const {
        __builtin_memcpy(to, &v, sizeof(float) * static_cast<std::size_t>(count));
    }
    static Four four(const float* from) { return from; }
    template <int i>
    static Vec fused(Vec row, Four four, Vec sum) {
        return fused(row, broadcast(four[i]), sum);
    }
    // Rounds twice, where hardware with a fused multiply-add rounds once.
    static Vec fused(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
    static Vec add(Vec a, Vec b) { return {a.v + b.v}; }
    static Vec subtract(Vec a, Vec b) { return {a.v - b.v}; }
    static Vec divide(Vec a, Vec b) { return {a.v / b.v}; }
    static Vec multiply(Vec a, Vec b) { return {a.v * b.v}; }
    static Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
    static Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
    static Vec two_to(Ints whole);
    static void deinterleave(const float* in, Vec* a, Vec* b) {
        a->v = Lanes{in[0], in[2], in[4], in[6]};
        b->v = Lanes{in[1], in[3], in[5], in[7]};
    }
    static void interleave(Vec a, Vec b, float* out) {
        for (int i = 0; i < lanes; ++i) {
            out[2 * i] = a.v[i];
            out[2 * i + 1] = b.v[i];
        }
    }
};

typedef std::int32_t IntLanes __attribute__((vector_size(16)));

struct Ints {
    static constexpr int lanes = 4;
    static constexpr int packed = 1;
    IntLanes v;

    static Ints load(const std::int32_t* from) {
        Ints r;
        __builtin_memcpy(&r.v, from, sizeof(r.v));
        return r;
    }
    static Ints broadcast(std::int32_t x) { return {IntLanes{x, x, x, x}}; }
    static Ints add(Ints a, Ints b) { return {a.v + b.v}; }
    static Ints subtract(Ints a, Ints b) { return {a.v - b.v}; }
    static Ints halved(Ints a) { return {a.v >> 1}; }
    void store_bytes(std::uint8_t* to) const {
        for (int i = 0; i < lanes; ++i) to[i] = static_cast<std::uint8_t>(v[i]);
    }
    void store_first_bytes(int count, std::uint8_t* to) const {
        for (int i = 0; i < count; ++i) to[i] = static_cast<std::uint8_t>(v[i]);
    }
    static Ints widen(const std::int8_t* from) { return {IntLanes{from[0], from[1], from[2], from[3]}}; }
    static Ints widen(const std::uint8_t* from) { return {IntLanes{from[0], from[1], from[2], from[3]}}; }
    using Factors = IntLanes;
    static Factors load_factors(const std::int16_t* from) {
        return Factors{from[0], from[1], from[2], from[3]};
    }
    static Ints multiply_add(Ints sum, Ints values, Factors with) { return {sum.v + values.v * with}; }
    static Vec to_floats(Ints a) {
        return {Lanes{static_cast<float>(a.v[0]), static_cast<float>(a.v[1]), static_cast<float>(a.v[2]),
                      static_cast<float>(a.v[3])}};
    }
    // Adding 1.5 * 2^23 leaves no bits for a fraction, so the addition itself rounds as IEEE says: halves to
    // even.
    static Ints rounded(Vec a) {
        constexpr float kMagic = 12582912;
        const Lanes whole = a.v + kMagic - kMagic;
        return {IntLanes{static_cast<std::int32_t>(whole[0]), static_cast<std::int32_t>(whole[1]),
                         static_cast<std::int32_t>(whole[2]), static_cast<std::int32_t>(whole[3])}};
    }
};

Vec Vec::two_to(Ints whole) {
    constexpr int kBias = 127;
    constexpr int kMantissa = 23;
    const IntLanes bits = (whole.v + kBias) << kMantissa;
    Vec r;
    __builtin_memcpy(&r.v, &bits, sizeof(r.v));
    return r;
}

constexpr int kTilePixels = 4;
constexpr int kTileChannels = 8;
using Narrow = Vec;
constexpr int kNarrowPixels = kTilePixels;
constexpr int kDepthwisePixels = 4;
constexpr int kStridedPixels = 4;
constexpr bool kDepthwiseAcross = false;

struct Pairs {
    static constexpr int depth = 2;
    static constexpr int input_bytes = 2;
    static constexpr int weight_bytes = 2;
    static constexpr int offset = 0;
    static constexpr int tile_pixels = kTilePixels;
    static constexpr bool unrolls = true;
    struct Weights {
        IntLanes first;
        IntLanes second;
    };
    using Four = const std::byte*;

    static Weights load(const std::byte* from) {
        std::int16_t w[2 * Ints::lanes];
        __builtin_memcpy(w, from, sizeof(w));
        return {IntLanes{w[0], w[2], w[4], w[6]}, IntLanes{w[1], w[3], w[5], w[7]}};
    }
    static Four four(const std::byte* from) { return from; }
    static Four one(const std::byte* from) { return from; }
    template <int i>
    static Ints dot(const Weights& row, Four four, Ints sum) {
        std::int16_t pair[2];
        __builtin_memcpy(pair, four + i * sizeof(pair), sizeof(pair));
        return {sum.v + row.first * pair[0] + row.second * pair[1]};
    }
};

#include "kernels_body.h"

constexpr QuantizedConvKernels<std::int8_t> kInt8 = conv_kernels<Pairs, std::int8_t>(widen);
constexpr QuantizedConvKernels<std::uint8_t> kUint8 = conv_kernels<Pairs, std::uint8_t>(widen);

constexpr Kernels kKernels = {"scalar",
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

const Kernels& scalar_kernels() { return kKernels; }

}  // namespace edgeface::native
