// Operations that choose among the values they read: the same code for every type.
#include <cstring>

#include "steps.h"

namespace edgeface::native {
namespace {

template <typename T>
void (*max_pool_kernel(const Kernels& kernels))(const MaxPoolRun<T>&) {
    if constexpr (std::is_same_v<T, float>) return kernels.max_pool;
    if constexpr (std::is_same_v<T, std::int8_t>) return kernels.int8.max_pool;
    if constexpr (std::is_same_v<T, std::uint8_t>) return kernels.uint8.max_pool;
}

// Taps beyond the edges become the nearest pixel on the image. It is in the same window, as no padding is as
// large as one, and a value that is there twice changes no maximum.
template <typename T>
class MaxPoolStep : public WindowStep<T> {
  public:
    MaxPoolStep(const MaxPool& pool, const Kernels& kernels, const Image& input)
        : WindowStep<T>(pool.window, input),
          kernel_(max_pool_kernel<T>(kernels)) {}

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        const Window& window = this->window();
        const Image& input = *inputs[0];
        const int first = std::min(ceil_divide(window.pad_left, window.stride_x), output.shape.width);
        const int free = input.shape.width + window.pad_left - window.kernel_width;
        const int last = std::clamp(free < 0 ? 0 : free / window.stride_x + 1, first, output.shape.width);
        for (int y = rows.begin; y < rows.end; ++y) {
            for (int x = 0; x < first; ++x) run_pixels(input, output, y, x, 1);
            if (first < last) run_pixels(input, output, y, first, last - first);
            for (int x = last; x < output.shape.width; ++x) run_pixels(input, output, y, x, 1);
        }
    }

  private:
    // More than one only where all their taps lie on the image.
    void run_pixels(const Image& input, const Image& output, int y, int x, int pixels) const {
        const Window& window = this->window();
        const T* taps[kMaxTaps];
        int count = 0;
        for (int ky = 0; ky < window.kernel_height; ++ky) {
            const int at = y * window.stride_y - window.pad_top + ky;
            const int in_y = std::clamp(at, 0, input.shape.height - 1);
            for (int kx = 0; kx < window.kernel_width; ++kx) {
                const int in_x = x * window.stride_x - window.pad_left + kx;
                taps[count++] = pixel<const T>(input, in_y, std::clamp(in_x, 0, input.shape.width - 1));
            }
        }
        kernel_({taps, count, this->input_step(input), pixel<T>(output, y, x), pixels, output.shape.channels,
                 output.stride});
    }

    void (*kernel_)(const MaxPoolRun<T>&);
};

class UpsampleStep : public Step {
  public:
    UpsampleStep(const Image& input, const Image& output, int bytes_of_value)
        : in_height_(input.shape.height),
          height_(output.shape.height),
          bytes_(bytes_of_value) {
        for (int x = 0; x < output.shape.width; ++x)
            columns_.push_back(scaled(x, input.shape.width, output.shape.width));
    }

    Rows reads(Rows rows) const override {
        return {scaled(rows.begin, in_height_, height_), scaled(rows.end - 1, in_height_, height_) + 1};
    }

    int span(int rows) const override { return scaled(rows - 1, in_height_, height_) + 2; }

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        const Image& input = *inputs[0];
        const std::size_t size = size_of(output.shape.channels * bytes_);
        for (int y = rows.begin; y < rows.end; ++y) {
            const std::byte* from = row_bytes(input, scaled(y, in_height_, height_));
            std::byte* to = row_bytes(output, y);
            for (const int column : columns_) {
                std::memcpy(to, from + column * input.stride * bytes_, size);
                to += output.stride * bytes_;
            }
        }
    }

  private:
    static int scaled(int at, int from, int to) { return static_cast<int>(std::int64_t{at} * from / to); }

    std::byte* row_bytes(const Image& image, int y) const {
        return static_cast<std::byte*>(image.data) + y % image.rows * image.pitch * bytes_;
    }

    int in_height_;
    int height_;
    int bytes_;                 // of a value
    std::vector<int> columns_;  // of the input, by those of the output
};

}  // namespace

template <typename T>
std::unique_ptr<Step> make_max_pool(const MaxPool& pool, const Kernels& kernels, const Image& input) {
    return std::make_unique<MaxPoolStep<T>>(pool, kernels, input);
}

template std::unique_ptr<Step> make_max_pool<float>(const MaxPool&, const Kernels&, const Image&);
template std::unique_ptr<Step> make_max_pool<std::int8_t>(const MaxPool&, const Kernels&, const Image&);
template std::unique_ptr<Step> make_max_pool<std::uint8_t>(const MaxPool&, const Kernels&, const Image&);

std::unique_ptr<Step> make_upsample(const Image& input, const Image& output, int bytes_of_value) {
    return std::make_unique<UpsampleStep>(input, output, bytes_of_value);
}

}  // namespace edgeface::native
