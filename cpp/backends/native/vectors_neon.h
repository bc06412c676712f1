// 128-bit NEON, with fused multiply-add where the CPU has no other: every aarch64 core, and ARMv7 cores with
// VFPv4. For the kernel files that include it, inside their namespace.

struct Ints;

struct Vec {
    static constexpr int lanes = 4;
    using Four = float32x4_t;
    float32x4_t v;

    static Vec load(const float* from) { return {vld1q_f32(from)}; }
    static Vec broadcast(float x) { return {vdupq_n_f32(x)}; }
    void store(float* to) const { vst1q_f32(to, v); }
    void store_first(int count, float* to) const {
        float values[lanes];
        vst1q_f32(values, v);
        __builtin_memcpy(to, values, static_cast<std::size_t>(count) * sizeof(float));
    }
    static Four four(const float* from) { return vld1q_f32(from); }
    // Loads and stores that move the pointer on, for nothing. A compiler makes offsets from one base of it,
    // and so an addition for every pixel: 8 % of the instructions that RFB-320 takes on aarch64.
    static constexpr bool walks = true;
    static Four next_four(const float** at) {
        Four values;
        const auto& read = *reinterpret_cast<const float (*)[lanes]>(*at);
#if defined(__aarch64__)
        __asm__("ldr %q0, [%1], #16" : "=w"(values), "+r"(*at) : "m"(read));
#else
        // Of lower registers, whose lanes alone can be factors.
        __asm__("vld1.32 {%e0, %f0}, [%1]!" : "=t"(values), "+r"(*at) : "m"(read));
#endif
        return values;
    }
    static Vec load_next(const float** at, std::ptrdiff_t step) {
        Vec loaded;
        const std::ptrdiff_t bytes = step * static_cast<std::ptrdiff_t>(sizeof(float));
        const auto& read = *reinterpret_cast<const float (*)[lanes]>(*at);
#if defined(__aarch64__)
        __asm__("ld1 {%0.4s}, [%1], %2" : "=w"(loaded.v), "+r"(*at) : "r"(bytes), "m"(read));
#else
        __asm__("vld1.32 {%e0, %f0}, [%1], %2" : "=w"(loaded.v), "+r"(*at) : "r"(bytes), "m"(read));
#endif
        return loaded;
    }
    void store_next(float** at, std::ptrdiff_t step) const {
        const std::ptrdiff_t bytes = step * static_cast<std::ptrdiff_t>(sizeof(float));
        auto& written = *reinterpret_cast<float (*)[lanes]>(*at);
#if defined(__aarch64__)
        __asm__("st1 {%2.4s}, [%0], %3" : "+r"(*at), "=m"(written) : "w"(v), "r"(bytes));
#else
        __asm__("vst1.32 {%e2, %f2}, [%0], %3" : "+r"(*at), "=m"(written) : "w"(v), "r"(bytes));
#endif
    }
    // Two vectors side by side, in one instruction where there is one that takes no longer.
    static void load_pair(const float* from, Vec* pair) {
#if defined(__clang__) && !defined(__aarch64__)
        const float32x4x2_t both = vld1q_f32_x2(from);
        pair[0] = {both.val[0]};
        pair[1] = {both.val[1]};
#else
        pair[0] = load(from);
        pair[1] = load(from + lanes);
#endif
    }
    // Keeps a compiler from reading on before there are sums: 16 registers hold no second row of weights.
    template <int kCount>
    static void hold([[maybe_unused]] Vec* sums, [[maybe_unused]] const float** at) {
#if !defined(__aarch64__)
        for (int i = 0; i < kCount; ++i) __asm__("" : "+w"(sums[i].v), "+r"(*at));
#endif
    }
    template <int i>
    static Vec fused(Vec row, Four four, Vec sum) {
#if defined(__aarch64__)
        return {vfmaq_laneq_f32(sum.v, row.v, four, i)};
#else
        // Only the multiplication that rounds by itself takes a lane here.
        return {vmlaq_lane_f32(sum.v, row.v, i < 2 ? vget_low_f32(four) : vget_high_f32(four), i % 2)};
#endif
    }
    static Vec fused(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
    static Vec add(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
    static Vec subtract(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
    static Vec multiply(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
    static Vec divide(Vec a, Vec b) {
#if defined(__aarch64__)
        return {vdivq_f32(a.v, b.v)};
#else
        return {a.v / b.v};  // ARMv7 divides one by one
#endif
    }
    static Vec min(Vec a, Vec b) { return {vminq_f32(a.v, b.v)}; }
    static Vec max(Vec a, Vec b) { return {vmaxq_f32(a.v, b.v)}; }
    static Vec two_to(Ints whole);
    static void deinterleave(const float* in, Vec* a, Vec* b) {
        const float32x4x2_t pairs = vld2q_f32(in);
        a->v = pairs.val[0];
        b->v = pairs.val[1];
    }
    static void interleave(Vec a, Vec b, float* out) {
        const float32x4x2_t pairs = {{a.v, b.v}};
        vst2q_f32(out, pairs);
    }
};

struct Ints {
    static constexpr int lanes = 4;
    static constexpr int packed = 1;
    int32x4_t v;

    static Ints load(const std::int32_t* from) { return {vld1q_s32(from)}; }
    static Ints broadcast(std::int32_t x) { return {vdupq_n_s32(x)}; }
    static Ints add(Ints a, Ints b) { return {vaddq_s32(a.v, b.v)}; }
    static Ints subtract(Ints a, Ints b) { return {vsubq_s32(a.v, b.v)}; }
    static Ints halved(Ints a) { return {vshrq_n_s32(a.v, 1)}; }
    void store_bytes(std::uint8_t* to) const {
        const int16x4_t words = vmovn_s32(v);
        const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
        const std::uint32_t four = vget_lane_u32(vreinterpret_u32_s8(bytes), 0);
        __builtin_memcpy(to, &four, sizeof(four));
    }
    void store_first_bytes(int count, std::uint8_t* to) const {
        std::uint8_t bytes[lanes];
        store_bytes(bytes);
        __builtin_memcpy(to, bytes, static_cast<std::size_t>(count));
    }
    static std::uint32_t load_four(const void* from) {
        std::uint32_t four;
        __builtin_memcpy(&four, from, sizeof(four));
        return four;
    }
    static Ints widen(const std::int8_t* from) {
        const int8x8_t bytes = vreinterpret_s8_u32(vdup_n_u32(load_four(from)));
        return {vmovl_s16(vget_low_s16(vmovl_s8(bytes)))};
    }
    static Ints widen(const std::uint8_t* from) {
        const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(load_four(from)));
        return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))};
    }
    using Factors = int32x4_t;
    static Factors load_factors(const std::int16_t* from) { return vmovl_s16(vld1_s16(from)); }
    static Ints multiply_add(Ints sum, Ints values, Factors with) {
        return {vmlaq_s32(sum.v, values.v, with)};
    }
    static Vec to_floats(Ints a) { return {vcvtq_f32_s32(a.v)}; }
    static Ints rounded(Vec a) {
#if defined(__aarch64__)
        return {vcvtnq_s32_f32(a.v)};
#else
        // ARMv7 can only truncate. Adding 1.5 * 2^23 leaves no bits for a fraction, so the addition itself
        // rounds as IEEE says: halves to even.
        const float32x4_t magic = vdupq_n_f32(12582912);
        return {vcvtq_s32_f32(vsubq_f32(vaddq_f32(a.v, magic), magic))};
#endif
    }
};

Vec Vec::two_to(Ints whole) {
    constexpr int kBias = 127;
    constexpr int kMantissa = 23;
    return {vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(whole.v, vdupq_n_s32(kBias)), kMantissa))};
}

#if defined(__aarch64__)
constexpr int kTilePixels = 8;  // 16 of the 32 registers hold sums, 8 the inputs
#else
constexpr int kTilePixels = 4;  // 8 of the 16, and 4
#endif
constexpr int kTileChannels = 8;
using Narrow = Vec;
constexpr int kNarrowPixels = kTilePixels;
constexpr int kDepthwisePixels = kTilePixels;
constexpr int kStridedPixels = 4;
constexpr bool kDepthwiseAcross = false;

// Products one by one, of inputs and weights of 16 bits: for whatever the faster ways cannot take.
struct Singles {
    static constexpr int depth = 1;
    static constexpr int input_bytes = 2;
    static constexpr int weight_bytes = 2;
    static constexpr int offset = 0;
    static constexpr int tile_pixels = kTilePixels;
    static constexpr bool unrolls = true;
    using Weights = int16x4_t;
    using Four = int16x4_t;

    static Weights load(const std::byte* from) {
        return vld1_s16(reinterpret_cast<const std::int16_t*>(from));
    }
    static Four four(const std::byte* from) { return load(from); }
    static Four one(const std::byte* from) {
        return vld1_dup_s16(reinterpret_cast<const std::int16_t*>(from));
    }
    template <int i>
    static Ints dot(Weights row, Four four, Ints sum) {
        return {vmlal_lane_s16(sum.v, row, four, i)};
    }
};
