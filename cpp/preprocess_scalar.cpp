// For the oldest CPU we ship for: what each kernel computes, plainly. Without a shuffle of bytes, the shared
// body is slower than this.
#include "preprocess_kernels.h"

namespace edgeface {
namespace {

// `places` count from kBefore bytes before the window.
template <int kBefore>
void resize_column(const std::uint8_t* window, const std::uint8_t* places, const std::int16_t* weights,
                   std::int16_t* out) {
    for (int c = 0; c < 3; ++c) {
        const int left = window[places[c] - kBefore];
        const int right = window[places[8 + c] - kBefore];
        out[c] = static_cast<std::int16_t>(128 * left + (((right - left) * weights[c] + 128) >> 8));
    }
}

void resize_columns(const Columns& columns, const std::uint8_t* row, std::int16_t* out) {
    const auto [windows, shuffle, weights, count] = columns;
    for (int i = 0; i < count; i += 2) {
        const std::uint8_t* places = shuffle + 8 * i;
        resize_column<0>(row + windows[i], places, weights + 4 * i, out + 4 * i);
        resize_column<kWindow>(row + windows[i + 1], places + 4, weights + 4 * i + 4, out + 4 * i + 4);
    }
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

const PreprocessKernels kKernels = {"scalar",        resize_columns,   blend_rows,
                                    normalise_plane, normalise_pixels, nullptr};

}  // namespace

const PreprocessKernels& scalar_preprocess() { return kKernels; }

}  // namespace edgeface
