// Operations as they run: some rows of the output at a time, which threads may do in any order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <vector>

#include "kernels.h"
#include "network.h"

namespace edgeface::native {

// Where a value lies: row y, pixel x, channel c is element y % rows * pitch + x * stride + c.
struct Image {
    void* data = nullptr;
    Shape shape;
    std::ptrdiff_t stride = 0;
    std::ptrdiff_t pitch = 0;
    int rows = 0;    // that the memory holds: all, or the latest of them
    int margin = 0;  // pixels before and behind every row; they hold the zero point
    Quantization quantization;
    int reach = kWholeReach;

    // One row after another, with nothing between them.
    bool is_flat() const { return pitch == shape.width * stride; }
    bool is_dense() const { return is_flat() && stride == shape.channels; }
};

// Half open.
struct Rows {
    int begin = 0;
    int end = 0;
};

template <typename T>
T* row(const Image& image, int y) {
    return static_cast<T*>(image.data) + y % image.rows * image.pitch;
}

inline std::size_t size_of(std::ptrdiff_t count) { return static_cast<std::size_t>(count); }

inline int ceil_divide(int a, int b) { return (a + b - 1) / b; }

inline int round_up(int value, int multiple) { return ceil_divide(value, multiple) * multiple; }

// Calls work(first row, pixels) for runs of pixels that are evenly spaced in all images. Of a wider image, a
// run is its first pixels of one row.
template <typename Work>
void for_each_run(std::initializer_list<const Image*> images, Rows rows, const Work& work) {
    const int width = (*images.begin())->shape.width;
    for (int y = rows.begin, count = 0; y < rows.end; y += count) {
        count = rows.end - y;
        for (const Image* image : images) {
            const bool goes_on = image->is_flat() && image->shape.width == width;
            count = std::min(count, goes_on ? image->rows - y % image->rows : 1);
        }
        work(y, count * width);
    }
}

template <typename T>
T* pixel(const Image& image, int y, int x) {
    return row<T>(image, y) + x * image.stride;
}

// Calls work(row, pixel, count) for stretches of `count` values that are side by side in all images, which
// have one shape.
template <typename Work>
void for_each_stretch(std::initializer_list<const Image*> images, Rows rows, const Work& work) {
    const int channels = (*images.begin())->shape.channels;
    const bool together = std::all_of(images.begin(), images.end(),
                                      [&](const Image* image) { return image->stride == channels; });
    for_each_run(images, rows, [&](int y, int pixels) {
        if (together) return work(y, 0, pixels * channels);
        for (int x = 0; x < pixels; ++x) work(y, x, channels);
    });
}

// Calls work(from, to) for every value, in row-major order: the images' shapes may differ.
template <typename T, typename Work>
void for_each_value(const Image& input, const Image& output, Rows rows, const Work& work) {
    const auto at = [](const Image& image, int value) {
        const int channels = image.shape.channels;
        const int in_row = image.shape.width * channels;
        return pixel<T>(image, value / in_row, value % in_row / channels) + value % channels;
    };
    const int in_row = output.shape.width * output.shape.channels;
    for (int value = rows.begin * in_row; value < rows.end * in_row; ++value)
        work(static_cast<const T*>(at(input, value)), at(output, value));
}

class Step {
  public:
    virtual ~Step() = default;

    // Makes rows of the output. Inputs and output lie as they did when the step was made, but elsewhere.
    virtual void run(const Image* const* inputs, const Image& output, Rows rows,
                     std::byte* scratch) const = 0;
    // The rows of its only input that rows of the output need; some may lie outside.
    virtual Rows reads(Rows rows) const { return rows; }
    // How many rows those are at most, for so many rows of the output wherever they are.
    virtual int span(int rows) const {
        const Rows read = reads({0, rows});
        return read.end - read.begin;
    }
    // So many rows at a time take less than one by one, a power of two: rows given to run() begin with a
    // multiple of it, and end with one or with the image.
    virtual int together() const { return 1; }
    // Bytes that run() needs, for every thread its own.
    virtual std::size_t scratch() const { return 0; }

    Step() = default;
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;
};

// The part of a convolution that is the same for all types and kernels: where its taps are.
template <typename T>
class WindowStep : public Step {
  public:
    WindowStep(const Window& window, const Image& input)
        : window_(window),
          channels_(input.shape.channels),
          height_(input.shape.height),
          margin_(input.margin * input.stride),
          blank_(size_of(input.pitch + 2 * margin_ + input.stride) + kSlack,
                 static_cast<T>(input.quantization.zero_point)) {}

    Rows reads(Rows rows) const override {
        const int reach = (window_.kernel_height - 1) * window_.dilation_y;
        return {rows.begin * window_.stride_y - window_.pad_top,
                (rows.end - 1) * window_.stride_y - window_.pad_top + reach + 1};
    }

  protected:
    // Kernels may read a little past the last value.
    static constexpr std::size_t kSlack = 64;

    const Window& window() const { return window_; }
    int channels() const { return channels_; }
    bool is_pointwise() const {
        return window_.taps() == 1 && window_.stride_y == 1 && window_.stride_x == 1 &&
               window_.pad_top == 0 && window_.pad_left == 0;
    }

    // What the first pixel of an output row reads with the first tap of a row of the window.
    const T* tap_row(const Image& input, int y, int kernel_row) const {
        const int at = y * window_.stride_y - window_.pad_top + kernel_row * window_.dilation_y;
        const bool inside = at >= 0 && at < height_;
        const T* first = inside ? row<const T>(input, at) : blank_.data() + margin_;
        return first - window_.pad_left * input.stride;
    }

    // The same with every tap, `columns` of them in a row.
    void find_taps(const Image& input, int y, int columns, const T** taps) const {
        const std::ptrdiff_t step = column_step(input);
        for (int ky = 0; ky < window_.kernel_height; ++ky) {
            const T* first = tap_row(input, y, ky);
            for (int kx = 0; kx < columns; ++kx) *taps++ = first + kx * step;
        }
    }

    std::ptrdiff_t input_step(const Image& input) const { return window_.stride_x * input.stride; }
    std::ptrdiff_t column_step(const Image& input) const { return window_.dilation_x * input.stride; }

  private:
    Window window_;
    int channels_;
    int height_;
    std::ptrdiff_t margin_;
    std::vector<T> blank_;  // a row beyond the edges
};

// A row of taps side by side in memory is one tap with more channels.
inline bool folds(const Window& window, int groups, const Image& input) {
    return groups == 1 && window.kernel_width > 1 && window.dilation_x == 1 &&
           input.stride == input.shape.channels;
}

inline bool is_depthwise(int groups, const Image& input, const Image& output) {
    return groups > 1 && groups == input.shape.channels && groups == output.shape.channels;
}

// Blocks of tile_channels output channels, each as the kernel reads it: bias, then a row of weights for every
// tap and input channel; channels that do not exist are zero.
std::vector<float> pack_conv(const Conv& conv, int group, int in_channels, int out_channels,
                             int tile_channels);

// Whether a convolution takes less time by Winograd's products.
bool wins_by_winograd(const Conv& conv, const Shape& input, const Shape& output);

// The makers: one for every operation and type. They pack weights; what they are given has been checked.
std::unique_ptr<Step> make_conv(const Conv& conv, const Kernels& kernels, const Image& input,
                                const Image& output);
std::unique_ptr<Step> make_winograd_conv(const Conv& conv, const Kernels& kernels, const Image& input,
                                         const Image& output);
std::unique_ptr<Step> make_add(const Add& add, const Kernels& kernels);
std::unique_ptr<Step> make_relu(const Relu& relu, const Kernels& kernels);
std::unique_ptr<Step> make_sigmoid(const Kernels& kernels);
std::unique_ptr<Step> make_softmax(const Kernels& kernels);
// The same values in the same order: what Concat and View come to where memory could not be shared.
std::unique_ptr<Step> make_copy();

// For every type: they only choose among values.
template <typename T>
std::unique_ptr<Step> make_max_pool(const MaxPool& pool, const Kernels& kernels, const Image& input);
std::unique_ptr<Step> make_upsample(const Image& input, const Image& output, int bytes_of_value);

// For T = std::int8_t and std::uint8_t.
template <typename T>
std::unique_ptr<Step> make_quantized_conv(const QuantizedConv& conv, const Kernels& kernels,
                                          const Image& input, const Image& output);
template <typename T>
std::unique_ptr<Step> make_quantized_add(const Add& add, const Kernels& kernels, const Image& a,
                                         const Image& b, const Image& output);
template <typename T>
std::unique_ptr<Step> make_quantized_relu(const Relu& relu, const Kernels& kernels, const Image& input,
                                          const Image& output);
template <typename T>
std::unique_ptr<Step> make_quantized_sigmoid(const Image& input, const Image& output);
template <typename T>
std::unique_ptr<Step> make_quantized_softmax(const Image& input, const Image& output);
template <typename T>
std::unique_ptr<Step> make_quantized_copy(const Kernels& kernels, const Image& input, const Image& output);

}  // namespace edgeface::native
