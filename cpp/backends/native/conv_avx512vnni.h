// int8 convolutions by dot products of four. For the kernel file that includes it, behind
// depthwise_avx512vnni.h.

// What all pixels have in common.
template <int kVectors, typename To>
struct QuadsBlock {
    const std::byte* weights;
    int first;     // of its channels
    int channels;  // from there on
    Ints bias[kVectors];
    typename To::Scale scales[kVectors];
};

template <int kVectors, typename To, typename T>
QuadsBlock<kVectors, To> load_block(const QuantizedConvRun<T>& run, const std::byte* weights, int first) {
    QuadsBlock<kVectors, To> block = {weights, first, run.output_channels - first, {}, {}};
    for (int v = 0; v < kVectors; ++v) {
        const int at = first + v * Ints::lanes;
        block.bias[v] = To::lifted(Ints::load(run.bias + at));
        block.scales[v] = To::scale(Vec::load(run.multipliers + at));
    }
    return block;
}

// A tile's sums from pixel p on become bytes, four vectors together: of as many pixels, or of the only one.
template <typename To, int kPixels, int kVectors, typename T>
__attribute__((always_inline)) inline void store_quads(const To& to, const QuadsBlock<kVectors, To>& block,
                                                       const Ints (&sums)[kPixels][kVectors], int p,
                                                       T* output, std::ptrdiff_t step) {
    constexpr int kChannels = kVectors * Ints::lanes;
    constexpr int kTogether = kPixels == 1 ? 1 : 4 / kVectors;
    Ints values[4];
    EDGEFACE_UNROLL
    for (int i = 0; i < 4; ++i) {
        const int v = i % kVectors;
        values[i] = to.narrowed(sums[p + i / kVectors % kTogether][v], block.scales[v]);
    }
    const __m512i bytes = Ints::Narrowing::in_order(to.bytes(values, output));
    if (kTogether > 1 && block.channels >= kChannels) return store_pieces<4 / kVectors>(bytes, output, step);
    const int count = block.channels < kChannels ? block.channels : kChannels;
    const __mmask64 stored = (__mmask64{1} << count) - 1;
    EDGEFACE_UNROLL
    for (int i = 0; i < kTogether; ++i) {
        _mm512_mask_storeu_epi8(output + i * (step - kChannels), stored << i * kChannels, bytes);
    }
}

template <typename Dot, int kPixels, int kVectors, typename To, typename T>
__attribute__((always_inline)) inline void quads_tile(const QuantizedConvRun<T>& run, const To& to,
                                                      const QuadsBlock<kVectors, To>& block, int pixel) {
    using Tile = QuantizedConvTile<Dot, kPixels, kVectors>;
    Tile tile;
    EDGEFACE_UNROLL
    for (int p = 0; p < kPixels; ++p) {
        EDGEFACE_UNROLL
        for (int v = 0; v < kVectors; ++v) {
            tile.sums[p][v] = block.bias[v];
        }
    }
    const int groups = (run.channels + Dot::depth - 1) / Dot::depth;
    const std::ptrdiff_t step = run.input_step;
    const std::byte* weights = block.weights;
    for (int tap = 0; tap < run.taps; ++tap) {
        const std::byte* input = run.inputs[tap] + pixel * step;
        int group = 0;
        for (; group + kUnrolled <= groups; group += kUnrolled) {
            tile.add_four(weights, input, step);
            weights += kUnrolled * Tile::kRow;
            input += kUnrolled * Dot::depth;
        }
        for (; group < groups; ++group, weights += Tile::kRow, input += Dot::depth)
            tile.add_one(weights, input, step);
    }
    T* output = run.output + pixel * run.output_step + block.first;
    EDGEFACE_UNROLL
    for (int p = 0; p < kPixels; p += 4 / kVectors) {
        store_quads(to, block, tile.sums, p, output, run.output_step);
        output += 4 / kVectors * run.output_step;
    }
}

// Whole tiles, and for what is left one of which some pixels are done again. Of copies, as stores of bytes
// could change what is shared: a twentieth of a pointwise layer's time.
template <typename Dot, int kVectors, typename To, typename T>
__attribute__((noinline)) void quads_block(const QuantizedConvRun<T>& shared_run, const To& shared,
                                           const std::byte* weights, int first) {
    const QuantizedConvRun<T> run = shared_run;
    const To to = shared;
    const QuadsBlock<kVectors, To> block = load_block<kVectors, To>(run, weights, first);
    const auto tiles = [&](auto count, int pixel, int end) __attribute__((always_inline)) {
        constexpr int kCount = decltype(count)::count;
        for (; pixel < end; pixel += kCount)
            quads_tile<Dot, kCount>(run, to, block, pixel + kCount <= end ? pixel : end - kCount);
    };
    constexpr int kMost = Dot::tile_pixels;
    const int pixels = run.pixels;
    const int left = pixels % kMost;
    const int whole = pixels > kMost && left > 4 ? pixels : pixels - left;
    tiles(Pixels<kMost>{}, 0, whole);
    if (pixels == 1) return tiles(Pixels<1>{}, 0, 1);
    if (pixels < 4 || left <= 2) return tiles(Pixels<2>{}, whole, pixels);
    tiles(Pixels<4>{}, whole, pixels);
}

// Where a vector has four pixels' worth of four channels: fewer than 16 channels leave no lanes empty, and
// one load has the inputs of four dot products. As many such vectors as kQuarters have what a block needs.
template <int kQuarters, typename To>
struct LanesBlock {
    const std::byte* weights;
    int first;
    int channels;
    __m512i bias[kQuarters];
    typename To::Scale scales[kQuarters];
};

__attribute__((always_inline)) inline __m512i in_all_lanes(const void* from) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(from)));
}

template <int kQuarters, typename To, typename T>
LanesBlock<kQuarters, To> load_lanes(const QuantizedConvRun<T>& run, const std::byte* weights, int first) {
    LanesBlock<kQuarters, To> block = {weights, first, run.output_channels - first, {}, {}};
    for (int q = 0; q < kQuarters; ++q) {
        block.bias[q] = To::lifted({in_all_lanes(run.bias + first + 4 * q)}).v;
        block.scales[q] = To::scale({_mm512_castsi512_ps(in_all_lanes(run.multipliers + first + 4 * q))});
    }
    return block;
}

// The first `channels` bytes of each lane, one for every pixel.
template <typename T>
__attribute__((always_inline)) inline void store_lanes(__m512i bytes, T* output, std::ptrdiff_t step,
                                                       int channels, int pixels) {
    if (channels >= 16 && pixels >= 4) return store_pieces<4>(bytes, output, step);
    const __mmask64 stored = (__mmask64{1} << channels) - 1;
    EDGEFACE_UNROLL
    for (int p = 0; p < 4; ++p) {
        if (p < pixels) _mm512_mask_storeu_epi8(output + p * (step - 16), stored << p * 16, bytes);
    }
}

// kFours times four pixels. Of few, groups in turn have sums of their own: a dot product waits for the one
// before.
template <typename Dot, int kFours, int kQuarters>
struct LanesTile {
    static constexpr int kParts = 4 / kFours;
    static constexpr int kRow = kTileChannels * Dot::depth;
    __m512i sums[kParts][kFours][kQuarters];

    __attribute__((always_inline)) explicit LanesTile(const __m512i (&bias)[kQuarters]) {
        EDGEFACE_UNROLL
        for (int i = 0; i < kParts * kFours; ++i) {
            EDGEFACE_UNROLL
            for (int q = 0; q < kQuarters; ++q) {
                sums[i / kFours][i % kFours][q] = i < kFours ? bias[q] : _mm512_setzero_si512();
            }
        }
    }

    template <int kGroup>
    __attribute__((always_inline)) void add(const std::byte* weights, const __m512i* inputs) {
        __m512i row[kQuarters];
        EDGEFACE_UNROLL
        for (int q = 0; q < kQuarters; ++q) row[q] = in_all_lanes(weights + kGroup * kRow + 16 * q);
        EDGEFACE_UNROLL
        for (int f = 0; f < kFours; ++f) {
            const __m512i quad = _mm512_shuffle_epi32(inputs[f], static_cast<_MM_PERM_ENUM>(kGroup * 0x55));
            auto& part = sums[kGroup % kParts][f];
            EDGEFACE_UNROLL
            for (int q = 0; q < kQuarters; ++q) part[q] = Dot::add(part[q], quad, row[q]);
        }
    }

    // Up to four groups of channels.
    __attribute__((always_inline)) void add_groups(const std::byte* weights, const __m512i* inputs,
                                                   int groups) {
        add<0>(weights, inputs);
        if (groups > 1) add<1>(weights, inputs);
        if (groups > 2) add<2>(weights, inputs);
        if (groups > 3) add<3>(weights, inputs);
    }

    __attribute__((always_inline)) __m512i sum(int f, int q) const {
        __m512i all = sums[0][f][q];
        EDGEFACE_UNROLL
        for (int part = 1; part < kParts; ++part) all = _mm512_add_epi32(all, sums[part][f][q]);
        return all;
    }
};

template <typename Dot, int kFours, int kQuarters, typename To, typename T>
__attribute__((always_inline)) inline void store_tile(const QuantizedConvRun<T>& run, const To& to,
                                                      const LanesBlock<kQuarters, To>& block,
                                                      const LanesTile<Dot, kFours, kQuarters>& tile,
                                                      int pixel, int pixels) {
    T* output = run.output + pixel * run.output_step + block.first;
    EDGEFACE_UNROLL
    for (int f = 0; f < kFours; ++f) {
        Ints values[4];
        EDGEFACE_UNROLL
        for (int q = 0; q < 4; ++q) {
            const int at = q < kQuarters ? q : 0;
            values[q] = to.narrowed({tile.sum(f, at)}, block.scales[at]);
        }
        store_lanes(to.bytes(values, output), output, run.output_step, block.channels, pixels - 4 * f);
        output += 4 * run.output_step;
    }
}

// Four pixels 6 bytes apart, up to 12 bytes of each.
__attribute__((always_inline)) inline __m512i load_lanes_of_pairs(const std::byte* first) {
    const __m512i words = _mm512_set_epi16(15, 15, 14, 13, 12, 11, 10, 9, 13, 12, 11, 10, 9, 8, 7, 6,  //
                                           10, 9, 8, 7, 6, 5, 4, 3, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first));
    return _mm512_permutexvar_epi16(words, _mm512_castsi256_si512(bytes));
}

// Up to 4 * kFours pixels from `pixel` on.
template <typename Dot, int kFours, int kQuarters, typename To, typename T>
__attribute__((always_inline)) inline void lanes_tile(const QuantizedConvRun<T>& run, const To& to,
                                                      const LanesBlock<kQuarters, To>& block, int pixel,
                                                      int pixels) {
    LanesTile<Dot, kFours, kQuarters> tile(block.bias);
    const int groups = (run.channels + Dot::depth - 1) / Dot::depth;
    const std::ptrdiff_t step = run.input_step;
    const std::byte* weights = block.weights;
    for (int tap = 0; tap < run.taps; ++tap) {
        const std::byte* input = run.inputs[tap] + pixel * step;
        for (int group = 0; group < groups; group += 4) {
            __m512i inputs[kFours];
            EDGEFACE_UNROLL
            for (int f = 0; f < kFours; ++f) {
                inputs[f] = load_pieces<4>(input + 4 * f * step + group * Dot::depth, step, pixels - 4 * f);
            }
            const int count = groups - group;
            if (count >= 4) {  // without the conditions
                tile.add_groups(weights, inputs, 4);
            } else {
                tile.add_groups(weights, inputs, count);
            }
            weights += 4 * tile.kRow;
        }
        if (groups % 4 > 0) weights -= (4 - groups % 4) * tile.kRow;
    }
    store_tile(run, to, block, tile, pixel, pixels);
}

template <typename Dot, int kQuarters, typename To, typename T>
__attribute__((noinline)) void lanes_block(const QuantizedConvRun<T>& run, const To& shared,
                                           const std::byte* weights, int first) {
    constexpr int kMost = 16;
    const To to = shared;
    const LanesBlock<kQuarters, To> block = load_lanes<kQuarters, To>(run, weights, first);
    int pixel = 0;
    for (; pixel + kMost <= run.pixels; pixel += kMost)
        lanes_tile<Dot, kMost / 4>(run, to, block, pixel, kMost);
    for (int left = run.pixels - pixel; left > 0; pixel += 8, left -= 8) {
        if (left > 4) {
            lanes_tile<Dot, 2>(run, to, block, pixel, left);
        } else {
            lanes_tile<Dot, 1>(run, to, block, pixel, left);
        }
    }
}

// The first layer of nearly every network: a 3x3 window on the three channels of every second pixel, whose
// rows are one tap of nine bytes each.
template <typename T>
bool is_rgb(const QuantizedConvRun<T>& run) {
    return run.taps == 3 && run.channels == 9 && run.input_step == 6;
}

// The ninth bytes of the three rows are summed together: 7 dot products instead of 9.
template <typename Dot, int kQuarters, typename To, typename T>
__attribute__((always_inline)) inline void rgb_tile(const QuantizedConvRun<T>& run, const To& to,
                                                    const LanesBlock<kQuarters, To>& block,
                                                    const __m512i (&last_weights)[kQuarters], int pixel) {
    constexpr int kFours = 4;
    const __m512i ninth = _mm512_set1_epi8(8);
    LanesTile<Dot, kFours, kQuarters> tile(block.bias);
    __m512i last[kFours];
    EDGEFACE_UNROLL
    for (int row = 0; row < 3; ++row) {
        const __mmask64 place = 0x1111111111111111U << row;
        const std::byte* input = run.inputs[row] + pixel * run.input_step;
        __m512i inputs[kFours];
        EDGEFACE_UNROLL
        for (int f = 0; f < kFours; ++f) {
            inputs[f] = load_lanes_of_pairs(input + f * 4 * 6);
            last[f] = row == 0 ? _mm512_maskz_shuffle_epi8(place, inputs[f], ninth)
                               : _mm512_mask_shuffle_epi8(last[f], place, inputs[f], ninth);
        }
        tile.template add<0>(block.weights + row * 3 * tile.kRow, inputs);
        tile.template add<1>(block.weights + row * 3 * tile.kRow, inputs);
    }
    EDGEFACE_UNROLL
    for (int f = 0; f < kFours; ++f) {
        EDGEFACE_UNROLL
        for (int q = 0; q < kQuarters; ++q) {
            tile.sums[0][f][q] = Dot::add(tile.sums[0][f][q], last[f], last_weights[q]);
        }
    }
    store_tile(run, to, block, tile, pixel, 4 * kFours);
}

template <typename Dot, int kQuarters, typename To, typename T>
__attribute__((noinline)) void rgb_block(const QuantizedConvRun<T>& run, const To& shared,
                                         const std::byte* weights, int first) {
    const To to = shared;
    const LanesBlock<kQuarters, To> block = load_lanes<kQuarters, To>(run, weights, first);
    constexpr int kRow = LanesTile<Dot, 4, kQuarters>::kRow;
    __m512i last_weights[kQuarters];
    for (int q = 0; q < kQuarters; ++q) {
        const auto last = [&](int row) { return in_all_lanes(weights + (3 * row + 2) * kRow + 16 * q); };
        last_weights[q] = _mm512_or_si512(
            last(0), _mm512_or_si512(_mm512_slli_epi32(last(1), 8), _mm512_slli_epi32(last(2), 16)));
    }
    int pixel = 0;
    for (; pixel + 16 <= run.pixels; pixel += 16) rgb_tile<Dot>(run, to, block, last_weights, pixel);
    for (; pixel < run.pixels; pixel += 4) {
        const int left = run.pixels - pixel;
        lanes_tile<Dot, 1>(run, to, block, pixel, left < 4 ? left : 4);
    }
}

template <typename Dot, typename T>
void quads_conv(const QuantizedConvRun<T>& run) {
    const int groups = (run.channels + Dot::depth - 1) / Dot::depth;
    const std::ptrdiff_t block = std::ptrdiff_t{run.taps} * groups * kTileChannels * Dot::depth;
    with_packing_requantizer(run.to, [&](const auto& to) {
        const std::byte* weights = run.weights;
        for (int first = 0; first < run.output_channels; first += kTileChannels, weights += block) {
            const int left = run.output_channels - first;
            if (left > Ints::lanes) {
                quads_block<Dot, 2>(run, to, weights, first);
            } else if (is_rgb(run) && left > 8) {
                rgb_block<Dot, 4>(run, to, weights, first);
            } else if (is_rgb(run)) {
                rgb_block<Dot, 2>(run, to, weights, first);
            } else if (left > 12) {
                quantized_conv_block<Dot, 1>(run, weights, first, left);
            } else if (left > 8) {
                lanes_block<Dot, 3>(run, to, weights, first);
            } else if (left > 4) {
                lanes_block<Dot, 2>(run, to, weights, first);
            } else {
                lanes_block<Dot, 1>(run, to, weights, first);
            }
        }
    });
}

template <typename Dot, typename T>
constexpr QuantizedConvKernels<T> quads_kernels(void (*prepare)(const T*, std::byte*, std::size_t)) {
    return {{Dot::depth, Dot::input_bytes, Dot::weight_bytes, Dot::offset}, prepare, quads_conv<Dot, T>};
}
