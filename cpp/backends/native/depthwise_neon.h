// Depthwise 3x3 of int8 with weights that fit in a byte: products of two taps are summed in 16 bits, where
// two of at most 128 * 127 always fit. For the kernel files that include it, behind kernels_body.h.

struct Sums16 {
    int32x4_t v[4];  // of 16 channels
};

void add_taps(Sums16* sums, int16x8_t low, int16x8_t high) {
    sums->v[0] = vaddw_s16(sums->v[0], vget_low_s16(low));
    sums->v[1] = vaddw_s16(sums->v[1], vget_high_s16(low));
    sums->v[2] = vaddw_s16(sums->v[2], vget_low_s16(high));
    sums->v[3] = vaddw_s16(sums->v[3], vget_high_s16(high));
}

void add_pair(Sums16* sums, int8x16_t a, int8x16_t weight_a, int8x16_t b, int8x16_t weight_b) {
    const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(weight_a));
    const int16x8_t high = vmull_s8(vget_high_s8(a), vget_high_s8(weight_a));
    add_taps(sums, vmlal_s8(low, vget_low_s8(b), vget_low_s8(weight_b)),
             vmlal_s8(high, vget_high_s8(b), vget_high_s8(weight_b)));
}

int8x16_t load_weights(const std::int16_t* from) {
    return vcombine_s8(vmovn_s16(vld1q_s16(from)), vmovn_s16(vld1q_s16(from + 8)));
}

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

    int8x16_t operator()(const Sums16& sums, const float32x4_t* multipliers) const {
        Vec steps[4];
        EDGEFACE_UNROLL
        for (int v = 0; v < 4; ++v) {
            steps[v].v = vmulq_f32(vcvtq_f32_s32(sums.v[v]), multipliers[v]);
        }
        if (is_bent) {
            EDGEFACE_UNROLL
            for (Vec& vector : steps) {
                vector = Vec::max(vector, Vec::multiply(vector, slope));
            }
        }
        const int16x8_t first = vcombine_s16(rounded(steps[0]), rounded(steps[1]));
        const int16x8_t second = vcombine_s16(rounded(steps[2]), rounded(steps[3]));
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

// The same where neither slope nor zero point nor an upper bound other than the type's is to be heeded.
struct ReluRequantizer {
    explicit ReluRequantizer(const Requantization& to)
        : low(vdupq_n_s8(static_cast<std::int8_t>(to.low))) {}

    int8x16_t operator()(const Sums16& sums, const float32x4_t* multipliers) const {
        int16x4_t words[4];
        EDGEFACE_UNROLL
        for (int v = 0; v < 4; ++v) {
            words[v] = NarrowRequantizer::rounded({vmulq_f32(vcvtq_f32_s32(sums.v[v]), multipliers[v])});
        }
        const int16x8_t first = vcombine_s16(words[0], words[1]);
        const int16x8_t second = vcombine_s16(words[2], words[3]);
        return vmaxq_s8(vcombine_s8(vqmovn_s16(first), vqmovn_s16(second)), low);
    }

    int8x16_t low;
};

template <typename Make>
void with_narrow_requantizer(const Requantization& to, const Make& make) {
    if (to.plain && to.zero_point == 0) return make(ReluRequantizer(to));
    make(NarrowRequantizer(to));
}

void depthwise_bytes_9(const QuantizedDepthwiseRun<std::int8_t>& run, int c) {
    int8x16_t weights[9];
    const std::int8_t* inputs[9];
    for (int tap = 0; tap < 9; ++tap) {
        weights[tap] = load_weights(run.weights + static_cast<std::ptrdiff_t>(tap) * run.channels + c);
        inputs[tap] = run.inputs[tap] + c;
    }
    Sums16 bias;
    float32x4_t multipliers[4];
    for (int v = 0; v < 4; ++v) {
        bias.v[v] = vld1q_s32(run.bias + c + 4 * v);
        multipliers[v] = vld1q_f32(run.multipliers + c + 4 * v);
    }
    const NarrowRequantizer requantized(run.to);
    std::int8_t* output = run.output + c;
    const std::ptrdiff_t input_step = run.input_step;
    const std::ptrdiff_t output_step = run.output_step;
    for (int p = 0, pixels = run.pixels; p < pixels; ++p, output += output_step) {
        Sums16 sums = bias;
        const std::ptrdiff_t at = p * input_step;
        EDGEFACE_UNROLL
        for (int tap = 0; tap < 8; tap += 2) {
            add_pair(&sums, vld1q_s8(inputs[tap] + at), weights[tap], vld1q_s8(inputs[tap + 1] + at),
                     weights[tap + 1]);
        }
        const int8x16_t last = vld1q_s8(inputs[8] + at);
        add_taps(&sums, vmull_s8(vget_low_s8(last), vget_low_s8(weights[8])),
                 vmull_s8(vget_high_s8(last), vget_high_s8(weights[8])));
        vst1q_s8(output, requantized(sums, multipliers));
    }
}

void depthwise_bytes(const QuantizedDepthwiseRun<std::int8_t>& run) {
    int c = 0;
    if (run.taps == 9 && run.narrow) {
        for (; c + 16 <= run.channels; c += 16) depthwise_bytes_9(run, c);
    }
    quantized_depthwise_from(run, c);
}
