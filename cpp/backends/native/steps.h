// Operations as they run: over whole images, cut into pieces that threads may do in any order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "kernels.h"
#include "network.h"

namespace edgeface::native {

// Where a value lies: pixel p, channel c is element p * stride + c.
struct Image {
    void* data = nullptr;
    Shape shape;
    std::ptrdiff_t stride = 0;
    Quantization quantization;

    bool is_dense() const { return stride == shape.channels; }
    int pixels() const { return static_cast<int>(shape.pixels()); }
};

template <typename T>
T* pixel(const Image& image, int p) {
    return static_cast<T*>(image.data) + p * image.stride;
}

inline std::size_t size_of(int count) { return static_cast<std::size_t>(count); }

inline int ceil_divide(int a, int b) { return (a + b - 1) / b; }

// The input pixels that the taps of `count` output pixels of one row read, from (x, y) on: tap t of pixel i
// is pointers[t * step + i]; `outside` beyond the edges.
template <typename T>
void gather(const Window& window, const Image& input, const T* outside, int y, int x, int count,
            const T** pointers, int step) {
    const std::ptrdiff_t advance = window.stride_x * input.stride;
    for (int ky = 0; ky < window.kernel_height; ++ky) {
        const int row = y * window.stride_y - window.pad_top + ky * window.dilation_y;
        const bool row_inside = row >= 0 && row < input.shape.height;
        for (int kx = 0; kx < window.kernel_width; ++kx, pointers += step) {
            int column = x * window.stride_x - window.pad_left + kx * window.dilation_x;
            const int last = column + (count - 1) * window.stride_x;
            if (row_inside && column >= 0 && last < input.shape.width) {
                const T* at = pixel<const T>(input, row * input.shape.width + column);
                for (int i = 0; i < count; ++i) pointers[i] = at + i * advance;
                continue;
            }
            for (int i = 0; i < count; ++i, column += window.stride_x) {
                const bool inside = row_inside && column >= 0 && column < input.shape.width;
                pointers[i] = inside ? pixel<const T>(input, row * input.shape.width + column) : outside;
            }
        }
    }
}

class Step {
  public:
    virtual ~Step() = default;
    virtual int pieces() const = 0;
    virtual void run(int begin, int end) const = 0;

    Step() = default;
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;
};

// Steps that treat pixels alike: a piece is a run of pixels.
class PixelStep : public Step {
  public:
    explicit PixelStep(const Image& output)
        : output_(output) {}

    int pieces() const override { return ceil_divide(output_.pixels(), kPixels); }
    void run(int begin, int end) const override {
        run_pixels(begin * kPixels, std::min(end * kPixels, output_.pixels()));
    }

  protected:
    virtual void run_pixels(int begin, int end) const = 0;
    const Image& output() const { return output_; }

  private:
    static constexpr int kPixels = 64;
    Image output_;
};

// Convolutions over tiles of output pixels: finds what a tile reads, group by group. A piece is one tile.
template <typename T>
class TiledStep : public Step {
  public:
    TiledStep(const Window& window, int groups, int tile_pixels, const Image& input, const Image& output)
        : window_(window),
          groups_(groups),
          tile_pixels_(tile_pixels),
          input_(input),
          output_(output),
          outside_(size_of(input.shape.channels), static_cast<T>(input.quantization.zero_point)) {}

    int pieces() const override { return ceil_divide(output_.pixels(), tile_pixels_); }

    void run(int begin, int end) const override {
        const T* gathered[kMaxTaps * kMaxTilePixels];
        for (int piece = begin; piece < end; ++piece) {
            const int first = piece * tile_pixels_;
            const int count = std::min(tile_pixels_, output_.pixels() - first);
            gather_tile(first, count, gathered);
            for (int group = 0; group < groups_; ++group) {
                if (group > 0) advance(gathered);
                run_tile(group, gathered, first, count);
            }
        }
    }

  protected:
    virtual void run_tile(int group, const T* const* inputs, int first, int count) const = 0;
    int groups() const { return groups_; }
    int taps() const { return window_.taps(); }
    int in_channels() const { return input_.shape.channels / groups_; }
    int out_channels() const { return output_.shape.channels / groups_; }
    T* output(int group, int p) const { return pixel<T>(output_, p) + group * out_channels(); }
    std::ptrdiff_t output_stride() const { return output_.stride; }

  private:
    // A tile takes pixels row after row.
    void gather_tile(int first, int count, const T** gathered) const {
        const int width = output_.shape.width;
        for (int done = 0; done < count;) {
            const int x = (first + done) % width;
            const int run = std::min(count - done, width - x);
            gather(window_, input_, outside_.data(), (first + done) / width, x, run, gathered + done,
                   tile_pixels_);
            done += run;
        }
        // One that is not full reads its last pixel again.
        for (int tap = 0; count < tile_pixels_ && tap < taps(); ++tap) {
            const T** pointers = gathered + tap * tile_pixels_;
            std::fill(pointers + count, pointers + tile_pixels_, pointers[count - 1]);
        }
    }

    void advance(const T** gathered) const {
        for (int i = 0; i < taps() * tile_pixels_; ++i) gathered[i] += in_channels();
    }

    Window window_;
    int groups_;
    int tile_pixels_;
    Image input_;
    Image output_;
    std::vector<T> outside_;
};

// What the taps of a run of output pixels read: tap t of pixel p is inputs[t] + p * steps[t].
template <typename T>
struct Taps {
    const T* inputs[kMaxTaps];
    std::ptrdiff_t steps[kMaxTaps];
};

// Depthwise convolutions: a piece is one row of the output, handed on as the pixels whose taps all lie
// inside, and those at the edges one by one.
template <typename T>
class RowStep : public Step {
  public:
    RowStep(const Window& window, const Image& input, const Image& output)
        : window_(window),
          input_(input),
          output_(output),
          outside_(size_of(input.shape.channels), static_cast<T>(input.quantization.zero_point)) {
        const int reach = (window.kernel_width - 1) * window.dilation_x - window.pad_left;
        const int width = output.shape.width;
        inside_begin_ = std::min(width, ceil_divide(window.pad_left, window.stride_x));
        const int room = input.shape.width - 1 - reach;
        inside_end_ = room < 0 ? inside_begin_ : std::clamp(room / window.stride_x + 1, inside_begin_, width);
    }

    int pieces() const override { return output_.shape.height; }

    void run(int begin, int end) const override {
        for (int y = begin; y < end; ++y) {
            for (int x = 0; x < inside_begin_; ++x) run_from(y, x, 1);
            if (inside_end_ > inside_begin_) run_from(y, inside_begin_, inside_end_ - inside_begin_);
            for (int x = inside_end_; x < output_.shape.width; ++x) run_from(y, x, 1);
        }
    }

  protected:
    virtual void run_pixels(const Taps<T>& taps, int count, T* output) const = 0;
    int taps() const { return window_.taps(); }
    int channels() const { return input_.shape.channels; }
    std::ptrdiff_t output_stride() const { return output_.stride; }

  private:
    void run_from(int y, int x, int count) const {
        Taps<T> taps;
        gather(window_, input_, outside_.data(), y, x, 1, taps.inputs, 1);
        for (int tap = 0; tap < window_.taps(); ++tap) {
            taps.steps[tap] = taps.inputs[tap] == outside_.data() ? 0 : window_.stride_x * input_.stride;
        }
        run_pixels(taps, count, pixel<T>(output_, y * output_.shape.width + x));
    }

    Window window_;
    Image input_;
    Image output_;
    std::vector<T> outside_;
    int inside_begin_ = 0;  // of the columns whose taps all lie inside
    int inside_end_ = 0;
};

inline bool is_depthwise(int groups, const Image& input, const Image& output) {
    return groups > 1 && groups == input.shape.channels && groups == output.shape.channels;
}

// The makers: one for every operation and type. They pack weights; what they are given has been checked.
std::unique_ptr<Step> make_conv(const Conv& conv, const Kernels& kernels, const Image& input,
                                const Image& output);
std::unique_ptr<Step> make_add(const Add& add, const Kernels& kernels, const Image& a, const Image& b,
                               const Image& output);
std::unique_ptr<Step> make_relu(const Kernels& kernels, const Image& input, const Image& output);
std::unique_ptr<Step> make_softmax(const Image& input, const Image& output);
// The same values in the same order: what Concat and View come to where memory could not be shared.
std::unique_ptr<Step> make_copy(const Image& input, const Image& output);

// For T = std::int8_t and std::uint8_t.
template <typename T>
std::unique_ptr<Step> make_quantized_conv(const QuantizedConv& conv, const Kernels& kernels,
                                          const Image& input, const Image& output);
template <typename T>
std::unique_ptr<Step> make_quantized_add(const Add& add, const Image& a, const Image& b, const Image& output);
template <typename T>
std::unique_ptr<Step> make_quantized_relu(const Image& input, const Image& output);
template <typename T>
std::unique_ptr<Step> make_quantized_softmax(const Image& input, const Image& output);
template <typename T>
std::unique_ptr<Step> make_quantized_copy(const Image& input, const Image& output);

}  // namespace edgeface::native
