#include <cmath>

#include "steps.h"

namespace edgeface::native {
namespace {

class ConvStep : public WindowStep<float> {
  public:
    ConvStep(const Conv& conv, const Kernels& kernels, const Image& input, const Image& output)
        : WindowStep(conv.window, input),
          kernel_(kernels.conv),
          clamp_(conv.clamp),
          folds_(folds(conv.window, conv.groups, input)),
          in_channels_(input.shape.channels / conv.groups),
          out_channels_(output.shape.channels / conv.groups) {
        for (int group = 0; group < conv.groups; ++group)
            packed_.push_back(pack_conv(conv, group, in_channels_, out_channels_, kernels.tile_channels));
    }

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        const Image& input = *inputs[0];
        if (is_pointwise()) {
            for_each_run({&output, &input}, rows, [&](int y, int pixels) {
                const float* first = row<const float>(input, y);
                run_groups(&first, 1, input, output, y, pixels);
            });
            return;
        }
        const int columns = folds_ ? 1 : window().kernel_width;
        for (int y = rows.begin; y < rows.end; ++y) {
            const float* taps[kMaxTaps];
            find_taps(input, y, columns, taps);
            run_groups(taps, window().kernel_height * columns, input, output, y, output.shape.width);
        }
    }

  private:
    void run_groups(const float** taps, int count, const Image& input, const Image& output, int y,
                    int pixels) const {
        float* out = row<float>(output, y);
        for (const std::vector<float>& packed : packed_) {
            kernel_({taps, count, folds_ ? in_channels_ * window().kernel_width : in_channels_,
                     input_step(input), packed.data(), out, pixels, out_channels_, output.stride, clamp_.low,
                     clamp_.high, clamp_.slope});
            for (int i = 0; i < count; ++i) taps[i] += in_channels_;
            out += out_channels_;
        }
    }

    void (*kernel_)(const ConvRun&);
    Clamp clamp_;
    bool folds_;
    int in_channels_;  // of a group
    int out_channels_;
    std::vector<std::vector<float>> packed_;  // by group
};

class DepthwiseStep : public WindowStep<float> {
  public:
    DepthwiseStep(const Conv& conv, const Kernels& kernels, const Image& input)
        : WindowStep(conv.window, input),
          kernel_(kernels.depthwise),
          clamp_(conv.clamp),
          weights_(conv.bias) {
        for (int tap = 0; tap < window().taps(); ++tap) {
            for (int c = 0; c < channels(); ++c)
                weights_.push_back(conv.weight[size_of(c * window().taps() + tap)]);
        }
    }

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        const Image& input = *inputs[0];
        const int columns = window().kernel_width;
        for (int y = rows.begin; y < rows.end; ++y) {
            const float* taps[kMaxTaps];
            find_taps(input, y, columns, taps);
            kernel_({taps, window().taps(), input_step(input), columns == 3 ? column_step(input) : 0,
                     weights_.data(), row<float>(output, y), output.shape.width, channels(), output.stride,
                     clamp_.low, clamp_.high, clamp_.slope});
        }
    }

  private:
    void (*kernel_)(const DepthwiseRun&);
    Clamp clamp_;
    std::vector<float> weights_;
};

class AddStep : public Step {
  public:
    AddStep(const Add& add, const Kernels& kernels)
        : kernel_(kernels.add),
          clamp_(add.clamp) {}

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        const Image& a = *inputs[0];
        const Image& b = *inputs[1];
        for_each_stretch({&output, &a, &b}, rows, [&](int y, int x, int count) {
            kernel_(pixel<const float>(a, y, x), pixel<const float>(b, y, x), pixel<float>(output, y, x),
                    size_of(count), clamp_.low, clamp_.high, clamp_.slope);
        });
    }

  private:
    void (*kernel_)(const float*, const float*, float*, std::size_t, float, float, float);
    Clamp clamp_;
};

class ReluStep : public Step {
  public:
    ReluStep(const Relu& relu, const Kernels& kernels)
        : kernel_(kernels.clamp),
          clamp_(relu.clamp) {}

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        const Image& input = *inputs[0];
        for_each_stretch({&output, &input}, rows, [&](int y, int x, int count) {
            kernel_(pixel<const float>(input, y, x), pixel<float>(output, y, x), size_of(count), clamp_.low,
                    clamp_.high, clamp_.slope);
        });
    }

  private:
    void (*kernel_)(const float*, float*, std::size_t, float, float, float);
    Clamp clamp_;
};

class SigmoidStep : public Step {
  public:
    explicit SigmoidStep(const Kernels& kernels)
        : kernel_(kernels.sigmoid) {}

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        const Image& input = *inputs[0];
        for_each_stretch({&output, &input}, rows, [&](int y, int x, int count) {
            kernel_(pixel<const float>(input, y, x), pixel<float>(output, y, x), size_of(count));
        });
    }

  private:
    void (*kernel_)(const float*, float*, std::size_t);
};

// Less the largest, so that no exp() overflows.
void softmax(const float* in, float* out, int channels) {
    const float largest = *std::max_element(in, in + channels);
    float sum = 0;
    for (int c = 0; c < channels; ++c) sum += out[c] = std::exp(in[c] - largest);
    for (int c = 0; c < channels; ++c) out[c] /= sum;
}

class SoftmaxStep : public Step {
  public:
    explicit SoftmaxStep(const Kernels& kernels)
        : pairs_(kernels.softmax_pairs) {}

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        const Image& input = *inputs[0];
        const int channels = output.shape.channels;
        for_each_stretch({&output, &input}, rows, [&](int y, int x, int count) {
            const float* in = pixel<const float>(input, y, x);
            float* out = pixel<float>(output, y, x);
            if (channels == 2) return pairs_(in, out, size_of(count / 2));
            for (int i = 0; i < count; i += channels) softmax(in + i, out + i, channels);
        });
    }

  private:
    void (*pairs_)(const float*, float*, std::size_t);
};

class CopyStep : public Step {
  public:
    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        const Image& input = *inputs[0];
        if (!(input.shape == output.shape)) {
            return for_each_value<float>(input, output, rows,
                                         [](const float* from, float* to) { *to = *from; });
        }
        for_each_stretch({&output, &input}, rows, [&](int y, int x, int count) {
            std::copy_n(pixel<const float>(input, y, x), count, pixel<float>(output, y, x));
        });
    }
};

}  // namespace

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

std::unique_ptr<Step> make_conv(const Conv& conv, const Kernels& kernels, const Image& input,
                                const Image& output) {
    if (is_depthwise(conv.groups, input, output)) {
        return std::make_unique<DepthwiseStep>(conv, kernels, input);
    }
    if (wins_by_winograd(conv, input.shape, output.shape))
        return make_winograd_conv(conv, kernels, input, output);
    return std::make_unique<ConvStep>(conv, kernels, input, output);
}

std::unique_ptr<Step> make_add(const Add& add, const Kernels& kernels) {
    return std::make_unique<AddStep>(add, kernels);
}

std::unique_ptr<Step> make_relu(const Relu& relu, const Kernels& kernels) {
    return std::make_unique<ReluStep>(relu, kernels);
}

std::unique_ptr<Step> make_sigmoid(const Kernels& kernels) { return std::make_unique<SigmoidStep>(kernels); }

std::unique_ptr<Step> make_softmax(const Kernels& kernels) { return std::make_unique<SoftmaxStep>(kernels); }

std::unique_ptr<Step> make_copy() { return std::make_unique<CopyStep>(); }

}  // namespace edgeface::native
