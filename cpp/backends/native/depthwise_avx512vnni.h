// Depthwise 3x3 with weights that fit in a byte: the three taps of a column are three of the four products
// that one instruction sums. For the kernel file that includes it, behind kernels_body.h.

// 64 bytes: kPieces neighbouring pixels' 64 / kPieces channels. Of four pixels, those behind the last of
// `pixels` are that one again.
template <int kPieces>
__attribute__((always_inline)) inline __m512i load_pieces(const void* from, std::ptrdiff_t step, int pixels) {
    const auto* bytes = static_cast<const std::uint8_t*>(from);
    if constexpr (kPieces == 1) return _mm512_loadu_si512(bytes);
    if constexpr (kPieces == 2) {
        const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
        const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + step));
        return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
    }
    if constexpr (kPieces == 4) {
        const auto piece = [&](int i) {
            const std::ptrdiff_t at = (i < pixels ? i : pixels - 1) * step;
            return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + at));
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

// What all pixels have in common.
template <int kPieces, typename To>
struct Depthwise9 {
    // Of each column, for what comes of the first three of four rows and of the last three.
    Interleaved weights[2][3];
    __m512i bias[4];
    typename To::Scale scales[4];
};

template <int kPieces, typename To, typename T>
Depthwise9<kPieces, To> load_depthwise(const QuantizedDepthwiseRun<T>& run, int c) {
    Depthwise9<kPieces, To> loaded;
    const __m512i none = _mm512_setzero_si512();
    const auto tap = [&](int i) {
        return load_weights<kPieces>(run.weights + static_cast<std::ptrdiff_t>(i) * run.channels + c);
    };
    for (int column = 0; column < 3; ++column) {
        const __m512i taps[3] = {tap(column), tap(3 + column), tap(6 + column)};
        loaded.weights[0][column] = interleave(taps[0], taps[1], taps[2], none);
        loaded.weights[1][column] = interleave(none, taps[0], taps[1], taps[2]);
    }
    const __m512i offset = as_unsigned(none, run.output);
    for (int k = 0; k < 4; ++k) {
        __m512i gained = none;
        for (const Interleaved& column : loaded.weights[0])
            gained = _mm512_dpbusd_epi32(gained, offset, column.v[k]);
        const __m512i bias = _mm512_sub_epi32(load_interleaved<kPieces>(run.bias + c, k), gained);
        loaded.bias[k] = To::lifted({bias}).v;
        loaded.scales[k] =
            To::scale({_mm512_castsi512_ps(load_interleaved<kPieces>(run.multipliers + c, k))});
    }
    return loaded;
}

// Three columns of the window, of kPieces pixels each -> as many pixels of kRows rows of the output.
template <int kPieces, bool kIsFlat, int kRows, typename To, typename T>
__attribute__((always_inline)) inline void depthwise_pixels(const Depthwise9<kPieces, To>& common,
                                                            const To& to, const Interleaved& left,
                                                            const Interleaved& middle,
                                                            const Interleaved& right,
                                                            T* const (&outputs)[kRows], std::ptrdiff_t step) {
    Ints values[kRows][4];
    EDGEFACE_UNROLL
    for (int k = 0; k < 4; ++k) {
        EDGEFACE_UNROLL
        for (int row = 0; row < kRows; ++row) {
            const Interleaved(&weights)[3] = common.weights[row];
            __m512i sum = _mm512_dpbusd_epi32(common.bias[k], left.v[k], weights[0].v[k]);
            sum = _mm512_dpbusd_epi32(sum, middle.v[k], weights[1].v[k]);
            sum = _mm512_dpbusd_epi32(sum, right.v[k], weights[2].v[k]);
            values[row][k] = to.narrowed({sum}, common.scales[k]);
        }
    }
    EDGEFACE_UNROLL
    for (int row = 0; row < kRows; ++row) {
        store_pieces<kIsFlat ? 1 : kPieces>(to.bytes(values[row], outputs[row]), outputs[row], step);
    }
}

// The same column of kRows rows, of kPieces neighbouring pixels, `pixels` of which are there. Of three rows,
// what the fourth place holds meets no weight.
template <int kPieces, bool kIsFlat, int kRows, typename T>
__attribute__((always_inline)) inline Interleaved load_column(const T* const* rows, std::ptrdiff_t at,
                                                              std::ptrdiff_t step, int pixels) {
    const auto load = [&](int row) __attribute__((always_inline)) {
        return as_unsigned(load_pieces<kIsFlat ? 1 : kPieces>(rows[row] + at, step, pixels), rows[row]);
    };
    const __m512i last = load(kRows - 1);
    return interleave(load(0), load(1), kRows == 4 ? load(2) : last, last);
}

// kPieces neighbouring pixels from the `by`-th of a's on, and so on into b's.
template <int kPieces, int by>
__attribute__((always_inline)) inline Interleaved shifted(const Interleaved& a, const Interleaved& b) {
    if constexpr (kPieces == by) return b;
    Interleaved between;
    EDGEFACE_UNROLL
    for (int k = 0; k < 4; ++k) between.v[k] = _mm512_alignr_epi64(b.v[k], a.v[k], by * 8 / kPieces % 8);
    return between;
}

// With stride 1, columns are interleaved once and serve three pixels of kRows rows. Inlined, as stores of
// bytes could change what `common` refers to: it has to be in registers.
template <int kPieces, bool kIsFlat, int kRows, typename To, typename T>
__attribute__((always_inline)) inline int depthwise_9_dense(const QuantizedDepthwiseRun<T>* runs,
                                                            const Depthwise9<kPieces, To>& common,
                                                            const To& to, int c) {
    const QuantizedDepthwiseRun<T>& run = runs[0];
    const std::ptrdiff_t step = run.input_step;
    const T* const rows[4] = {run.inputs[0] + c, run.inputs[3] + c, run.inputs[6] + c,
                              runs[kRows - 1].inputs[6] + c};
    const int pixels = run.pixels;
    const auto column = [&](int first) __attribute__((always_inline)) {
        return load_column<kPieces, kIsFlat, 2 + kRows>(rows, first * step, step, pixels + 2 - first);
    };
    T* outputs[kRows];
    for (int row = 0; row < kRows; ++row) outputs[row] = runs[row].output + c;
    const auto make = [&](const Interleaved& left, const Interleaved& middle,
                          const Interleaved& right) __attribute__((always_inline)) {
        depthwise_pixels<kPieces, kIsFlat>(common, to, left, middle, right, outputs, run.output_step);
        EDGEFACE_UNROLL
        for (int row = 0; row < kRows; ++row) {
            outputs[row] += kPieces * run.output_step;
        }
    };
    int pixel = 0;
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
            make(left, shifted<kPieces, 1>(left, next), shifted<kPieces, 2>(left, next));
            left = next;
        }
    }
    return pixel;
}

// With stride 2, a pixel's last column is the first of the next one.
template <int kPieces, bool kIsFlat, typename To, typename T>
__attribute__((always_inline)) inline int depthwise_9_apart(const QuantizedDepthwiseRun<T>& run,
                                                            const Depthwise9<kPieces, To>& common,
                                                            const To& to, int c) {
    const auto column = [&](int number, int pixel) __attribute__((always_inline)) {
        const T* rows[3];
        for (int row = 0; row < 3; ++row) rows[row] = run.inputs[3 * row + number] + c;
        return load_column<kPieces, false, 3>(rows, pixel * run.input_step, run.input_step, kPieces);
    };
    T* output[1] = {run.output + c};
    const auto make = [&](int pixel, const Interleaved& left, const Interleaved& right)
                          __attribute__((always_inline)) {
                              depthwise_pixels<kPieces, kIsFlat>(common, to, left, column(1, pixel), right,
                                                                 output, run.output_step);
                              output[0] += kPieces * run.output_step;
                          };
    int pixel = 0;
    const int pixels = run.pixels;
    if (run.input_step == 2 * run.column_step && kPieces <= pixels) {
        Interleaved left = column(0, 0);
        for (; pixel + 2 * kPieces <= pixels; pixel += kPieces) {
            const Interleaved next = column(0, pixel + kPieces);
            make(pixel, left, shifted<kPieces, 1>(left, next));
            left = next;
        }
    }
    for (; pixel + kPieces <= pixels; pixel += kPieces) make(pixel, column(0, pixel), column(2, pixel));
    return pixel;
}

// Whether the second row of an output reads the last two of the three rows that the first one reads.
template <typename T>
bool shares_rows(const QuantizedDepthwiseRun<T>& first, const QuantizedDepthwiseRun<T>& second) {
    return second.inputs[0] == first.inputs[3] && second.inputs[3] == first.inputs[6];
}

// 64 / kPieces channels of all pixels but a rest smaller than kPieces; returns how many those are in a row.
template <int kPieces, bool kIsFlat, typename To, typename T>
int depthwise_9(const QuantizedDepthwiseRun<T>* runs, int rows, const To& to, int c) {
    const Depthwise9<kPieces, To> common = load_depthwise<kPieces, To>(runs[0], c);
    const bool is_dense = runs[0].input_step == runs[0].column_step;
    int done = 0;
    for (int row = 0, count = 1; row < rows; row += count) {
        const QuantizedDepthwiseRun<T>* run = runs + row;
        count = is_dense && row + 1 < rows && shares_rows(run[0], run[1]) ? 2 : 1;
        if (!is_dense) {
            done = depthwise_9_apart<kPieces, kIsFlat>(*run, common, to, c);
        } else if (count == 1) {
            done = depthwise_9_dense<kPieces, kIsFlat, 1>(run, common, to, c);
        } else {
            done = depthwise_9_dense<kPieces, kIsFlat, 2>(run, common, to, c);
        }
    }
    return done;
}

// The pixels from `pixel` on and `channels` channels from c on, as the other ISAs do it.
template <typename T>
void depthwise_rest(const QuantizedDepthwiseRun<T>& run, int pixel, int c, int channels) {
    if (pixel == run.pixels) return;
    const T* inputs[9];
    const QuantizedDepthwiseRun<T> rest = pixels_from(run, pixel, inputs);
    with_requantizer(run.to, [&](const auto& to) {
        for (int done = 0; done < channels; done += Ints::lanes)
            quantized_depthwise_vector<9>(rest, to, c + done);
    });
}

// Whether 64 bytes at a time are what kPieces pixels read and write.
template <int kPieces, typename T>
bool is_flat(const QuantizedDepthwiseRun<T>& run) {
    if (kPieces == 1) return true;
    const bool is_apart = run.input_step != run.column_step;
    return run.output_step == 64 / kPieces && (is_apart || run.input_step == 64 / kPieces);
}

// As many channels from c on as 64 / kPieces goes into; returns the first of the others.
template <int kPieces, typename To, typename T>
int depthwise_blocks(const QuantizedDepthwiseRun<T>* runs, int rows, const To& to, int c) {
    constexpr int kChannels = 64 / kPieces;
    for (; c + kChannels <= runs[0].channels; c += kChannels) {
        const int done =
            is_flat<kPieces>(runs[0])
                ? depthwise_9<kPieces, true>(runs, rows, to, c)
                : depthwise_9<kPieces, kPieces == 1>(runs, rows, PackingRequantizer<false>(runs[0].to), c);
        for (int row = 0; row < rows; ++row) depthwise_rest(runs[row], done, c, kChannels);
    }
    return c;
}

template <typename T>
void depthwise_quads(const QuantizedDepthwiseRun<T>* runs, int rows) {
    int c = 0;
    if (runs[0].taps == 9 && runs[0].narrow) {
        with_packing_requantizer(runs[0].to, [&](const auto& to) {
            c = depthwise_blocks<1>(runs, rows, to, c);
            c = depthwise_blocks<2>(runs, rows, to, c);
            c = depthwise_blocks<4>(runs, rows, to, c);
        });
    }
    for (int row = 0; row < rows; ++row) quantized_depthwise_from(runs[row], c);
}
