// For the oldest CPU we ship for.
#include "kernels.h"

namespace edgeface::native {
namespace {

// The compilers' portable vectors: what the baseline of the architecture has (SSE2 on x86-64), or plain
// floats.
typedef float Lanes __attribute__((vector_size(16)));

struct Vec {
    static constexpr int lanes = 4;
    Lanes v;

    static Vec load(const float* from) {
        Vec r;
        __builtin_memcpy(&r.v, from, sizeof(r.v));
        return r;
    }
    static Vec broadcast(float x) { return {Lanes{x, x, x, x}}; }
    void store(float* to) const { __builtin_memcpy(to, &v, sizeof(v)); }
    // Rounds twice, where hardware with a fused multiply-add rounds once.
    static Vec fused(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
    static Vec add(Vec a, Vec b) { return {a.v + b.v}; }
    static Vec multiply(Vec a, Vec b) { return {a.v * b.v}; }
    static Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
    static Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
};

typedef std::int32_t IntLanes __attribute__((vector_size(16)));

struct Ints {
    static constexpr int lanes = 4;
    struct Pairs {
        IntLanes first;
        IntLanes second;
    };
    IntLanes v;

    static Ints load(const std::int32_t* from) {
        Ints r;
        __builtin_memcpy(&r.v, from, sizeof(r.v));
        return r;
    }
    static Ints broadcast(std::int32_t x) { return {IntLanes{x, x, x, x}}; }
    static Ints add(Ints a, Ints b) { return {a.v + b.v}; }
    void store_bytes(std::uint8_t* to) const {
        for (int i = 0; i < lanes; ++i) to[i] = static_cast<std::uint8_t>(v[i]);
    }
    static Ints widen(const std::int8_t* from) { return {IntLanes{from[0], from[1], from[2], from[3]}}; }
    static Ints widen(const std::uint8_t* from) { return {IntLanes{from[0], from[1], from[2], from[3]}}; }
    using Factors = IntLanes;
    static Factors load_factors(const std::int16_t* from) {
        return Factors{from[0], from[1], from[2], from[3]};
    }
    static Ints multiply_add(Ints sum, Ints values, Factors with) { return {sum.v + values.v * with}; }
    static Pairs load_pairs(const std::int16_t* from) {
        return {IntLanes{from[0], from[2], from[4], from[6]}, IntLanes{from[1], from[3], from[5], from[7]}};
    }
    static Ints pair_dot(Ints sum, std::int32_t pair, const Pairs& with) {
        std::int16_t factors[2];
        __builtin_memcpy(factors, &pair, sizeof(factors));
        return {sum.v + with.first * factors[0] + with.second * factors[1]};
    }
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

constexpr const char* kIsa = "scalar";
constexpr int kTilePixels = 4;
constexpr int kTileChannels = 8;

#include "kernels_body.h"

}  // namespace

const Kernels& scalar_kernels() { return kKernels; }

}  // namespace edgeface::native
