// Depthwise 3x3 of int8 with weights that fit in a byte: products are summed in 16 bits, as many of them as
// always fit. For the kernel files that include it, behind requantize_neon.h.

#if defined(__aarch64__)
constexpr int kBytesParts = 2;  // of eight channels
using Bytes = int8x16_t;

Bytes load_weights(const std::int16_t* from) {
    Bytes weights = vcombine_s8(vmovn_s16(vld1q_s16(from)), vmovn_s16(vld1q_s16(from + 8)));
    __asm__("" : "+w"(weights));  // or a compiler keeps its halves in registers of their own
    return weights;
}

int16x8_t product(Bytes a, Bytes b, int part) {
    return part == 0 ? vmull_s8(vget_low_s8(a), vget_low_s8(b)) : vmull_high_s8(a, b);
}

int16x8_t add_product(int16x8_t sum, Bytes a, Bytes b, int part) {
    return part == 0 ? vmlal_s8(sum, vget_low_s8(a), vget_low_s8(b)) : vmlal_high_s8(sum, a, b);
}

// What lies there; the pointer moves on, for nothing.
Bytes next_bytes(const std::int8_t** at, std::ptrdiff_t step) {
    Bytes values;
    const auto& read = *reinterpret_cast<const std::int8_t (*)[8 * kBytesParts]>(*at);
    __asm__("ld1 {%0.16b}, [%1], %2" : "=w"(values), "+r"(*at) : "r"(step), "m"(read));
    return values;
}
#else
constexpr int kBytesParts = 1;  // 16 registers have room for no more
using Bytes = int8x8_t;

Bytes load_weights(const std::int16_t* from) { return vmovn_s16(vld1q_s16(from)); }
int16x8_t product(Bytes a, Bytes b, int) { return vmull_s8(a, b); }
int16x8_t add_product(int16x8_t sum, Bytes a, Bytes b, int) { return vmlal_s8(sum, a, b); }

Bytes next_bytes(const std::int8_t** at, std::ptrdiff_t step) {
    Bytes values;
    const auto& read = *reinterpret_cast<const std::int8_t (*)[8 * kBytesParts]>(*at);
    __asm__("vld1.8 {%P0}, [%1], %2" : "=w"(values), "+r"(*at) : "r"(step), "m"(read));
    return values;
}
#endif

constexpr int kBytesVectors = 2 * kBytesParts;

struct DepthwiseBytes {
    Bytes weights[9];
    int32x4_t bias[kBytesVectors];
    float32x4_t multipliers[kBytesVectors];
};

// Pixels side by side, which share the columns that they both read. kChain: how many products are summed in
// 16 bits.
template <int kPixels, int kStride, int kChain, typename Requantized>
__attribute__((always_inline)) inline void depthwise_bytes_tile(const QuantizedDepthwiseRun<std::int8_t>& run,
                                                                const DepthwiseBytes& by,
                                                                const Requantized& requantized,
                                                                const std::int8_t** rows,
                                                                std::int8_t* output) {
    constexpr int kColumns = 3 + (kPixels - 1) * kStride;
    int16x8_t chains[kPixels][kBytesParts];
    int32x4_t sums[kPixels][kBytesVectors];
    EDGEFACE_UNROLL
    for (int row = 0; row < 3; ++row) {
        Bytes values[kColumns];
        EDGEFACE_UNROLL
        for (int column = 0; column < kColumns; ++column)
            values[column] = next_bytes(&rows[row], run.column_step);
        rows[row] -= (kColumns - kPixels * kStride) * run.column_step;
        EDGEFACE_UNROLL
        for (int tap = 3 * row; tap < 3 * row + 3; ++tap) {
            EDGEFACE_UNROLL
            for (int i = 0; i < kPixels * kBytesParts; ++i) {
                const int p = i / kBytesParts, part = i % kBytesParts;
                const Bytes value = values[p * kStride + tap % 3];
                int16x8_t& chain = chains[p][part];
                chain = tap % kChain == 0 ? product(value, by.weights[tap], part)
                                          : add_product(chain, value, by.weights[tap], part);
                if (tap % kChain != kChain - 1 && tap != 8) continue;
                int32x4_t* sum = &sums[p][2 * part];
                const int32x4_t* from = tap < kChain ? &by.bias[2 * part] : sum;
                sum[0] = vaddw_s16(from[0], vget_low_s16(chain));
                sum[1] = vaddw_s16(from[1], vget_high_s16(chain));
            }
        }
    }
    store_vectors<kPixels, kBytesVectors, true>(&sums[0][0], by.multipliers, requantized, output,
                                                run.output_step, 8 * kBytesParts);
}

template <int kStride, int kChain, typename Requantized>
void depthwise_bytes_3x3(const QuantizedDepthwiseRun<std::int8_t>& run, const Requantized& requantized,
                         int c) {
    constexpr int kPixels = 2;
    DepthwiseBytes by;
    for (int tap = 0; tap < 9; ++tap)
        by.weights[tap] = load_weights(run.weights + static_cast<std::ptrdiff_t>(tap) * run.channels + c);
    for (int v = 0; v < kBytesVectors; ++v) {
        by.bias[v] = vld1q_s32(run.bias + c + 4 * v);
        by.multipliers[v] = vld1q_f32(run.multipliers + c + 4 * v);
    }
    const std::int8_t* rows[3] = {run.inputs[0] + c, run.inputs[3] + c, run.inputs[6] + c};
    std::int8_t* output = run.output + c;
    int left = run.pixels;
    for (; left >= kPixels; left -= kPixels, output += kPixels * run.output_step)
        depthwise_bytes_tile<kPixels, kStride, kChain>(run, by, requantized, rows, output);
    if (left > 0) depthwise_bytes_tile<1, kStride, kChain>(run, by, requantized, rows, output);
}

template <int kStride, int kChain>
int depthwise_bytes_blocks(const QuantizedDepthwiseRun<std::int8_t>& run) {
    int c = 0;
    with_narrow_requantizer(run.to, [&](const auto& requantized) {
        for (; c + 8 * kBytesParts <= run.channels; c += 8 * kBytesParts)
            depthwise_bytes_3x3<kStride, kChain>(run, requantized, c);
    });
    return c;
}

template <int kStride>
int depthwise_bytes_chained(const QuantizedDepthwiseRun<std::int8_t>& run) {
    if (run.chain >= 9) return depthwise_bytes_blocks<kStride, 9>(run);
    if (run.chain >= 5) return depthwise_bytes_blocks<kStride, 5>(run);
    if (run.chain >= 3) return depthwise_bytes_blocks<kStride, 3>(run);
    return depthwise_bytes_blocks<kStride, 2>(run);
}

void depthwise_bytes_row(const QuantizedDepthwiseRun<std::int8_t>& run) {
    int c = 0;
    if (run.taps == 9 && run.narrow && run.input_step == run.column_step) {
        c = depthwise_bytes_chained<1>(run);
    } else if (run.taps == 9 && run.narrow && run.input_step == 2 * run.column_step) {
        c = depthwise_bytes_chained<2>(run);
    }
    quantized_depthwise_from(run, c);
}

void depthwise_bytes(const QuantizedDepthwiseRun<std::int8_t>* runs, int rows) {
    for (int row = 0; row < rows; ++row) depthwise_bytes_row(runs[row]);
}
