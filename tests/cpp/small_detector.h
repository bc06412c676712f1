// A detector over a small random network with everything in it that the engine plans for.
#pragma once

#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backends/native/engine.h"
#include "detector.h"

namespace edgeface::test {

class Weights {
  public:
    std::vector<float> operator()(int count) {
        std::vector<float> values(static_cast<std::size_t>(count));
        for (float& value : values) value = normal_(random_);
        return values;
    }

  private:
    std::mt19937 random_{1};
    std::normal_distribution<float> normal_{0, 0.3F};
};

inline native::Conv make_conv(Weights& weights, int in, int out, int kernel, int stride, int groups,
                              int dilation = 1) {
    native::Conv conv;
    const int pad = kernel / 2 * dilation;
    conv.window = {kernel, kernel, stride, stride, dilation, dilation, pad, pad};
    conv.groups = groups;
    conv.clamp = {0, std::numeric_limits<float>::infinity()};
    conv.weight = weights(out * (in / groups) * kernel * kernel);
    conv.bias = weights(out);
    return conv;
}

// 32 x 24 pixels, one level of stride 8 with two priors a cell: 4 x 3 x 2 rows.
inline native::Network make_network() {
    using native::Axis;
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    Weights weights;
    native::Network net({24, 32, 3}, DataType::float32, {});
    const int stem = net.conv("stem", 0, make_conv(weights, 3, 12, 3, 2, 1), {12, 16, 12});
    const int deep = net.conv("depthwise", stem, make_conv(weights, 12, 12, 3, 2, 12), {6, 8, 12});
    const int left = net.conv("left", deep, make_conv(weights, 12, 7, 1, 1, 1), {6, 8, 7});
    const int right = net.conv("right", deep, make_conv(weights, 12, 9, 3, 1, 1, 2), {6, 8, 9});
    const int joined = net.concat("joined", {left, right}, Axis::channels, {});
    const int mixed = net.conv("mixed", joined, make_conv(weights, 16, 12, 3, 1, 1), {6, 8, 12});
    const int sum = net.add("sum", mixed, deep, {-kInfinity, kInfinity}, {});
    const int pooled = net.max_pool("pooled", sum, {2, 2, 2, 2, 1, 1, 0, 0}, 3, 4);
    const int again = net.upsample("again", net.sigmoid("sigmoid", pooled, {}), 6, 8);
    const int merged = net.add("merged", sum, again, {-kInfinity, kInfinity, 0.1F}, {});
    const int relu = net.relu("relu", merged, {0, kInfinity}, {});
    const int last = net.conv("last", relu, make_conv(weights, 12, 24, 3, 2, 1), {3, 4, 24});
    const int scores = net.conv("scores.conv", last, make_conv(weights, 24, 4, 1, 1, 1), {3, 4, 4});
    const int boxes = net.conv("boxes.conv", last, make_conv(weights, 24, 8, 3, 1, 1), {3, 4, 8});
    net.output("scores",
               net.softmax("softmax", net.concat("all", {net.rows("s", scores, 2)}, Axis::rows, {}), {}));
    net.output("boxes", net.rows("b", boxes, 4));
    return net;
}

inline ModelSpec make_spec() {
    ModelSpec spec;
    spec.input.size = {32, 24};
    spec.input.mean = {127, 127, 127};
    spec.input.scale = {1 / 128.F, 1 / 128.F, 1 / 128.F};
    spec.priors.strides = {8};
    spec.priors.min_sizes = {{8, 16}};
    spec.priors.variances = {0.1F, 0.2F};
    spec.heads.scores = "scores";
    spec.heads.boxes = "boxes";
    return spec;
}

inline std::unique_ptr<Detector> make_detector(int threads, const std::string& isa = "") {
    Options options;
    options.score_threshold = 0.3F;
    options.nms = {Nms::hard, 0.5F, 0.3F, 1000, 100};
    options.isa = isa;
    return std::make_unique<Detector>(std::make_shared<native::Engine>(make_network(), threads, isa),
                                      make_spec(), options);
}

class RandomFrame {
  public:
    RandomFrame(int width, int height)
        : size_{width, height},
          pixels_(static_cast<std::size_t>(width * height * 3)) {
        std::mt19937 random(7);
        for (std::uint8_t& pixel : pixels_) pixel = static_cast<std::uint8_t>(random());
    }

    Frame frame() const { return {pixels_.data(), size_, size_.width * 3, Channels::bgr}; }
    Rect whole() const { return {0, 0, size_.width, size_.height}; }

  private:
    Size size_;
    std::vector<std::uint8_t> pixels_;
};

}  // namespace edgeface::test
