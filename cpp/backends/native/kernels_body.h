// The kernels' algorithms, written once on `Vec`; each ISA file defines Vec and the tile, then includes this.
//
// Vec: `static constexpr int lanes`, load, store, broadcast, fused(a, b, c) = a * b + c, add, min, max.
// Everything here has internal linkage and uses no library template: code compiled for one ISA must never
// be what the linker picks for another.

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

template <int kTaps>
void depthwise_pixel(const DepthwiseRow& row, const float* const* inputs, float* output, int taps) {
    const Vec low = Vec::broadcast(row.low);
    const Vec high = Vec::broadcast(row.high);
    int c = 0;
    for (; c + Vec::lanes <= row.channels; c += Vec::lanes) {
        const float* weights = row.weights + c;
        Vec sum = Vec::load(weights);
        for (int tap = 0; tap < (kTaps > 0 ? kTaps : taps); ++tap) {
            weights += row.channels;
            sum = Vec::fused(Vec::load(inputs[tap] + c), Vec::load(weights), sum);
        }
        Vec::min(Vec::max(sum, low), high).store(output + c);
    }
    for (; c < row.channels; ++c) {
        float sum = row.weights[c];
        for (int tap = 0; tap < taps; ++tap)
            sum += inputs[tap][c] * row.weights[(tap + 1) * row.channels + c];
        sum = sum > row.low ? sum : row.low;
        output[c] = sum < row.high ? sum : row.high;
    }
}

void depthwise_row(const DepthwiseRow& row) {
    for (int p = 0; p < row.pixels; ++p) {
        const float* const* inputs = row.inputs + static_cast<std::ptrdiff_t>(p) * row.taps;
        float* output = row.output + p * row.output_stride;
        // Nearly every depthwise layer of these networks is 3x3: unrolled.
        if (row.taps == 9) {
            depthwise_pixel<9>(row, inputs, output, 9);
        } else {
            depthwise_pixel<0>(row, inputs, output, row.taps);
        }
    }
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

static_assert(kTilePixels <= kMaxTilePixels, "the steps' pointer arrays are smaller than the tile");
static_assert(kTileChannels % (2 * Vec::lanes) == 0, "half a tile must be whole vectors");

const Kernels kKernels = {kIsa, kTilePixels, kTileChannels, conv_tile, depthwise_row, add, clamp};
