// The kernels' algorithms, written once on `Vec` and `Ints`; each ISA file defines those and the tile, then
// includes this.
//
// Vec: `static constexpr int lanes`, load, store, broadcast, fused(a, b, c) = a * b + c, add, multiply, min,
// max.
//
// Ints: as many int32. load, broadcast, add, widen (from int8 or uint8), to_floats, rounded (to the nearest,
// halves to even), store_bytes (the lowest byte of each); multiply_add, of widened values and int16 Factors;
// pair_dot, sums of two products of int16: Pairs, and one pair for all lanes.
//
// Everything here has internal linkage and uses no library template: code compiled for one ISA must never be
// what the linker picks for another.

template <int kVectors>
void conv_block(const ConvTile& tile, const float* weights, float* output, int channels) {
    Vec sums[kTilePixels][kVectors];
    for (int v = 0; v < kVectors; ++v) {
        const Vec bias = Vec::load(weights + v * Vec::lanes);
        for (int p = 0; p < kTilePixels; ++p) sums[p][v] = bias;
    }
    weights += kTileChannels;
    for (int tap = 0; tap < tile.taps; ++tap) {
        const float* const* inputs = tile.inputs + tap * kTilePixels;
        for (int c = 0; c < tile.channels; ++c) {
            Vec row[kVectors];
            for (int v = 0; v < kVectors; ++v) row[v] = Vec::load(weights + v * Vec::lanes);
            for (int p = 0; p < kTilePixels; ++p) {
                const Vec value = Vec::broadcast(inputs[p][c]);
                for (int v = 0; v < kVectors; ++v) sums[p][v] = Vec::fused(value, row[v], sums[p][v]);
            }
            weights += kTileChannels;
        }
    }
    const Vec low = Vec::broadcast(tile.low);
    const Vec high = Vec::broadcast(tile.high);
    for (int p = 0; p < tile.pixels; ++p) {
        float* out = output + p * tile.output_stride;
        for (int v = 0; v < kVectors; ++v) {
            const Vec value = Vec::min(Vec::max(sums[p][v], low), high);
            const int left = channels - v * Vec::lanes;
            if (left >= Vec::lanes) {
                value.store(out + v * Vec::lanes);
            } else {
                float lanes[Vec::lanes];
                value.store(lanes);
                for (int i = 0; i < left; ++i) out[v * Vec::lanes + i] = lanes[i];
            }
        }
    }
}

void conv_tile(const ConvTile& tile) {
    const float* weights = tile.weights;
    const std::ptrdiff_t block = (1 + static_cast<std::ptrdiff_t>(tile.taps) * tile.channels) * kTileChannels;
    for (int done = 0; done < tile.output_channels; done += kTileChannels) {
        const int left = tile.output_channels - done;
        // Heads have 4 to 12 channels: half the tile then does half the work.
        if (left > kTileChannels / 2) {
            conv_block<kTileChannels / Vec::lanes>(tile, weights, tile.output + done, left);
        } else {
            conv_block<kTileChannels / Vec::lanes / 2>(tile, weights, tile.output + done, left);
        }
        weights += block;
    }
}

// One vector of channels of every pixel; all taps' weights stay in registers where their number is known.
template <int kTaps>
void depthwise_vector(const DepthwiseRow& row, int c) {
    const Vec low = Vec::broadcast(row.low);
    const Vec high = Vec::broadcast(row.high);
    const Vec bias = Vec::load(row.weights + c);
    Vec weights[kTaps];
    const float* inputs[kTaps];
    for (int tap = 0; tap < kTaps; ++tap) {
        weights[tap] = Vec::load(row.weights + static_cast<std::ptrdiff_t>(tap + 1) * row.channels + c);
        inputs[tap] = row.inputs[tap] + c;
    }
    for (int p = 0; p < row.pixels; ++p) {
        Vec sum = bias;
        for (int tap = 0; tap < kTaps; ++tap) {
            sum = Vec::fused(Vec::load(inputs[tap]), weights[tap], sum);
            inputs[tap] += row.steps[tap];
        }
        Vec::min(Vec::max(sum, low), high).store(row.output + p * row.output_stride + c);
    }
}

void depthwise_vector(const DepthwiseRow& row, int c) {
    const Vec low = Vec::broadcast(row.low);
    const Vec high = Vec::broadcast(row.high);
    for (int p = 0; p < row.pixels; ++p) {
        const float* weights = row.weights + c;
        Vec sum = Vec::load(weights);
        for (int tap = 0; tap < row.taps; ++tap) {
            weights += row.channels;
            sum = Vec::fused(Vec::load(row.inputs[tap] + p * row.steps[tap] + c), Vec::load(weights), sum);
        }
        Vec::min(Vec::max(sum, low), high).store(row.output + p * row.output_stride + c);
    }
}

void depthwise_channel(const DepthwiseRow& row, int c) {
    for (int p = 0; p < row.pixels; ++p) {
        float sum = row.weights[c];
        for (int tap = 0; tap < row.taps; ++tap) {
            const float weight = row.weights[static_cast<std::ptrdiff_t>(tap + 1) * row.channels + c];
            sum += row.inputs[tap][p * row.steps[tap] + c] * weight;
        }
        sum = sum > row.low ? sum : row.low;
        row.output[p * row.output_stride + c] = sum < row.high ? sum : row.high;
    }
}

void depthwise_row(const DepthwiseRow& row) {
    int c = 0;
    for (; c + Vec::lanes <= row.channels; c += Vec::lanes) {
        // Nearly every depthwise layer of these networks is 3x3: unrolled.
        if (row.taps == 9) {
            depthwise_vector<9>(row, c);
        } else {
            depthwise_vector(row, c);
        }
    }
    for (; c < row.channels; ++c) depthwise_channel(row, c);
}

void add(const float* a, const float* b, float* out, std::size_t count, float low, float high) {
    const Vec lowest = Vec::broadcast(low);
    const Vec highest = Vec::broadcast(high);
    std::size_t i = 0;
    for (; i + Vec::lanes <= count; i += Vec::lanes) {
        const Vec sum = Vec::add(Vec::load(a + i), Vec::load(b + i));
        Vec::min(Vec::max(sum, lowest), highest).store(out + i);
    }
    for (; i < count; ++i) {
        float sum = a[i] + b[i];
        sum = sum > low ? sum : low;
        out[i] = sum < high ? sum : high;
    }
}

void clamp(const float* in, float* out, std::size_t count, float low, float high) {
    const Vec lowest = Vec::broadcast(low);
    const Vec highest = Vec::broadcast(high);
    std::size_t i = 0;
    for (; i + Vec::lanes <= count; i += Vec::lanes) {
        Vec::min(Vec::max(Vec::load(in + i), lowest), highest).store(out + i);
    }
    for (; i < count; ++i) {
        const float value = in[i] > low ? in[i] : low;
        out[i] = value < high ? value : high;
    }
}

template <typename T>
void store_quantized(Ints sums, const float* multipliers, const Requantization& to, T* out, int count) {
    const Vec scaled = Vec::multiply(Ints::to_floats(sums), Vec::load(multipliers));
    const Vec clamped = Vec::min(Vec::max(scaled, Vec::broadcast(to.low)), Vec::broadcast(to.high));
    const Ints values = Ints::add(Ints::rounded(clamped), Ints::broadcast(to.zero_point));
    if (count == Ints::lanes) return values.store_bytes(reinterpret_cast<std::uint8_t*>(out));
    std::uint8_t lanes[Ints::lanes];
    values.store_bytes(lanes);
    __builtin_memcpy(out, lanes, static_cast<std::size_t>(count));
}

// Channels of one tap that are widened at a time: all pixels of a tile then take a few KiB of the stack.
constexpr int kWidened = 128;

template <typename T>
void widen(const T* const* inputs, int first, int count, std::int16_t (*widened)[kWidened]) {
    for (int p = 0; p < kTilePixels; ++p) {
        const T* input = inputs[p] + first;
        for (int c = 0; c < count; ++c) widened[p][c] = input[c];
        // The weights of a pair's missing half are zero, but this must still be a number.
        if (count % 2 != 0) widened[p][count] = 0;
    }
}

template <int kVectors>
const std::int16_t* accumulate_pairs(const std::int16_t (*widened)[kWidened], int pairs,
                                     const std::int16_t* weights, Ints (*sums)[kVectors]) {
    for (int pair = 0; pair < pairs; ++pair) {
        Ints::Pairs row[kVectors];
        for (int v = 0; v < kVectors; ++v) row[v] = Ints::load_pairs(weights + 2 * v * Ints::lanes);
        for (int p = 0; p < kTilePixels; ++p) {
            std::int32_t value;
            __builtin_memcpy(&value, &widened[p][2 * pair], sizeof(value));
            for (int v = 0; v < kVectors; ++v) sums[p][v] = Ints::pair_dot(sums[p][v], value, row[v]);
        }
        weights += 2 * kTileChannels;
    }
    return weights;
}

template <typename T, int kVectors>
void quantized_conv_block(const QuantizedConvTile<T>& tile, const std::int16_t* weights, int first,
                          int channels) {
    Ints sums[kTilePixels][kVectors];
    for (int v = 0; v < kVectors; ++v) {
        const Ints bias = Ints::load(tile.bias + first + v * Ints::lanes);
        for (int p = 0; p < kTilePixels; ++p) sums[p][v] = bias;
    }
    std::int16_t widened[kTilePixels][kWidened];
    for (int tap = 0; tap < tile.taps; ++tap) {
        for (int c = 0; c < tile.channels; c += kWidened) {
            const int count = tile.channels - c < kWidened ? tile.channels - c : kWidened;
            widen(tile.inputs + tap * kTilePixels, c, count, widened);
            weights = accumulate_pairs<kVectors>(widened, (count + 1) / 2, weights, sums);
        }
    }
    for (int p = 0; p < tile.pixels; ++p) {
        for (int v = 0; v < kVectors; ++v) {
            const int at = v * Ints::lanes;
            const int left = channels - at < Ints::lanes ? channels - at : Ints::lanes;
            if (left <= 0) break;
            store_quantized(sums[p][v], tile.multipliers + first + at, tile.to,
                            tile.output + p * tile.output_stride + first + at, left);
        }
    }
}

template <typename T>
void quantized_conv_tile(const QuantizedConvTile<T>& tile) {
    const std::int16_t* weights = tile.weights;
    const std::ptrdiff_t pairs = (tile.channels + 1) / 2;
    for (int first = 0; first < tile.output_channels; first += kTileChannels) {
        const int left = tile.output_channels - first;
        if (left > kTileChannels / 2) {
            quantized_conv_block<T, kTileChannels / Ints::lanes>(tile, weights, first, left);
        } else {
            quantized_conv_block<T, kTileChannels / Ints::lanes / 2>(tile, weights, first, left);
        }
        weights += tile.taps * pairs * 2 * kTileChannels;
    }
}

template <typename T, int kTaps>
void quantized_depthwise_vector(const QuantizedDepthwiseRow<T>& row, int c) {
    const Ints bias = Ints::load(row.bias + c);
    Ints::Factors weights[kTaps];
    const T* inputs[kTaps];
    for (int tap = 0; tap < kTaps; ++tap) {
        weights[tap] = Ints::load_factors(row.weights + static_cast<std::ptrdiff_t>(tap) * row.channels + c);
        inputs[tap] = row.inputs[tap] + c;
    }
    for (int p = 0; p < row.pixels; ++p) {
        Ints sum = bias;
        for (int tap = 0; tap < kTaps; ++tap) {
            sum = Ints::multiply_add(sum, Ints::widen(inputs[tap]), weights[tap]);
            inputs[tap] += row.steps[tap];
        }
        store_quantized(sum, row.multipliers + c, row.to, row.output + p * row.output_stride + c,
                        Ints::lanes);
    }
}

template <typename T>
void quantized_depthwise_vector(const QuantizedDepthwiseRow<T>& row, int c) {
    for (int p = 0; p < row.pixels; ++p) {
        Ints sum = Ints::load(row.bias + c);
        for (int tap = 0; tap < row.taps; ++tap) {
            const std::int16_t* weights = row.weights + static_cast<std::ptrdiff_t>(tap) * row.channels + c;
            const Ints values = Ints::widen(row.inputs[tap] + p * row.steps[tap] + c);
            sum = Ints::multiply_add(sum, values, Ints::load_factors(weights));
        }
        store_quantized(sum, row.multipliers + c, row.to, row.output + p * row.output_stride + c,
                        Ints::lanes);
    }
}

// The same arithmetic in the first lane.
template <typename T>
void quantized_depthwise_channel(const QuantizedDepthwiseRow<T>& row, int c) {
    const float multipliers[Ints::lanes] = {row.multipliers[c]};
    for (int p = 0; p < row.pixels; ++p) {
        std::int32_t sums[Ints::lanes] = {row.bias[c]};
        for (int tap = 0; tap < row.taps; ++tap) {
            const std::int16_t weight = row.weights[static_cast<std::ptrdiff_t>(tap) * row.channels + c];
            sums[0] += row.inputs[tap][p * row.steps[tap] + c] * weight;
        }
        store_quantized(Ints::load(sums), multipliers, row.to, row.output + p * row.output_stride + c, 1);
    }
}

template <typename T>
void quantized_depthwise_row(const QuantizedDepthwiseRow<T>& row) {
    int c = 0;
    for (; c + Ints::lanes <= row.channels; c += Ints::lanes) {
        if (row.taps == 9) {
            quantized_depthwise_vector<T, 9>(row, c);
        } else {
            quantized_depthwise_vector<T>(row, c);
        }
    }
    for (; c < row.channels; ++c) quantized_depthwise_channel(row, c);
}

static_assert(kTilePixels <= kMaxTilePixels, "the steps' pointer arrays are smaller than the tile");
static_assert(kTileChannels % (2 * Vec::lanes) == 0, "half a tile must be whole vectors");

static_assert(Ints::lanes == Vec::lanes, "sums are converted vector by vector");

const Kernels kKernels = {
    kIsa,
    kTilePixels,
    kTileChannels,
    conv_tile,
    depthwise_row,
    add,
    clamp,
    quantized_conv_tile<std::int8_t>,
    quantized_conv_tile<std::uint8_t>,
    quantized_depthwise_row<std::int8_t>,
    quantized_depthwise_row<std::uint8_t>,
};
