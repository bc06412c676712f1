// The kernels' algorithms, written once on `Vec` and `Ints`; each ISA file defines those and the tile, then
// includes this.
//
// Vec: `lanes` floats. load, store, store_first(n), broadcast, fused(a, b, c) = a * b + c, add, subtract,
// multiply, divide, min, max; Four and fused<i>(row, four, sum): a run of four inputs, one of which
// multiplies a row of weights; two_to(whole) = 2^whole; deinterleave and interleave of pairs. walks: whether
// loads move pointers on for nothing; then next_four, load_next and store_next, which do, load_pair of a row
// of two, and hold.
//
// Narrow: what a few channels are in, Vec or less of one; of those above what conv needs. kNarrowPixels: how
// many pixels a tile of one has.
//
// kDepthwisePixels, kStridedPixels: how many pixels of a depthwise 3x3 share what they read, with stride 1
// and 2; their sums take registers beside nine weights. kDepthwiseAcross: whether all their channels come
// before the next ones, or all pixels before the next vector of channels, whose weights then stay in
// registers.
//
// Ints: as many int32. load, broadcast, add, subtract, halved, widen (from int8 or uint8), to_floats, rounded
// (to the nearest, halves to even), store_bytes (the lowest byte of each), store_first_bytes(n);
// multiply_add, of widened values and int16 Factors. packed: how many vectors it makes bytes of at a time;
// where that is more than 1, by a Narrowing: store<n>(vectors, to, step), of n pixels.
//
// Pairs, or Singles where a CPU multiplies so, and where it has something better for int8, Quads: products
// summed `depth` at a time. Weights, load, Four and dot<i>(row, four, sum), as above. tile_pixels: how many
// pixels a tile has. unrolls: whether four groups of inputs at a time are faster than one.
//
// Everything here has internal linkage and uses no library template: code compiled for one ISA must never be
// what the linker picks for another.

constexpr int kUnrolled = 4;  // channels, or groups of them, that Four holds

// Before a loop over a tile: what it indexes by a constant can then stay in registers.
#if defined(__clang__)
#define EDGEFACE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define EDGEFACE_UNROLL _Pragma("GCC unroll 32")
#endif

// Of what changes a tile's sums, which a call would put in memory. Clang calls what is large; GCC does not,
// and takes a tenth longer for pointwise layers where it is told early.
#if defined(__clang__)
#define EDGEFACE_IN_REGISTERS __attribute__((always_inline))
#else
#define EDGEFACE_IN_REGISTERS
#endif

// An activation in registers. Few networks have a slope, and only they pay for it.
struct Clamped {
    Clamped(float lowest, float highest, float slope_below)
        : low(Vec::broadcast(lowest)),
          high(Vec::broadcast(highest)),
          slope(Vec::broadcast(slope_below)),
          is_bent(slope_below != 1) {}

    __attribute__((always_inline)) Vec operator()(Vec x) const {
        if (is_bent) x = Vec::max(x, Vec::multiply(x, slope));
        return Vec::min(Vec::max(x, low), high);
    }

    Vec low;
    Vec high;
    Vec slope;
    bool is_bent;
};

// What few activations have, a slope and an upper bound, for a tile's sums: one branch each. Then only the
// lower bound is left to take, as the relu of most.
template <int kVectors, typename Run, typename V>
__attribute__((always_inline)) inline void bend_and_bound(const Run& run, V* sums) {
    if (run.slope != 1) {
        const V slope = V::broadcast(run.slope);
        EDGEFACE_UNROLL
        for (int v = 0; v < kVectors; ++v) {
            sums[v] = V::max(sums[v], V::multiply(sums[v], slope));
        }
    }
    if (run.high <= __FLT_MAX__) {
        const V low = V::broadcast(run.low);
        const V high = V::broadcast(run.high);
        EDGEFACE_UNROLL
        for (int v = 0; v < kVectors; ++v) {
            sums[v] = V::min(V::max(sums[v], low), high);
        }
    }
}

// Whether it has neither.
template <typename Run>
bool is_relu(const Run& run) {
    return run.slope == 1 && run.high > __FLT_MAX__;
}

// The same for one value.
inline float clamped(float x, float low, float high, float slope) {
    const float below = x * slope;
    x = x > below ? x : below;
    x = x > low ? x : low;
    return x < high ? x : high;
}

template <int kVectors, typename V>
__attribute__((always_inline)) inline void load_row(const float* from, V* row) {
    if constexpr (V::walks && kVectors == 2) return V::load_pair(from, row);
    EDGEFACE_UNROLL
    for (int v = 0; v < kVectors; ++v) row[v] = V::load(from + v * V::lanes);
}

// A tile's sums: kPixels pixels x kVectors vectors of channels.
template <typename V, int kPixels, int kVectors>
struct ConvTile {
    V sums[kPixels][kVectors];

    // All vectors of a pixel in turn: its value is broadcast once.
    template <int kChannel>
    void add(const float* weights, const typename V::Four* inputs) {
        V row[kVectors];
        load_row<kVectors>(weights, row);
        EDGEFACE_UNROLL
        for (int p = 0; p < kPixels; ++p) {
            EDGEFACE_UNROLL
            for (int v = 0; v < kVectors; ++v)
                sums[p][v] = V::template fused<kChannel>(row[v], inputs[p], sums[p][v]);
        }
    }

    void add_four(const float* weights, const typename V::Four* inputs) {
        add<0>(weights, inputs);
        add<1>(next_row(&weights), inputs);
        add<2>(next_row(&weights), inputs);
        add<3>(next_row(&weights), inputs);
    }

    const float* next_row(const float** weights) {
        *weights += kTileChannels;
        if constexpr (V::walks) V::template hold<kPixels * kVectors>(&sums[0][0], weights);
        return *weights;
    }

    void add_four_at(const float* weights, const float* input, std::ptrdiff_t step) {
        typename V::Four inputs[kPixels];
        EDGEFACE_UNROLL
        for (int p = 0; p < kPixels; ++p) {
            inputs[p] = V::four(input + p * step);
        }
        add_four(weights, inputs);
    }

    void add_one(const float* weights, const V* values) {
        V row[kVectors];
        load_row<kVectors>(weights, row);
        EDGEFACE_UNROLL
        for (int p = 0; p < kPixels; ++p) {
            EDGEFACE_UNROLL
            for (int v = 0; v < kVectors; ++v) sums[p][v] = V::fused(values[p], row[v], sums[p][v]);
        }
    }

    // `fours` and then `ones` of every pixel from `input` on.
    void add_tap(const float* weights, const float* input, std::ptrdiff_t step, int fours, int ones) {
        if constexpr (V::walks) return walk_tap(weights, input, step, fours, ones);
        for (int i = 0; i < fours; ++i, input += kUnrolled, weights += kUnrolled * kTileChannels)
            add_four_at(weights, input, step);
        for (int i = 0; i < ones; ++i, ++input, weights += kTileChannels) {
            V values[kPixels];
            EDGEFACE_UNROLL
            for (int p = 0; p < kPixels; ++p) values[p] = V::broadcast(input[p * step]);
            add_one(weights, values);
        }
    }

    void walk_tap(const float* weights, const float* input, std::ptrdiff_t step, int fours, int ones) {
        const float* at[kPixels];
        EDGEFACE_UNROLL
        for (int p = 0; p < kPixels; ++p) {
            at[p] = p == 0 ? input : at[p - 1] + step;
            // Or a compiler keeps multiples of the step, which it has to make again for every tile.
            __asm__("" : "+r"(at[p]));
        }
        for (int i = 0; i < fours; ++i, weights += kUnrolled * kTileChannels) {
            typename V::Four inputs[kPixels];
            EDGEFACE_UNROLL
            for (int p = 0; p < kPixels; ++p) inputs[p] = V::next_four(&at[p]);
            add_four(weights, inputs);
        }
        for (int i = 0; i < ones; ++i, weights += kTileChannels) {
            V values[kPixels];
            EDGEFACE_UNROLL
            for (int p = 0; p < kPixels; ++p) values[p] = V::broadcast(*at[p]++);
            add_one(weights, values);
        }
    }
};

// The first `count` lanes, or all.
template <typename V>
__attribute__((always_inline)) inline void store(V value, float* to, int count) {
    if (count >= V::lanes) return value.store(to);
    if (count > 0) value.store_first(count, to);
}

template <typename V, int kPixels, int kVectors>
void conv_tile(const ConvRun& run, const float* weights, int pixel, int first, int channels, bool is_plain) {
    ConvTile<V, kPixels, kVectors> tile;
    EDGEFACE_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        const V bias = V::load(weights + v * V::lanes);
        EDGEFACE_UNROLL
        for (int p = 0; p < kPixels; ++p) {
            tile.sums[p][v] = bias;
        }
    }
    weights += kTileChannels;
    const std::ptrdiff_t step = run.input_step;
    const int taps = run.taps;
    const auto inputs = static_cast<unsigned>(run.channels);
    const int fours = static_cast<int>(inputs / kUnrolled);
    const int ones = static_cast<int>(inputs % kUnrolled);
    for (int tap = 0; tap < taps; ++tap) {
        const float* input = run.inputs[tap] + pixel * step;
        tile.add_tap(weights, input, step, fours, ones);
        weights += inputs * kTileChannels;
    }
    if (!is_plain) bend_and_bound<kPixels * kVectors>(run, &tile.sums[0][0]);
    const V low = V::broadcast(run.low);
    const std::ptrdiff_t output_step = run.output_step;
    float* output = run.output + pixel * output_step + first;
    EDGEFACE_UNROLL
    for (int p = 0; p < kPixels; ++p) {
        EDGEFACE_UNROLL
        for (int v = 0; v < kVectors; ++v) {
            const int at = v * V::lanes;
            store(V::max(tile.sums[p][v], low), output + at, channels - at);
        }
        output += output_step;
    }
}

// Calls tile(Pixels<n>, first pixel) for all pixels of a run: in whole tiles, the rest in smaller ones.
template <int kPixels>
struct Pixels {
    static constexpr int count = kPixels;
};

template <int kPixels, typename Tile>
int for_tiles_of(int pixel, int pixels, const Tile& tile) {
    for (; pixel + kPixels <= pixels; pixel += kPixels) tile(Pixels<kPixels>{}, pixel);
    return pixel;
}

template <int kMost, typename Tile>
void for_tiles(int pixels, const Tile& tile) {
    int pixel = for_tiles_of<kMost>(0, pixels, tile);
    if constexpr (kMost > 8) pixel = for_tiles_of<8>(pixel, pixels, tile);
    if constexpr (kMost > 4) pixel = for_tiles_of<4>(pixel, pixels, tile);
    if constexpr (kMost > 2) pixel = for_tiles_of<2>(pixel, pixels, tile);
    for_tiles_of<1>(pixel, pixels, tile);
}

template <typename V, int kPixels, int kVectors>
void conv_block(const ConvRun& run, const float* weights, int first, int channels) {
    const bool is_plain = is_relu(run);
    for_tiles<kPixels>(run.pixels, [&](auto pixels, int pixel) {
        conv_tile<V, decltype(pixels)::count, kVectors>(run, weights, pixel, first, channels, is_plain);
    });
}

void conv(const ConvRun& run) {
    constexpr int kHalf = kTileChannels / 2;
    const float* weights = run.weights;
    const std::ptrdiff_t block = (1 + static_cast<std::ptrdiff_t>(run.taps) * run.channels) * kTileChannels;
    for (int first = 0; first < run.output_channels; first += kTileChannels, weights += block) {
        const int left = run.output_channels - first;
        // The first layer and heads have 4 to 12 channels: less of the tile then does less work.
        if (left > kHalf) {
            conv_block<Vec, kTilePixels, kTileChannels / Vec::lanes>(run, weights, first, left);
        } else if (left > Narrow::lanes) {
            conv_block<Vec, kTilePixels, kHalf / Vec::lanes>(run, weights, first, left);
        } else {
            conv_block<Narrow, kNarrowPixels, 1>(run, weights, first, left);
        }
    }
}

#include "winograd_body.h"

// What lies there; the pointer moves on.
template <typename V>
V load_next(const float** at, std::ptrdiff_t step) {
    if constexpr (V::walks) {
        return V::load_next(at, step);
    } else {
        const float* here = *at;
        *at += step;
        return V::load(here);
    }
}

template <typename V>
void store_next(V value, float** at, std::ptrdiff_t step) {
    if constexpr (V::walks) {
        value.store_next(at, step);
    } else {
        value.store(*at);
        *at += step;
    }
}

// A vector of channels of a 3x3 window, whose rows are `rows` on; they move on, as `output` does.
struct DepthwiseTile {
    __attribute__((always_inline)) DepthwiseTile(const DepthwiseRun& run, int pixel, int c)
        : bias(Vec::load(run.weights + c)),
          low(Vec::broadcast(run.low)),
          column_step(run.column_step),
          output(run.output + pixel * run.output_step + c),
          output_step(run.output_step),
          plain(is_relu(run)) {
        for (int tap = 0; tap < 9; ++tap)
            weights[tap] = Vec::load(run.weights + static_cast<std::ptrdiff_t>(tap + 1) * run.channels + c);
        for (int row = 0; row < 3; ++row) rows[row] = run.inputs[3 * row] + pixel * run.input_step + c;
    }

    Vec weights[9];
    Vec bias;
    Vec low;
    const float* rows[3];
    std::ptrdiff_t column_step;
    float* output;
    std::ptrdiff_t output_step;
    bool plain;  // nothing but the lower bound
};

// kPixels pixels, stride kStride: neighbours share the columns that they both read.
template <int kPixels, int kStride>
__attribute__((always_inline)) inline void depthwise_3x3_tile(const DepthwiseRun& run, DepthwiseTile* tile) {
    constexpr int kColumns = 3 + (kPixels - 1) * kStride;
    Vec sums[kPixels];
    EDGEFACE_UNROLL
    for (int p = 0; p < kPixels; ++p) {
        sums[p] = tile->bias;
    }
    EDGEFACE_UNROLL
    for (int row = 0; row < 3; ++row) {
        EDGEFACE_UNROLL
        for (int column = 0; column < kColumns; ++column) {
            const Vec value = load_next<Vec>(&tile->rows[row], tile->column_step);
            EDGEFACE_UNROLL
            for (int p = 0; p < kPixels; ++p) {
                const int tap = column - p * kStride;
                if (tap >= 0 && tap < 3) sums[p] = Vec::fused(value, tile->weights[3 * row + tap], sums[p]);
            }
        }
        tile->rows[row] -= (kColumns - kPixels * kStride) * tile->column_step;
    }
    if (!tile->plain) bend_and_bound<kPixels>(run, sums);
    EDGEFACE_UNROLL
    for (int p = 0; p < kPixels; ++p) {
        store_next<Vec>(Vec::max(sums[p], tile->low), &tile->output, tile->output_step);
    }
}

// All pixels of a vector of channels, whose weights stay.
template <int kStride>
void depthwise_3x3_down(const DepthwiseRun& run, int c) {
    DepthwiseTile tile(run, 0, c);
    for_tiles<kStride == 1 ? kDepthwisePixels : kStridedPixels>(
        run.pixels, [&](auto pixels, int) __attribute__((always_inline)) {
            depthwise_3x3_tile<decltype(pixels)::count, kStride>(run, &tile);
        });
}

// All channels of a few pixels, which lie next to each other.
template <int kStride>
void depthwise_3x3_across(const DepthwiseRun& run, int channels) {
    for_tiles<kStride == 1 ? kDepthwisePixels : kStridedPixels>(run.pixels, [&](auto pixels, int pixel) {
        for (int c = 0; c < channels; c += Vec::lanes) {
            DepthwiseTile tile(run, pixel, c);
            depthwise_3x3_tile<decltype(pixels)::count, kStride>(run, &tile);
        }
    });
}

// All channels but a rest smaller than a vector; returns how many.
template <int kStride>
int depthwise_3x3(const DepthwiseRun& run) {
    const int channels = run.channels / Vec::lanes * Vec::lanes;
    if (kDepthwiseAcross && channels > Vec::lanes) {
        depthwise_3x3_across<kStride>(run, channels);
    } else {
        for (int c = 0; c < channels; c += Vec::lanes) depthwise_3x3_down<kStride>(run, c);
    }
    return channels;
}

void depthwise_vector(const DepthwiseRun& run, int c) {
    const Clamped to(run.low, run.high, run.slope);
    for (int p = 0; p < run.pixels; ++p) {
        const float* weights = run.weights + c;
        Vec sum = Vec::load(weights);
        for (int tap = 0; tap < run.taps; ++tap) {
            weights += run.channels;
            sum = Vec::fused(Vec::load(run.inputs[tap] + p * run.input_step + c), Vec::load(weights), sum);
        }
        to(sum).store(run.output + p * run.output_step + c);
    }
}

void depthwise_channel(const DepthwiseRun& run, int c) {
    for (int p = 0; p < run.pixels; ++p) {
        float sum = run.weights[c];
        for (int tap = 0; tap < run.taps; ++tap) {
            const float weight = run.weights[static_cast<std::ptrdiff_t>(tap + 1) * run.channels + c];
            sum += run.inputs[tap][p * run.input_step + c] * weight;
        }
        run.output[p * run.output_step + c] = clamped(sum, run.low, run.high, run.slope);
    }
}

// Whether a vector holds the channels of several pixels, which then lie next to each other as those of one
// do.
template <typename Run>
bool has_narrow_pixels(const Run& run) {
    return run.taps == 9 && run.channels < Vec::lanes && Vec::lanes % run.channels == 0 &&
           run.input_step == run.channels && run.output_step == run.channels;
}

// As many pixels as a vector holds taken as one of more channels, without their weights; how many those are.
template <typename Run>
int join_pixels(Run* run) {
    const int together = Vec::lanes / run->channels;
    run->input_step *= together;
    run->output_step *= together;
    run->pixels /= together;
    run->channels = Vec::lanes;
    return together;
}

// out[i] = of row i / lanes, channel by channel again and again.
template <typename T>
void repeat_channels(const T* rows, int channels, int count, T* out) {
    for (int i = 0; i < count * Vec::lanes; ++i)
        out[i] = rows[i / Vec::lanes * channels + i % Vec::lanes % channels];
}

// The pixels from `first` on; `inputs` is room for their addresses.
template <typename Run, typename T>
Run pixels_from(const Run& run, int first, const T** inputs) {
    Run rest = run;
    for (int tap = 0; tap < run.taps; ++tap) inputs[tap] = run.inputs[tap] + first * run.input_step;
    rest.inputs = inputs;
    rest.output += first * run.output_step;
    rest.pixels -= first;
    return rest;
}

void depthwise_narrow(const DepthwiseRun& run) {
    float weights[10 * Vec::lanes];
    repeat_channels(run.weights, run.channels, 10, weights);
    DepthwiseRun joined = run;
    joined.weights = weights;
    const int together = join_pixels(&joined);
    if (together == 2 && run.column_step == run.channels) {
        depthwise_3x3<2>(joined);
    } else {
        depthwise_vector(joined, 0);
    }
    const float* inputs[9];
    const DepthwiseRun rest = pixels_from(run, together * joined.pixels, inputs);
    for (int c = 0; c < run.channels; ++c) depthwise_channel(rest, c);
}

void depthwise(const DepthwiseRun& run) {
    if (has_narrow_pixels(run)) return depthwise_narrow(run);
    int c = 0;
    // Nearly every depthwise layer of these networks is one of these two.
    if (run.taps == 9 && run.input_step == run.column_step) {
        c = depthwise_3x3<1>(run);
    } else if (run.taps == 9 && run.input_step == 2 * run.column_step) {
        c = depthwise_3x3<2>(run);
    } else {
        for (; c + Vec::lanes <= run.channels; c += Vec::lanes) depthwise_vector(run, c);
    }
    for (; c < run.channels; ++c) depthwise_channel(run, c);
}

void add(const float* a, const float* b, float* out, std::size_t count, float low, float high, float slope) {
    const Clamped to(low, high, slope);
    std::size_t i = 0;
    for (; i + Vec::lanes <= count; i += Vec::lanes) {
        to(Vec::add(Vec::load(a + i), Vec::load(b + i))).store(out + i);
    }
    for (; i < count; ++i) out[i] = clamped(a[i] + b[i], low, high, slope);
}

void clamp(const float* in, float* out, std::size_t count, float low, float high, float slope) {
    const Clamped to(low, high, slope);
    std::size_t i = 0;
    for (; i + Vec::lanes <= count; i += Vec::lanes) to(Vec::load(in + i)).store(out + i);
    for (; i < count; ++i) out[i] = clamped(in[i], low, high, slope);
}

// Compilers make vectors of this by themselves.
template <typename T>
void max_pool(const MaxPoolRun<T>& run) {
    constexpr int kStretch = 16;  // bytes of a NEON register
    for (int p = 0; p < run.pixels; ++p) {
        const std::ptrdiff_t at = p * run.input_step;
        T* output = run.output + p * run.output_step;
        int c = 0;
        for (; c + kStretch <= run.channels; c += kStretch) {
            T largest[kStretch];
            __builtin_memcpy(largest, run.inputs[0] + at + c, sizeof(largest));
            for (int tap = 1; tap < run.taps; ++tap) {
                const T* input = run.inputs[tap] + at + c;
                for (int i = 0; i < kStretch; ++i) largest[i] = input[i] > largest[i] ? input[i] : largest[i];
            }
            __builtin_memcpy(output + c, largest, sizeof(largest));
        }
        for (; c < run.channels; ++c) {
            T largest = run.inputs[0][at + c];
            for (int tap = 1; tap < run.taps; ++tap) {
                const T value = run.inputs[tap][at + c];
                largest = value > largest ? value : largest;
            }
            output[c] = largest;
        }
    }
}

// e^x for x <= 0, within 2 ulp: x = k ln2 + r, |r| <= ln2 / 2, and the Taylor series to r^7, whose next term
// is below 2^-27. ln2 in two parts keeps r exact (Cody and Waite).
Vec exponential(Vec x) {
    constexpr float kSmallest = -104.0F;  // e^-104 is nothing even beside the smallest denormal number
    constexpr float kTerms[] = {1 / 5040.0F, 1 / 720.0F, 1 / 120.0F, 1 / 24.0F, 1 / 6.0F, 0.5F, 1.0F, 1.0F};
    const Vec bounded = Vec::max(x, Vec::broadcast(kSmallest));
    const Ints k = Ints::rounded(Vec::multiply(bounded, Vec::broadcast(1.44269504F)));
    const Vec whole = Ints::to_floats(k);
    Vec r = Vec::fused(whole, Vec::broadcast(-0.693359375F), bounded);
    r = Vec::fused(whole, Vec::broadcast(2.12194440e-4F), r);
    Vec sum = Vec::broadcast(kTerms[0]);
    for (int i = 1; i < 8; ++i) sum = Vec::fused(sum, r, Vec::broadcast(kTerms[i]));
    // In two factors, which are normal numbers where the result is none.
    const Ints half = Ints::halved(k);
    return Vec::multiply(Vec::multiply(sum, Vec::two_to(half)), Vec::two_to(Ints::subtract(k, half)));
}

// Less the larger, so that nothing overflows: of two values, one then is e^0.
void softmax_vector(const float* in, float* out) {
    Vec a;
    Vec b;
    Vec::deinterleave(in, &a, &b);
    const Vec largest = Vec::max(a, b);
    a = exponential(Vec::subtract(a, largest));
    b = exponential(Vec::subtract(b, largest));
    const Vec sum = Vec::add(a, b);
    Vec::interleave(Vec::divide(a, sum), Vec::divide(b, sum), out);
}

void softmax_pairs(const float* in, float* out, std::size_t count) {
    std::size_t i = 0;
    for (; i + Vec::lanes <= count; i += Vec::lanes) softmax_vector(in + 2 * i, out + 2 * i);
    if (i == count) return;
    float rest[2 * Vec::lanes] = {};
    __builtin_memcpy(rest, in + 2 * i, 2 * (count - i) * sizeof(float));
    softmax_vector(rest, rest);
    __builtin_memcpy(out + 2 * i, rest, 2 * (count - i) * sizeof(float));
}

// e^min(x, 0) / (e^min(x, 0) + e^min(-x, 0)), of which one is e^0.
Vec sigmoid_of(Vec x) {
    const Vec zero = Vec::broadcast(0);
    const Vec a = exponential(Vec::min(x, zero));
    const Vec b = exponential(Vec::min(Vec::subtract(zero, x), zero));
    return Vec::divide(a, Vec::add(a, b));
}

void sigmoid(const float* in, float* out, std::size_t count) {
    std::size_t i = 0;
    for (; i + Vec::lanes <= count; i += Vec::lanes) sigmoid_of(Vec::load(in + i)).store(out + i);
    if (i == count) return;
    float rest[Vec::lanes] = {};
    __builtin_memcpy(rest, in + i, (count - i) * sizeof(float));
    sigmoid_of(Vec::load(rest)).store(rest);
    __builtin_memcpy(out + i, rest, (count - i) * sizeof(float));
}

// Requantization in registers: memory that bytes are written to may be anything, so nothing is read again.
// Plain: as in Requantization.
template <bool kIsPlain>
struct Requantizer {
    explicit Requantizer(const Requantization& to)
        : clamped(to.low, to.high, to.slope),
          zero_point(Ints::broadcast(to.zero_point)) {}

    // But for the lower bound and the type's upper one, and without the zero point.
    Ints narrowed(Ints sums, Vec multipliers) const {
        return narrowed(Vec::multiply(Ints::to_floats(sums), multipliers));
    }

    Ints narrowed(Vec steps) const {
        if constexpr (!kIsPlain)
            steps = Vec::min(Vec::max(steps, Vec::multiply(steps, clamped.slope)), clamped.high);
        return Ints::rounded(steps);
    }

    template <typename T>
    void store(Vec steps, T* out, int count) const {
        const Ints values = Ints::add(Ints::rounded(clamped(steps)), zero_point);
        auto* bytes = reinterpret_cast<std::uint8_t*>(out);
        if (count >= Ints::lanes) return values.store_bytes(bytes);
        if (count > 0) values.store_first_bytes(count, bytes);
    }

    template <typename T>
    void store(Ints sums, Vec multipliers, T* out, int count) const {
        store(Vec::multiply(Ints::to_floats(sums), multipliers), out, count);
    }

    Clamped clamped;
    Ints zero_point;
};

// Calls make(Requantizer<>), without the branch for every vector.
template <typename Make>
__attribute__((always_inline)) inline void with_requantizer(const Requantization& to, const Make& make) {
    if (to.plain) return make(Requantizer<true>(to));
    make(Requantizer<false>(to));
}

template <typename Dot, int kPixels, int kVectors>
struct QuantizedConvTile {
    Ints sums[kPixels][kVectors];
    static constexpr int kRow = kTileChannels * Dot::depth * Dot::weight_bytes;  // of one group, in bytes
    static constexpr int kVector = Ints::lanes * Dot::depth * Dot::weight_bytes;

    template <int kGroup>
    EDGEFACE_IN_REGISTERS void add(const std::byte* weights, const typename Dot::Four* inputs) {
        typename Dot::Weights row[kVectors];
        EDGEFACE_UNROLL
        for (int v = 0; v < kVectors; ++v) row[v] = Dot::load(weights + kGroup * kRow + v * kVector);
        EDGEFACE_UNROLL
        for (int p = 0; p < kPixels; ++p) {
            EDGEFACE_UNROLL
            for (int v = 0; v < kVectors; ++v)
                sums[p][v] = Dot::template dot<kGroup>(row[v], inputs[p], sums[p][v]);
        }
    }

    EDGEFACE_IN_REGISTERS void add_four(const std::byte* weights, const std::byte* input,
                                        std::ptrdiff_t step) {
        typename Dot::Four inputs[kPixels];
        EDGEFACE_UNROLL
        for (int p = 0; p < kPixels; ++p) {
            inputs[p] = Dot::four(input + p * step);
        }
        add<0>(weights, inputs);
        add<1>(weights, inputs);
        add<2>(weights, inputs);
        add<3>(weights, inputs);
    }

    EDGEFACE_IN_REGISTERS void add_one(const std::byte* weights, const std::byte* input,
                                       std::ptrdiff_t step) {
        typename Dot::Four inputs[kPixels];
        EDGEFACE_UNROLL
        for (int p = 0; p < kPixels; ++p) {
            inputs[p] = Dot::one(input + p * step);
        }
        add<0>(weights, inputs);
    }
};

template <typename To, typename I, int kPixels, int kVectors, typename T>
__attribute__((always_inline)) inline void store_packed(const QuantizedConvRun<T>& run, const To& to,
                                                        const I (&sums)[kPixels][kVectors],
                                                        const Vec* multipliers, T* output) {
    constexpr int kTogether = I::packed / kVectors;
    const typename I::Narrowing narrowing(run.to);
    const std::ptrdiff_t step = run.output_step;
    EDGEFACE_UNROLL
    for (int p = 0; p < kPixels; p += kTogether) {
        I values[I::packed];
        EDGEFACE_UNROLL
        for (int i = 0; i < I::packed; ++i)
            values[i] = to.narrowed(sums[p + i / kVectors][i % kVectors], multipliers[i % kVectors]);
        narrowing.template store<kTogether>(values, output, step);
        output += kTogether * step;
    }
}

template <typename To, typename I, int kPixels, int kVectors, typename T>
__attribute__((always_inline)) inline void store_tile(const QuantizedConvRun<T>& run, const To& to,
                                                      const I (&sums)[kPixels][kVectors],
                                                      const Vec* multipliers, T* output, int channels) {
    if constexpr (I::packed > 1 && kPixels * kVectors % I::packed == 0) {
        if (channels >= kVectors * I::lanes) return store_packed(run, to, sums, multipliers, output);
    }
    EDGEFACE_UNROLL
    for (int p = 0; p < kPixels; ++p) {
        EDGEFACE_UNROLL
        for (int v = 0; v < kVectors; ++v) {
            const int at = v * I::lanes;
            to.store(sums[p][v], multipliers[v], output + at, channels - at);
        }
        output += run.output_step;
    }
}

template <typename Dot, int kVectors, int kPixels, typename T>
void quantized_conv_tile(const QuantizedConvRun<T>& run, const std::byte* weights, int pixel, int first,
                         int channels) {
    using Tile = QuantizedConvTile<Dot, kPixels, kVectors>;
    constexpr int kGroupBytes = Dot::depth * Dot::input_bytes;
    Tile tile;
    EDGEFACE_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        const Ints bias = Ints::load(run.bias + first + v * Ints::lanes);
        EDGEFACE_UNROLL
        for (int p = 0; p < kPixels; ++p) {
            tile.sums[p][v] = bias;
        }
    }
    const int groups = (run.channels + Dot::depth - 1) / Dot::depth;
    const std::ptrdiff_t step = run.input_step;
    for (int tap = 0; tap < run.taps; ++tap) {
        const std::byte* input = run.inputs[tap] + pixel * step;
        int group = 0;
        if constexpr (Dot::unrolls) {
            for (; group + kUnrolled <= groups; group += kUnrolled, weights += kUnrolled * Tile::kRow)
                tile.add_four(weights, input + group * kGroupBytes, step);
            input += group * kGroupBytes;
        }
        for (; group < groups; ++group, weights += Tile::kRow, input += kGroupBytes)
            tile.add_one(weights, input, step);
    }
    Vec multipliers[kVectors];
    EDGEFACE_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        multipliers[v] = Vec::load(run.multipliers + first + v * Vec::lanes);
    }
    with_requantizer(run.to, [&](const auto& to) __attribute__((always_inline)) {
        store_tile(run, to, tile.sums, multipliers, run.output + pixel * run.output_step + first, channels);
    });
}

template <typename Dot, int kVectors, typename T>
void quantized_conv_block(const QuantizedConvRun<T>& run, const std::byte* weights, int first, int channels) {
    for_tiles<Dot::tile_pixels>(run.pixels, [&](auto pixels, int pixel) {
        quantized_conv_tile<Dot, kVectors, decltype(pixels)::count>(run, weights, pixel, first, channels);
    });
}

template <typename Dot, typename T>
void quantized_conv(const QuantizedConvRun<T>& run) {
    const std::byte* weights = run.weights;
    const std::ptrdiff_t groups = (run.channels + Dot::depth - 1) / Dot::depth;
    const std::ptrdiff_t block = run.taps * groups * kTileChannels * Dot::depth * Dot::weight_bytes;
    for (int first = 0; first < run.output_channels; first += kTileChannels, weights += block) {
        const int left = run.output_channels - first;
        if (left > kTileChannels / 2) {
            quantized_conv_block<Dot, kTileChannels / Ints::lanes>(run, weights, first, left);
        } else {
            quantized_conv_block<Dot, kTileChannels / Ints::lanes / 2>(run, weights, first, left);
        }
    }
}

template <typename T>
void widen(const T* values, std::byte* prepared, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        const std::int16_t value = values[i];
        __builtin_memcpy(prepared + i * sizeof(value), &value, sizeof(value));
    }
}

template <typename Dot, typename T>
constexpr QuantizedConvKernels<T> conv_kernels(void (*prepare)(const T*, std::byte*, std::size_t)) {
    return {{Dot::depth, Dot::input_bytes, Dot::weight_bytes, Dot::offset}, prepare, quantized_conv<Dot, T>};
}

template <int kTaps, typename To, typename T>
void quantized_depthwise_vector(const QuantizedDepthwiseRun<T>& run, const To& to, int c) {
    const Ints bias = Ints::load(run.bias + c);
    Ints::Factors weights[kTaps];
    const T* inputs[kTaps];
    for (int tap = 0; tap < kTaps; ++tap) {
        weights[tap] = Ints::load_factors(run.weights + static_cast<std::ptrdiff_t>(tap) * run.channels + c);
        inputs[tap] = run.inputs[tap] + c;
    }
    const Vec multipliers = Vec::load(run.multipliers + c);
    const std::ptrdiff_t input_step = run.input_step;
    const std::ptrdiff_t output_step = run.output_step;
    T* output = run.output + c;
    for (int p = 0, pixels = run.pixels; p < pixels; ++p, output += output_step) {
        Ints sum = bias;
        EDGEFACE_UNROLL
        for (int tap = 0; tap < kTaps; ++tap) {
            sum = Ints::multiply_add(sum, Ints::widen(inputs[tap]), weights[tap]);
            inputs[tap] += input_step;
        }
        to.store(sum, multipliers, output, Ints::lanes);
    }
}

template <typename To, typename T>
void quantized_depthwise_vector(const QuantizedDepthwiseRun<T>& run, const To& to, int c) {
    for (int p = 0; p < run.pixels; ++p) {
        Ints sum = Ints::load(run.bias + c);
        for (int tap = 0; tap < run.taps; ++tap) {
            const std::int16_t* weights = run.weights + static_cast<std::ptrdiff_t>(tap) * run.channels + c;
            const Ints values = Ints::widen(run.inputs[tap] + p * run.input_step + c);
            sum = Ints::multiply_add(sum, values, Ints::load_factors(weights));
        }
        to.store(sum, Vec::load(run.multipliers + c), run.output + p * run.output_step + c, Ints::lanes);
    }
}

// The same arithmetic in the first lane.
template <typename T>
void quantized_depthwise_channel(const QuantizedDepthwiseRun<T>& run, int c) {
    const float multipliers[Ints::lanes] = {run.multipliers[c]};
    for (int p = 0; p < run.pixels; ++p) {
        std::int32_t sums[Ints::lanes] = {run.bias[c]};
        for (int tap = 0; tap < run.taps; ++tap) {
            const std::int16_t weight = run.weights[static_cast<std::ptrdiff_t>(tap) * run.channels + c];
            sums[0] += run.inputs[tap][p * run.input_step + c] * weight;
        }
        Requantizer<false>(run.to).store(Ints::load(sums), Vec::load(multipliers),
                                         run.output + p * run.output_step + c, 1);
    }
}

template <typename T>
void quantized_depthwise_narrow(const QuantizedDepthwiseRun<T>& run) {
    std::int16_t weights[9 * Vec::lanes];
    std::int32_t bias[Vec::lanes];
    float multipliers[Vec::lanes];
    repeat_channels(run.weights, run.channels, 9, weights);
    repeat_channels(run.bias, run.channels, 1, bias);
    repeat_channels(run.multipliers, run.channels, 1, multipliers);
    QuantizedDepthwiseRun<T> joined = run;
    joined.weights = weights;
    joined.bias = bias;
    joined.multipliers = multipliers;
    const int together = join_pixels(&joined);
    with_requantizer(run.to, [&](const auto& to) { quantized_depthwise_vector<9>(joined, to, 0); });
    const T* inputs[9];
    const QuantizedDepthwiseRun<T> rest = pixels_from(run, together * joined.pixels, inputs);
    for (int c = 0; c < run.channels; ++c) quantized_depthwise_channel(rest, c);
}

template <typename T>
void quantized_depthwise_from(const QuantizedDepthwiseRun<T>& run, int c) {
    if (c == 0 && has_narrow_pixels(run)) return quantized_depthwise_narrow(run);
    with_requantizer(run.to, [&](const auto& to) {
        for (; c + Ints::lanes <= run.channels; c += Ints::lanes) {
            if (run.taps == 9) {
                quantized_depthwise_vector<9>(run, to, c);
            } else {
                quantized_depthwise_vector(run, to, c);
            }
        }
    });
    for (; c < run.channels; ++c) quantized_depthwise_channel(run, c);
}

template <typename T>
void quantized_depthwise(const QuantizedDepthwiseRun<T>* runs, int rows) {
    for (int row = 0; row < rows; ++row) quantized_depthwise_from(runs[row], 0);
}

// Stored values in steps of another scale; in registers, as a requantizer is.
struct Rescaling {
    Rescaling(int zero_point, float by)
        : offset(Ints::broadcast(-zero_point)),
          ratio(Vec::broadcast(by)) {}

    template <typename T>
    Vec operator()(const T* from) const {
        return Vec::multiply(Ints::to_floats(Ints::add(Ints::widen(from), offset)), ratio);
    }

    Ints offset;
    Vec ratio;
};

// The sum of two such.
struct RescaledSum {
    template <typename T>
    explicit RescaledSum(const QuantizedAddRun<T>& run)
        : a(run.zero_a, run.ratio_a),
          b(run.zero_b, run.ratio_b) {}

    template <typename T>
    Vec operator()(const T* from_a, const T* from_b) const {
        return Vec::add(a(from_a), b(from_b));
    }

    Rescaling a;
    Rescaling b;
};

// As many as fill the vectors that become bytes together; returns how many those are.
template <typename I, typename To, typename T>
std::size_t add_packed(const QuantizedAddRun<T>& run, const RescaledSum& sum, const To& to) {
    constexpr std::size_t kTogether = I::packed * I::lanes;
    const typename I::Narrowing narrowing(run.to);
    std::size_t i = 0;
    for (const std::size_t count = run.count; i + kTogether <= count; i += kTogether) {
        I values[I::packed];
        EDGEFACE_UNROLL
        for (int v = 0; v < I::packed; ++v) {
            const std::size_t at = i + static_cast<std::size_t>(v) * I::lanes;
            values[v] = to.narrowed(sum(run.a + at, run.b + at));
        }
        narrowing.template store<1>(values, run.output + i, 0);
    }
    return i;
}

template <typename T, typename I = Ints>
void quantized_add(const QuantizedAddRun<T>& run) {
    const Requantizer<false> to(run.to);
    const RescaledSum sum(run);
    std::size_t i = 0;
    if constexpr (I::packed > 1) {
        with_requantizer(run.to, [&](const auto& packed) { i = add_packed<I>(run, sum, packed); });
    }
    for (; i + Ints::lanes <= run.count; i += Ints::lanes)
        to.store(sum(run.a + i, run.b + i), run.output + i, Ints::lanes);
    if (i == run.count) return;
    const std::size_t left = run.count - i;
    T a[Ints::lanes] = {};
    T b[Ints::lanes] = {};
    __builtin_memcpy(a, run.a + i, left);
    __builtin_memcpy(b, run.b + i, left);
    to.store(sum(a, b), run.output + i, static_cast<int>(left));
}

static_assert(kTileChannels % (2 * Vec::lanes) == 0, "half a tile must be whole vectors");
static_assert(Ints::lanes == Vec::lanes, "sums are converted vector by vector");
