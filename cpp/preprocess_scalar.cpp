// For the oldest CPU we ship for: what each kernel computes, plainly. Without a shuffle of bytes, the shared
// body is slower than this.
#include "preprocess_kernels.h"

namespace edgeface {
namespace {

// `places` count from kBefore bytes before the window.
template <int kPlaces, int kBefore>
void resize_column(const std::uint8_t* window, const std::uint8_t* places, const std::int16_t* weights,
                   std::int16_t* out) {
    for (int c = 0; c < kPlaces; ++c) {
        const int left = window[places[c] - kBefore];
        const int right = window[places[8 + c] - kBefore];
        out[c] = static_cast<std::int16_t>(128 * left + (((right - left) * weights[c] + 128) >> 8));
    }
}

template <int kPlaces>
void resize_places(const Columns& columns, const std::uint8_t* row, std::int16_t* out) {
    for (int i = 0; i < columns.count; i += 2) {
        const std::int32_t* windows = columns.windows + i;
        const std::uint8_t* places = columns.shuffle + 8 * i;
        const std::int16_t* weights = columns.weights + 4 * i;
        resize_column<kPlaces, 0>(row + windows[0], places, weights, out + 4 * i);
        resize_column<kPlaces, kWindow>(row + windows[1], places + 4, weights + 4, out + 4 * i + 4);
    }
}

void resize_columns(const Columns& columns, const std::uint8_t* row, std::int16_t* out) {
    columns.places == 4 ? resize_places<4>(columns, row, out) : resize_places<3>(columns, row, out);
}

void blend_rows(const std::int16_t* first, const std::int16_t* second, int weight, int count,
                std::uint8_t* out) {
    const std::int16_t* nearer = weight < 1024 ? first : second;
    const auto factor = static_cast<std::int16_t>(32 * (weight < 1024 ? weight : weight - 2048));
    for (int i = 0; i < count; ++i) {
        const auto difference = static_cast<std::int16_t>(second[i] - first[i]);
        const auto sum = static_cast<std::int16_t>(nearer[i] + ((difference * factor) >> 16));
        out[i] = static_cast<std::uint8_t>((sum + 64) >> 7);
    }
}

void normalise_plane(const std::uint8_t* line, int width, int channel, float mean, float scale, float* out) {
    for (int x = 0; x < width; ++x) out[x] = (static_cast<float>(line[4 * x + channel]) - mean) * scale;
}

void normalise_pixels(const std::uint8_t* line, int width, const float* mean, const float* scale,
                      float* out) {
    for (int x = 0; x < width; ++x) {
        for (int c = 0; c < 3; ++c)
            out[3 * x + c] = (static_cast<float>(line[4 * x + c]) - mean[c]) * scale[c];
    }
}

int term(const Samples& samples, int x, int place) {
    // Four pixels' samples lie together; where they begin is that of the first.
    const int value = samples.line[x / 4 * 4 * samples.step + samples.order[x % 4 * 4]];
    return ((value - samples.middle) * samples.factor[place] + 128) >> 8;
}

void convert_pixels(const Samples (&yuv)[3], int width, std::uint8_t* out) {
    for (int x = 0; x < width; ++x) {
        for (int c = 0; c < 3; ++c) {
            const int sum = (term(yuv[0], x, c) + term(yuv[1], x, c) + term(yuv[2], x, c) + 16) >> 5;
            out[4 * x + c] = static_cast<std::uint8_t>(sum < 0 ? 0 : sum > 255 ? 255 : sum);
        }
    }
}

const PreprocessKernels kKernels = {"scalar",         resize_columns, blend_rows, normalise_plane,
                                    normalise_pixels, convert_pixels, nullptr};

}  // namespace

const PreprocessKernels& scalar_preprocess() { return kKernels; }

}  // namespace edgeface
