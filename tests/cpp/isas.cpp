// Every ISA this CPU has against the scalar kernels: int8 and uint8 to the byte, float32 within rounding. The
// same is tested from Python; this runs where there is no Python, such as under an emulator.
#include <cmath>
#include <cstdio>
#include <cstring>

#include "backends/native/cpu.h"
#include "small_detector.h"

namespace {

using namespace edgeface;
using native::Axis;
using native::Network;
using native::Value;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

native::QuantizedConv make_quantized_conv(std::mt19937& random, int in, int out, int kernel, int stride,
                                          int groups) {
    native::QuantizedConv conv;
    conv.window = {kernel, kernel, stride, stride, 1, 1, kernel / 2, kernel / 2};
    conv.groups = groups;
    conv.clamp = groups > 1 ? native::Clamp{-kInfinity, kInfinity, 0.1F} : native::Clamp{0, kInfinity};
    conv.weight.resize(static_cast<std::size_t>(out * (in / groups) * kernel * kernel));
    for (std::int16_t& weight : conv.weight)
        weight = static_cast<std::int16_t>(static_cast<int>(random() % 255) - 127);
    for (int i = 0; i < out; ++i) {
        conv.bias.push_back(static_cast<int>(random() % 2000) - 1000);
        conv.weight_scale.push_back(0.001F + static_cast<float>(random() % 100) * 1e-4F);
    }
    return conv;
}

// Odd channel counts, every kind of convolution, and joins with and without a change of scale.
Network make_quantized_network(DataType type) {
    std::mt19937 random(3);
    const int zero = type == DataType::uint8 ? 120 : 0;
    const auto scale = [&](float value) { return Quantization{value, zero}; };
    const auto conv = [&](Network& net, int data, int in, int out, int kernel, int stride, int groups,
                          native::Shape shape) {
        return net.conv("conv", data, make_quantized_conv(random, in, out, kernel, stride, groups),
                        {shape, scale(0.05F)});
    };
    Network net({17, 23, 3}, type, scale(0.01F));
    const int stem = conv(net, 0, 3, 37, 3, 2, 1, {9, 12, 37});
    const int deep = conv(net, stem, 37, 37, 3, 1, 37, {9, 12, 37});
    const int wide = conv(net, deep, 37, 131, 1, 1, 1, {9, 12, 131});
    const int narrow = conv(net, wide, 131, 6, 5, 1, 1, {9, 12, 6});
    const int pooled = net.max_pool("pooled", narrow, {3, 3, 2, 2, 1, 1, 1, 1}, 5, 6);
    net.output("like", net.rows("like", net.upsample("like", pooled, 9, 12), 6));
    net.output("shares", net.sigmoid("shares", net.rows("odd", wide, 1), scale(1 / 255.F)));
    const int joined = net.concat("joined", {deep, narrow}, Axis::channels, scale(0.07F));
    const int sum = net.add("sum", joined, joined, {-kInfinity, kInfinity}, scale(0.1F));
    net.output("rows", net.rows("rows", sum, 43));
    net.output("softmax", net.softmax("softmax", net.rows("pairs", narrow, 2), scale(1 / 127.F)));
    return net;
}

// A chain, whose rows are a block of memory of their own: a sanitizer sees what a kernel reads behind it. 80
// channels are what a vector of bytes holds, and a quarter of it.
Network make_chained_network(DataType type) {
    constexpr int kChannels = 80;
    std::mt19937 random(3);
    const Value value{{40, 8, kChannels}, {0.05F, 0}};
    Network net(value.shape, type, value.quantization);
    const int pointwise =
        net.conv("pointwise", 0, make_quantized_conv(random, kChannels, kChannels, 1, 1, 1), value);
    net.output("depthwise",
               net.conv("depthwise", pointwise,
                        make_quantized_conv(random, kChannels, kChannels, 3, 1, kChannels), value));
    return net;
}

// All weights are one number, for sums as large as they get. What a relu makes of the input, 0 or 127, goes
// through the same convolutions as the input itself, -128 or 127.
Network make_extreme_network(int weight) {
    constexpr int kChannels = 32;
    const native::Shape shape{3, 7, kChannels};
    const auto conv = [&](Network& net, const char* name, int data, int kernel, int groups, int all,
                          float scale) {
        native::QuantizedConv op;
        op.window = {kernel, kernel, 1, 1, 1, 1, kernel / 2, kernel / 2};
        op.groups = groups;
        op.clamp = {all == 1 ? 0 : -kInfinity, kInfinity};
        op.weight.assign(static_cast<std::size_t>(kChannels * kChannels / groups * kernel * kernel),
                         static_cast<std::int16_t>(all));
        op.bias.assign(kChannels, 0);
        op.weight_scale.assign(kChannels, 1);
        const int made = net.conv(name, data, op, {shape, {scale, 0}});
        if (all != 1) net.output(name, net.rows(name, made, kChannels));
        return made;
    };
    Network net(shape, DataType::int8, {1, 0});
    const int relu = conv(net, "relu", 0, 1, kChannels, 1, 1);
    conv(net, "dense", 0, 1, 1, weight, 4200);
    conv(net, "deep", 0, 3, kChannels, weight, 1200);
    conv(net, "dense of relu", relu, 1, 1, weight, 4200);
    conv(net, "deep of relu", relu, 3, kChannels, weight, 1200);
    return net;
}

template <typename T>
void fill(native::Engine& engine) {
    const InputView input = engine.input();
    std::mt19937 random(5);
    T* data = static_cast<T*>(input.data);
    for (int i = 0; i < input.size.width * input.size.height * input.channels; ++i) {
        data[i] =
            static_cast<T>(static_cast<int>(random() % 255) - (std::is_same_v<T, std::uint8_t> ? 0 : 127));
    }
}

template <typename T>
std::vector<T> run(const Network& network, const std::string& isa, const std::string& output,
                   const native::CacheSizes& caches = native::cache_sizes()) {
    native::Engine engine(network, 2, isa, caches);
    fill<T>(engine);
    engine.run();
    const OutputView view = engine.output(output);
    const T* data = static_cast<const T*>(view.data);
    return {data, data + view.values()};
}

template <typename T>
int count_different_in_chain(DataType type, const std::string& isa) {
    const Network network = make_chained_network(type);
    native::CacheSizes small = native::cache_sizes();
    small.level2 = 256;
    const std::vector<T> wants = run<T>(network, "scalar", "depthwise");
    const std::vector<T> found = run<T>(network, isa, "depthwise", small);
    int different = 0;
    for (std::size_t i = 0; i < wants.size(); ++i) different += wants[i] != found[i];
    return different;
}

template <typename T>
int count_different(DataType type, const std::string& isa) {
    const Network network = make_quantized_network(type);
    int different = 0;
    for (const char* output : {"rows", "softmax", "like", "shares"}) {
        const std::vector<T> wants = run<T>(network, "scalar", output);
        const std::vector<T> found = run<T>(network, isa, output);
        for (std::size_t i = 0; i < wants.size(); ++i) different += wants[i] != found[i];
    }
    return different + count_different_in_chain<T>(type, isa);
}

std::vector<std::int8_t> run_extreme(int weight, int pattern, const std::string& isa) {
    native::Engine engine(make_extreme_network(weight), 1, isa);
    const InputView input = engine.input();
    auto* data = static_cast<std::int8_t*>(input.data);
    for (int y = 0; y < input.size.height; ++y) {
        for (int i = 0; i < input.size.width * input.channels; ++i)
            data[y * input.row_stride + i] = pattern >> (i % 3) & 1 ? 127 : -128;
    }
    engine.run();
    std::vector<std::int8_t> values;
    for (const char* name : {"dense", "deep", "dense of relu", "deep of relu"}) {
        const OutputView view = engine.output(name);
        const auto* first = static_cast<const std::int8_t*>(view.data);
        values.insert(values.end(), first, first + view.values());
    }
    return values;
}

// The largest weights there are, and those on either side of where one product more would fit in 16 bits: two
// to nine times 128, and four to nine times 64.
int count_overflown(const std::string& isa) {
    int different = 0;
    for (const int weight : {127, 103, 102, 86, 85, 64, 63, 57, 56, 52, 51, 29, 28}) {
        for (const int sign : {-1, 1}) {
            for (int pattern = 0; pattern < 8; ++pattern) {
                const std::vector<std::int8_t> wants = run_extreme(sign * weight, pattern, "scalar");
                const std::vector<std::int8_t> found = run_extreme(sign * weight, pattern, isa);
                for (std::size_t i = 0; i < wants.size(); ++i) different += wants[i] != found[i];
            }
        }
    }
    return different;
}

// Some 500 multiply-adds one after another, each off by half an epsilon of values of some hundreds;
// Winograd's products are up to 30 times as large as what they come to.
int count_far(const std::string& isa) {
    constexpr float kBound = 500 * 1.2e-7F * 1000;
    int far = 0;
    for (const char* output : {"scores", "boxes"}) {
        const std::vector<float> wants = run<float>(test::make_network(), "scalar", output);
        const std::vector<float> found = run<float>(test::make_network(), isa, output);
        for (std::size_t i = 0; i < wants.size(); ++i) far += !(std::abs(wants[i] - found[i]) <= kBound);
    }
    return far;
}

}  // namespace

int main() {
    int failures = 0;
    for (const native::Kernels* kernels : native::available_kernels()) {
        const int int8 = count_different<std::int8_t>(DataType::int8, kernels->isa);
        const int overflown = count_overflown(kernels->isa);
        const int uint8 = count_different<std::uint8_t>(DataType::uint8, kernels->isa);
        const int float32 = count_far(kernels->isa);
        std::printf("%s: %d int8, %d extreme, %d uint8, %d float32 values differ from scalar's\n",
                    kernels->isa, int8, overflown, uint8, float32);
        failures += int8 + overflown + uint8 + float32;
    }
    return failures;
}
