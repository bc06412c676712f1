#include "plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "memory.h"

namespace edgeface::native {
namespace {

std::size_t size_of(int count) { return static_cast<std::size_t>(count); }

int ceil_divide(int a, int b) { return (a + b - 1) / b; }

const float* pixel(const Image& image, int y, int x) {
    return image.data + (static_cast<std::ptrdiff_t>(y) * image.shape.width + x) * image.stride;
}

float* pixel(const Image& image, int p) { return image.data + p * image.stride; }

bool is_dense(const Image& image) { return image.stride == image.shape.channels; }

// The input pixels that one output pixel reads, tap by tap, `step` pointers apart; zeros beyond the edges.
void gather(const Window& window, const Image& input, const float* zeros, int y, int x,
            const float** pointers, int step) {
    for (int ky = 0; ky < window.kernel_height; ++ky) {
        const int row = y * window.stride_y - window.pad_top + ky * window.dilation_y;
        const bool row_inside = row >= 0 && row < input.shape.height;
        for (int kx = 0; kx < window.kernel_width; ++kx) {
            const int column = x * window.stride_x - window.pad_left + kx * window.dilation_x;
            const bool inside = row_inside && column >= 0 && column < input.shape.width;
            *pointers = inside ? pixel(input, row, column) : zeros;
            pointers += step;
        }
    }
}

// Blocks of tile_channels output channels, each as the tile kernel reads it: bias, then a row of weights for
// every tap and input channel; channels that do not exist are zero.
std::vector<float> pack_conv(const Conv& conv, int group, int in_channels, int out_channels,
                             int tile_channels) {
    const int taps = conv.window.taps();
    const int blocks = ceil_divide(out_channels, tile_channels);
    std::vector<float> packed(size_of(blocks) * size_of(1 + taps * in_channels) * size_of(tile_channels));
    float* out = packed.data();
    for (int block = 0; block < blocks; ++block) {
        const int first = block * tile_channels;
        const int count = std::min(tile_channels, out_channels - first);
        const auto channel = [&](int i) { return size_of(group * out_channels + first + i); };
        for (int i = 0; i < count; ++i) out[i] = conv.bias[channel(i)];
        out += tile_channels;
        for (int tap = 0; tap < taps; ++tap) {
            for (int c = 0; c < in_channels; ++c, out += tile_channels) {
                for (int i = 0; i < count; ++i) {
                    out[i] = conv.weight[(channel(i) * size_of(in_channels) + size_of(c)) * size_of(taps) +
                                         size_of(tap)];
                }
            }
        }
    }
    return packed;
}

// A piece is one tile of output pixels, with all its channels.
class ConvStep : public Step {
  public:
    ConvStep(const Conv& conv, const Kernels& kernels, const Image& input, const Image& output)
        : kernels_(kernels),
          window_(conv.window),
          groups_(conv.groups),
          clamp_(conv.clamp),
          input_(input),
          output_(output),
          zeros_(size_of(input.shape.channels)) {
        const int in_channels = input.shape.channels / groups_;
        const int out_channels = output.shape.channels / groups_;
        for (int group = 0; group < groups_; ++group) {
            packed_.push_back(pack_conv(conv, group, in_channels, out_channels, kernels.tile_channels));
        }
    }

    int pieces() const override {
        return ceil_divide(static_cast<int>(output_.shape.pixels()), kernels_.tile_pixels);
    }

    void run(int begin, int end) const override {
        const float* gathered[kMaxTaps * kMaxTilePixels];
        const float* shifted[kMaxTaps * kMaxTilePixels];
        const int total = static_cast<int>(output_.shape.pixels());
        for (int piece = begin; piece < end; ++piece) {
            const int first = piece * kernels_.tile_pixels;
            const int count = std::min(kernels_.tile_pixels, total - first);
            for (int i = 0; i < kernels_.tile_pixels; ++i) {
                // A tile that is not full reads its last pixel again.
                const int p = first + std::min(i, count - 1);
                gather(window_, input_, zeros_.data(), p / output_.shape.width, p % output_.shape.width,
                       gathered + i, kernels_.tile_pixels);
            }
            for (int group = 0; group < groups_; ++group) {
                tile(group, group == 0 ? gathered : shift(gathered, shifted, group), first, count);
            }
        }
    }

  private:
    const float* const* shift(const float* const* gathered, const float** shifted, int group) const {
        const int offset = group * (input_.shape.channels / groups_);
        for (int i = 0; i < window_.taps() * kernels_.tile_pixels; ++i) shifted[i] = gathered[i] + offset;
        return shifted;
    }

    void tile(int group, const float* const* inputs, int first, int count) const {
        ConvTile tile{};
        tile.inputs = inputs;
        tile.taps = window_.taps();
        tile.channels = input_.shape.channels / groups_;
        tile.weights = packed_[size_of(group)].data();
        tile.output_channels = output_.shape.channels / groups_;
        tile.output = pixel(output_, first) + group * tile.output_channels;
        tile.pixels = count;
        tile.output_stride = output_.stride;
        tile.low = clamp_.low;
        tile.high = clamp_.high;
        kernels_.conv_tile(tile);
    }

    const Kernels& kernels_;
    Window window_;
    int groups_;
    Clamp clamp_;
    Image input_;
    Image output_;
    std::vector<float> zeros_;
    std::vector<std::vector<float>> packed_;  // by group
};

// A piece is one row of the output.
class DepthwiseStep : public Step {
  public:
    DepthwiseStep(const Conv& conv, const Kernels& kernels, const Image& input, const Image& output)
        : kernels_(kernels),
          window_(conv.window),
          clamp_(conv.clamp),
          input_(input),
          output_(output),
          zeros_(size_of(input.shape.channels)),
          weights_(conv.bias) {
        const int taps = window_.taps();
        for (int tap = 0; tap < taps; ++tap) {
            for (int c = 0; c < input.shape.channels; ++c)
                weights_.push_back(conv.weight[size_of(c * taps + tap)]);
        }
    }

    int pieces() const override { return output_.shape.height; }

    void run(int begin, int end) const override {
        constexpr int kPixels = 8;
        const float* inputs[kMaxTaps * kPixels];
        for (int y = begin; y < end; ++y) {
            for (int x = 0; x < output_.shape.width; x += kPixels) {
                const int count = std::min(kPixels, output_.shape.width - x);
                for (int i = 0; i < count; ++i) {
                    gather(window_, input_, zeros_.data(), y, x + i, inputs + i * window_.taps(), 1);
                }
                kernels_.depthwise_row({inputs, window_.taps(), count, input_.shape.channels, weights_.data(),
                                        pixel(output_, y * output_.shape.width + x), output_.stride,
                                        clamp_.low, clamp_.high});
            }
        }
    }

  private:
    const Kernels& kernels_;
    Window window_;
    Clamp clamp_;
    Image input_;
    Image output_;
    std::vector<float> zeros_;
    std::vector<float> weights_;
};

// Steps that treat pixels alike: a piece is a run of pixels.
class PixelStep : public Step {
  public:
    explicit PixelStep(const Image& output)
        : output_(output) {}

    int pieces() const override { return ceil_divide(static_cast<int>(output_.shape.pixels()), kPixels); }

    void run(int begin, int end) const override {
        const int last = std::min(end * kPixels, static_cast<int>(output_.shape.pixels()));
        run_pixels(begin * kPixels, last);
    }

  protected:
    virtual void run_pixels(int begin, int end) const = 0;
    const Image& output() const { return output_; }

  private:
    static constexpr int kPixels = 64;
    Image output_;
};

class AddStep : public PixelStep {
  public:
    AddStep(const Add& add, const Kernels& kernels, const Image& a, const Image& b, const Image& output)
        : PixelStep(output),
          kernels_(kernels),
          clamp_(add.clamp),
          a_(a),
          b_(b) {}

  private:
    void run_pixels(int begin, int end) const override {
        const std::size_t channels = size_of(output().shape.channels);
        if (is_dense(a_) && is_dense(b_) && is_dense(output())) {
            return add(begin, size_of(end - begin) * channels);
        }
        for (int p = begin; p < end; ++p) add(p, channels);
    }

    void add(int p, std::size_t count) const {
        kernels_.add(pixel(a_, p), pixel(b_, p), pixel(output(), p), count, clamp_.low, clamp_.high);
    }

    const Kernels& kernels_;
    Clamp clamp_;
    Image a_;
    Image b_;
};

class ReluStep : public PixelStep {
  public:
    ReluStep(const Kernels& kernels, const Image& input, const Image& output)
        : PixelStep(output),
          kernels_(kernels),
          input_(input) {}

  private:
    void run_pixels(int begin, int end) const override {
        const std::size_t channels = size_of(output().shape.channels);
        if (is_dense(input_) && is_dense(output())) return relu(begin, size_of(end - begin) * channels);
        for (int p = begin; p < end; ++p) relu(p, channels);
    }

    void relu(int p, std::size_t count) const {
        kernels_.clamp(pixel(input_, p), pixel(output(), p), count, 0,
                       std::numeric_limits<float>::infinity());
    }

    const Kernels& kernels_;
    Image input_;
};

class SoftmaxStep : public PixelStep {
  public:
    SoftmaxStep(const Image& input, const Image& output)
        : PixelStep(output),
          input_(input) {}

  private:
    void run_pixels(int begin, int end) const override {
        const int channels = output().shape.channels;
        for (int p = begin; p < end; ++p) softmax(pixel(input_, p), pixel(output(), p), channels);
    }

    // Less the largest, so that no exp() overflows.
    static void softmax(const float* in, float* out, int channels) {
        const float largest = *std::max_element(in, in + channels);
        float sum = 0;
        for (int c = 0; c < channels; ++c) sum += out[c] = std::exp(in[c] - largest);
        for (int c = 0; c < channels; ++c) out[c] /= sum;
    }

    Image input_;
};

// What Concat and View come to where memory could not be shared: the same values in the same order.
class CopyStep : public PixelStep {
  public:
    CopyStep(const Image& input, const Image& output)
        : PixelStep(output),
          input_(input) {}

  private:
    void run_pixels(int begin, int end) const override {
        const int in_channels = input_.shape.channels;
        const int out_channels = output().shape.channels;
        int value = begin * out_channels;
        for (int p = begin; p < end; ++p) {
            for (int c = 0; c < out_channels; ++c, ++value) {
                pixel(output(), p)[c] = pixel(input_, value / in_channels)[value % in_channels];
            }
        }
    }

    Image input_;
};

bool is_depthwise(const Conv& conv, const Image& input, const Image& output) {
    return conv.groups > 1 && conv.groups == input.shape.channels && conv.groups == output.shape.channels;
}

// Turns operations into steps; memory has been planned.
class Builder {
  public:
    Builder(const Kernels& kernels, const std::vector<Image>& images)
        : kernels_(kernels),
          images_(images) {}

    void add(const Operation& operation) {
        operation_ = &operation;
        std::visit([this](const auto& op) { build(op); }, operation.op);
    }

    std::vector<std::unique_ptr<Step>> steps;
    std::vector<StepInfo> infos;

  private:
    const Image& input(std::size_t i) const { return images_[size_of(operation_->inputs[i])]; }
    const Image& output() const { return images_[size_of(operation_->output)]; }

    void append(std::unique_ptr<Step> step, const char* kind) {
        steps.push_back(std::move(step));
        infos.push_back({operation_->name, kind, output().shape});
    }

    void build(const Conv& conv) {
        if (is_depthwise(conv, input(0), output())) {
            append(std::make_unique<DepthwiseStep>(conv, kernels_, input(0), output()), "depthwise");
        } else {
            append(std::make_unique<ConvStep>(conv, kernels_, input(0), output()), "conv");
        }
    }

    void build(const Relu&) { append(std::make_unique<ReluStep>(kernels_, input(0), output()), "relu"); }
    void build(const Softmax&) { append(std::make_unique<SoftmaxStep>(input(0), output()), "softmax"); }
    void build(const View&) { copy_unless_shared(input(0), output()); }

    void build(const Add& add) {
        append(std::make_unique<AddStep>(add, kernels_, input(0), input(1), output()), "add");
    }

    void build(const Concat& concat) {
        float* position = output().data;
        for (std::size_t i = 0; i < operation_->inputs.size(); ++i) {
            const Image& part = input(i);
            copy_unless_shared(part, {position, part.shape, output().stride});
            position += concat.axis == Axis::channels
                            ? part.shape.channels
                            : static_cast<std::ptrdiff_t>(part.shape.pixels()) * output().stride;
        }
    }

    void copy_unless_shared(const Image& from, const Image& to) {
        if (from.data != to.data) append(std::make_unique<CopyStep>(from, to), "copy");
    }

    const Kernels& kernels_;
    const std::vector<Image>& images_;
    const Operation* operation_ = nullptr;
};

}  // namespace

Plan::Plan(const Network& network, const Kernels& kernels, int threads)
    : pool_(threads) {
    const MemoryPlan memory = plan_memory(network);
    constexpr std::size_t kCacheLine = 64;
    arena_size_ = memory.size;
    arena_.resize(memory.size + kCacheLine / sizeof(float));
    void* start = arena_.data();
    std::size_t space = arena_.size() * sizeof(float);
    auto* arena = static_cast<float*>(std::align(kCacheLine, memory.size * sizeof(float), start, space));
    for (std::size_t value = 0; value < memory.values.size(); ++value) {
        const Location& location = memory.values[value];
        images_.push_back({arena + location.offset, network.shapes()[value], location.stride});
    }
    Builder builder(kernels, images_);
    for (const Operation& operation : network.operations()) builder.add(operation);
    steps_ = std::move(builder.steps);
    infos_ = std::move(builder.infos);
    for (const auto& [name, value] : network.outputs()) outputs_.emplace(name, images_[size_of(value)]);
}

void Plan::run() {
    pool_.run([](void* plan, int rank) { static_cast<Plan*>(plan)->run_steps(rank); }, this);
}

void Plan::run_steps(int rank) {
    const int threads = pool_.size();
    for (const std::unique_ptr<Step>& step : steps_) {
        const long long pieces = step->pieces();
        step->run(static_cast<int>(pieces * rank / threads), static_cast<int>(pieces * (rank + 1) / threads));
        pool_.wait_for_all();
    }
}

}  // namespace edgeface::native
