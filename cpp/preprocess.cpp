#include "preprocess.h"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <utility>

namespace edgeface {
namespace {

// 11 bits a weight, as in OpenCV's fixed-point resize. The horizontal pass keeps 15 bits, so that
// the vertical one can be a multiply-add of 16-bit pairs on every SIMD unit.
constexpr int kWeightBits = 11;
constexpr int kWeightOne = 1 << kWeightBits;
constexpr int kKeptBits = 7;
constexpr int kHorizontalShift = kWeightBits - kKeptBits;
constexpr int kVerticalShift = kWeightBits + kKeptBits;

// Pixel centres coincide: source = (i + 0.5) * from / to - 0.5, clamped to the image. Exact in integers.
Tap tap(int i, std::int64_t from, std::int64_t to) {
    const std::int64_t numerator = (2 * i + 1) * from - to;
    const std::int64_t denominator = 2 * to;
    if (numerator <= 0) return {0, 0, 0};
    const std::int64_t first = numerator / denominator;
    if (first >= from - 1) return {static_cast<int>(from) - 1, static_cast<int>(from) - 1, 0};
    const std::int64_t rest = numerator - first * denominator;
    const std::int64_t weight = (rest * kWeightOne + to) / denominator;
    return {static_cast<int>(first), static_cast<int>(first) + 1, static_cast<int>(weight)};
}

std::vector<Tap> taps(int from, int to) {
    std::vector<Tap> result(static_cast<std::size_t>(to));
    for (int i = 0; i < to; ++i) result[static_cast<std::size_t>(i)] = tap(i, from, to);
    return result;
}

// Rounded to the nearest pixel, never to nothing.
int scaled(int length, std::int64_t numerator, std::int64_t denominator) {
    const std::int64_t rounded = (2 * length * numerator + denominator) / (2 * denominator);
    return static_cast<int>(std::max<std::int64_t>(1, rounded));
}

Size letterboxed(Size frame, Size input) {
    const std::int64_t across = static_cast<std::int64_t>(input.width) * frame.height;
    const std::int64_t down = static_cast<std::int64_t>(input.height) * frame.width;
    if (across <= down) return {input.width, scaled(frame.height, input.width, frame.width)};
    return {scaled(frame.width, input.height, frame.height), input.height};
}

int bytes_per_pixel(Channels channels) {
    switch (channels) {
        case Channels::gray:
            return 1;
        case Channels::bgr:
        case Channels::rgb:
            return 3;
        case Channels::bgra:
        case Channels::rgba:
            return 4;
    }
    return 0;
}

// Horizontal pass over one source row: kColors of each kStep bytes.
template <int kStep, int kColors>
void interpolate_row(const std::uint8_t* pixels, const std::vector<Tap>& columns, std::uint16_t* out) {
    for (const Tap& tap : columns) {
        const std::uint8_t* first = pixels + tap.first * kStep;
        const std::uint8_t* second = pixels + tap.second * kStep;
        for (int c = 0; c < kColors; ++c) {
            const int sum = first[c] * (kWeightOne - tap.weight) + second[c] * tap.weight;
            *out++ = static_cast<std::uint16_t>((sum + (1 << (kHorizontalShift - 1))) >> kHorizontalShift);
        }
    }
}

void interpolate_row(const Frame& frame, int row, const std::vector<Tap>& columns, std::uint16_t* out) {
    const std::uint8_t* pixels = frame.pixels + row * frame.row_stride;
    switch (bytes_per_pixel(frame.channels)) {
        case 1:
            return interpolate_row<1, 1>(pixels, columns, out);
        case 3:
            return interpolate_row<3, 3>(pixels, columns, out);
        default:
            return interpolate_row<4, 3>(pixels, columns, out);
    }
}

void blend_rows(const std::uint16_t* first, const std::uint16_t* second, int weight, std::size_t count,
                std::uint8_t* out) {
    for (std::size_t i = 0; i < count; ++i) {
        const int sum = first[i] * (kWeightOne - weight) + second[i] * weight;
        out[i] = static_cast<std::uint8_t>((sum + (1 << (kVerticalShift - 1))) >> kVerticalShift);
    }
}

// Where a colour of the network sits in an interleaved pixel of the frame.
int source_channel(Channels frame, Order order, int channel) {
    if (frame == Channels::gray) return 0;
    const bool frame_is_rgb = frame == Channels::rgb || frame == Channels::rgba;
    return frame_is_rgb == (order == Order::rgb) ? channel : 2 - channel;
}

// BT.601 luma in 8-bit fixed point, as JPEG and OpenCV weigh the colours.
void to_gray(std::uint8_t* line, int width, bool is_rgb) {
    for (int x = 0; x < width; ++x) {
        const std::uint8_t* pixel = line + 3 * x;
        const int red = pixel[is_rgb ? 0 : 2];
        const int blue = pixel[is_rgb ? 2 : 0];
        line[x] = static_cast<std::uint8_t>((77 * red + 150 * pixel[1] + 29 * blue + 128) >> 8);
    }
}

void write_row(const std::uint8_t* line, int step, Channels channels, const InputSpec& spec, int width,
               const InputView& input, float* out) {
    for (int c = 0; c < input.channels; ++c) {
        const std::uint8_t* source = line + (step == 1 ? 0 : source_channel(channels, spec.channels, c));
        const float mean = spec.mean[static_cast<std::size_t>(c)];
        const float scale = spec.scale[static_cast<std::size_t>(c)];
        float* target = out + c * input.channel_stride;
        for (int x = 0; x < width; ++x) {
            target[x * input.pixel_stride] = (static_cast<float>(source[x * step]) - mean) * scale;
        }
    }
}

void clear(const InputView& input, int x0, int y0, int x1, int y1) {
    for (int c = 0; c < input.channels; ++c) {
        for (int y = y0; y < y1; ++y) {
            float* row = input.data + c * input.channel_stride + y * input.row_stride;
            for (int x = x0; x < x1; ++x) row[x * input.pixel_stride] = 0;
        }
    }
}

}  // namespace

ResizePlan plan_resize(Size frame, Size input, Resize resize) {
    ResizePlan plan;
    plan.from = frame;
    plan.to = resize == Resize::letterbox ? letterboxed(frame, input) : input;
    plan.columns = taps(frame.width, plan.to.width);
    plan.rows = taps(frame.height, plan.to.height);
    const std::size_t line = 3 * static_cast<std::size_t>(plan.to.width);
    plan.interpolated.resize(2 * line);
    plan.line.resize(line);
    plan.placement.scale_x = static_cast<float>(frame.width) / static_cast<float>(plan.to.width);
    plan.placement.scale_y = static_cast<float>(frame.height) / static_cast<float>(plan.to.height);
    return plan;
}

void preprocess(const Frame& frame, const InputSpec& spec, ResizePlan& plan, const InputView& input) {
    assert(frame.size == plan.from);
    const bool gray = frame.channels == Channels::gray;
    const std::size_t count = static_cast<std::size_t>(plan.to.width) * (gray ? 1 : 3);
    std::uint16_t* first = plan.interpolated.data();
    std::uint16_t* second = first + plan.interpolated.size() / 2;
    int held_first = -1;  // which source rows `first` and `second` hold
    int held_second = -1;
    for (int y = 0; y < plan.to.height; ++y) {
        const Tap& tap = plan.rows[static_cast<std::size_t>(y)];
        if (held_second == tap.first && held_first != tap.first) {
            std::swap(first, second);
            std::swap(held_first, held_second);
        }
        if (held_first != tap.first) interpolate_row(frame, held_first = tap.first, plan.columns, first);
        if (tap.weight != 0 && held_second != tap.second) {
            interpolate_row(frame, held_second = tap.second, plan.columns, second);
        }
        blend_rows(first, tap.weight != 0 ? second : first, tap.weight, count, plan.line.data());
        int step = gray ? 1 : 3;
        if (!gray && spec.channels == Order::gray) {
            to_gray(plan.line.data(), plan.to.width,
                    frame.channels == Channels::rgb || frame.channels == Channels::rgba);
            step = 1;
        }
        write_row(plan.line.data(), step, frame.channels, spec, plan.to.width, input,
                  input.data + y * input.row_stride);
    }
    clear(input, plan.to.width, 0, input.size.width, plan.to.height);
    clear(input, 0, plan.to.height, input.size.width, input.size.height);
}

}  // namespace edgeface
