// Sums of int8 values and of their products -> bytes, sixteen at a time. For the kernel files that include
// it, behind kernels_body.h.

struct Steps16 {
    float32x4_t v[4];
};

// Rounding first and clamping last is the same as the other way round: the bounds are whole numbers.
struct NarrowRequantizer {
    explicit NarrowRequantizer(const Requantization& to)
        : zero_point(vdupq_n_s16(static_cast<std::int16_t>(to.zero_point))),
          low(vdupq_n_s8(static_cast<std::int8_t>(to.low + static_cast<float>(to.zero_point)))),
          high(vdupq_n_s8(static_cast<std::int8_t>(to.high + static_cast<float>(to.zero_point)))),
          slope(Vec::broadcast(to.slope)),
          is_bent(to.slope != 1) {}

    static int16x4_t rounded(Vec steps) {
#if defined(__aarch64__)
        return vqmovn_s32(Ints::rounded(steps).v);
#else
        // The way ARMv7 rounds holds for small numbers only.
        const Vec limit = Vec::broadcast(32767);
        return vqmovn_s32(
            Ints::rounded(Vec::max(Vec::min(steps, limit), Vec::subtract(Vec::broadcast(0), limit))).v);
#endif
    }

    int8x16_t operator()(const Steps16& steps) const {
        Vec bent[4];
        EDGEFACE_UNROLL
        for (int v = 0; v < 4; ++v) bent[v].v = steps.v[v];
        if (is_bent) {
            EDGEFACE_UNROLL
            for (Vec& vector : bent) vector = Vec::max(vector, Vec::multiply(vector, slope));
        }
        const int16x8_t first = vcombine_s16(rounded(bent[0]), rounded(bent[1]));
        const int16x8_t second = vcombine_s16(rounded(bent[2]), rounded(bent[3]));
        const int8x16_t values = vcombine_s8(vqmovn_s16(vqaddq_s16(first, zero_point)),
                                             vqmovn_s16(vqaddq_s16(second, zero_point)));
        return vminq_s8(vmaxq_s8(values, low), high);
    }

    int16x8_t zero_point;
    int8x16_t low;
    int8x16_t high;
    Vec slope;
    bool is_bent;
};

// The same of a relu: without a slope, and the upper bound is where bytes end before the zero point is added.
struct ReluRequantizer {
    explicit ReluRequantizer(const Requantization& to)
        : zero_point(vdupq_n_s8(static_cast<std::int8_t>(to.zero_point))),
          low(vdupq_n_s8(static_cast<std::int8_t>(to.low))),
          least(vdupq_n_f32(to.low)) {}

    static constexpr float kMost = 127;
    static bool does(const Requantization& to) { return to.slope == 1 && to.high == kMost; }

#if defined(__aarch64__)
    int16x4_t words(float32x4_t steps) const { return vqmovn_s32(vcvtnq_s32_f32(steps)); }
    int8x16_t bytes(int16x8_t first, int16x8_t second) const {
        return vmaxq_s8(vcombine_s8(vqmovn_s16(first), vqmovn_s16(second)), low);
    }
#else
    // As Ints::rounded, but the lowest bits of the sum are the number already; within bounds it is small
    // enough.
    int16x4_t words(float32x4_t steps) const {
        const float32x4_t bounded = vminq_f32(vmaxq_f32(steps, least), vdupq_n_f32(kMost));
        return vmovn_s32(vreinterpretq_s32_f32(vaddq_f32(bounded, vdupq_n_f32(12582912))));
    }
    int8x16_t bytes(int16x8_t first, int16x8_t second) const {
        return vcombine_s8(vmovn_s16(first), vmovn_s16(second));
    }
#endif

    int8x16_t operator()(const Steps16& steps) const {
        const int16x8_t first = vcombine_s16(words(steps.v[0]), words(steps.v[1]));
        const int16x8_t second = vcombine_s16(words(steps.v[2]), words(steps.v[3]));
        return vaddq_s8(bytes(first, second), zero_point);
    }

    int8x16_t zero_point;
    int8x16_t low;
    float32x4_t least;
};

template <typename Make>
void with_narrow_requantizer(const Requantization& to, const Make& make) {
    if (ReluRequantizer::does(to)) return make(ReluRequantizer(to));
    make(NarrowRequantizer(to));
}

// kVectors vectors of four channels of each of 4 / kVectors pixels, of which `pixels` and `channels` exist.
template <int kVectors>
void store_some_bytes(int8x16_t values, std::int8_t* output, std::ptrdiff_t step, int pixels, int channels) {
    constexpr int kChannels = 4 * kVectors;
    std::int8_t bytes[16];
    vst1q_s8(bytes, values);
    const int count = channels < kChannels ? channels : kChannels;
    for (int p = 0; p < pixels; ++p)
        __builtin_memcpy(output + p * step, bytes + p * kChannels, static_cast<std::size_t>(count));
}

template <int kVectors>
void store_bytes(int8x16_t values, std::int8_t* output, std::ptrdiff_t step) {
    if constexpr (kVectors == 4) {
        vst1q_s8(output, values);
    } else if constexpr (kVectors == 2) {
        vst1_s8(output, vget_low_s8(values));
        vst1_s8(output + step, vget_high_s8(values));
    } else {
        const uint32x4_t words = vreinterpretq_u32_s8(values);
        const std::uint32_t four[4] = {vgetq_lane_u32(words, 0), vgetq_lane_u32(words, 1),
                                       vgetq_lane_u32(words, 2), vgetq_lane_u32(words, 3)};
        EDGEFACE_UNROLL
        for (int p = 0; p < 4; ++p) __builtin_memcpy(output + p * step, &four[p], sizeof(four[p]));
    }
}

// Sums of kVectors vectors of kPixels pixels, of which `channels` exist; kWhole: all of them.
template <int kPixels, int kVectors, bool kWhole, typename Requantized>
void store_vectors(const int32x4_t* sums, const float32x4_t* multipliers, const Requantized& requantized,
                   std::int8_t* output, std::ptrdiff_t step, int channels) {
    constexpr int kTogether = 4 / kVectors;
    EDGEFACE_UNROLL
    for (int p = 0; p < kPixels; p += kTogether, output += kTogether * step) {
        Steps16 steps;
        EDGEFACE_UNROLL
        for (int i = 0; i < 4; ++i) {
            const bool is_inside = p * kVectors + i < kPixels * kVectors;
            const int32x4_t sum = is_inside ? sums[p * kVectors + i] : vdupq_n_s32(0);
            steps.v[i] = vmulq_f32(vcvtq_f32_s32(sum), multipliers[i % kVectors]);
        }
        if constexpr (kWhole && kPixels >= kTogether) {
            store_bytes<kVectors>(requantized(steps), output, step);
        } else {
            constexpr int kMost = kPixels < kTogether ? kPixels : kTogether;
            store_some_bytes<kVectors>(requantized(steps), output, step, kMost, channels);
        }
    }
}

// Sixteen stored values in steps of another scale.
struct BytesRescaling {
    BytesRescaling(int zero, float by)
        : zero_point(vdup_n_s8(static_cast<std::int8_t>(zero))),
          ratio(by) {}

    Steps16 operator()(const std::int8_t* from) const {
        const int8x16_t values = vld1q_s8(from);
        const int16x8_t low = vsubl_s8(vget_low_s8(values), zero_point);
        const int16x8_t high = vsubl_s8(vget_high_s8(values), zero_point);
        return {{step(vget_low_s16(low)), step(vget_high_s16(low)), step(vget_low_s16(high)),
                 step(vget_high_s16(high))}};
    }

    float32x4_t step(int16x4_t four) const { return vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(four)), ratio); }

    int8x8_t zero_point;
    float ratio;
};

void add_bytes(const QuantizedAddRun<std::int8_t>& run) {
    const BytesRescaling steps_a(run.zero_a, run.ratio_a);
    const BytesRescaling steps_b(run.zero_b, run.ratio_b);
    QuantizedAddRun<std::int8_t> rest = run;
    with_narrow_requantizer(run.to, [&](const auto& requantized) {
        for (; rest.count >= 16; rest.count -= 16, rest.a += 16, rest.b += 16, rest.output += 16) {
            Steps16 steps = steps_a(rest.a);
            const Steps16 more = steps_b(rest.b);
            EDGEFACE_UNROLL
            for (int v = 0; v < 4; ++v) steps.v[v] = vaddq_f32(steps.v[v], more.v[v]);
            vst1q_s8(rest.output, requantized(steps));
        }
    });
    if (rest.count > 0) quantized_add(rest);
}
