#include "detector.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "error.h"

namespace edgeface {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double, std::milli>(to - from).count();
}

Frame cut(const Frame& frame, Rect region) {
    Frame part = frame;
    part.size = {region.width, region.height};
    if (is_yuv(frame.channels)) {
        part.chroma_x = region.x % 2;
        part.chroma_y = region.y % 2;
    }
    const int x = is_packed_yuv(frame.channels) ? region.x - part.chroma_x : region.x;
    part.pixels += region.y * frame.row_stride + x * bytes_per_pixel(frame.channels);
    if (has_chroma_plane(frame.channels))
        part.chroma += region.y / 2 * frame.chroma_stride + region.x / 2 * chroma_step(frame.channels);
    return part;
}

// In the pixels that the caller sees.
Box edges_of(Rect region, Point reduction) {
    const float left = static_cast<float>(region.x);
    const float top = static_cast<float>(region.y);
    return {left * reduction.x, top * reduction.y, (left + static_cast<float>(region.width)) * reduction.x,
            (top + static_cast<float>(region.height)) * reduction.y};
}

// Boxes end at the region's edges; landmarks may lie outside, where a cut face has them.
void place(Detection& face, const Placement& placement, const Box& edges) {
    const auto x = [&](float value) { return value * placement.scale_x + placement.offset_x; };
    const auto y = [&](float value) { return value * placement.scale_y + placement.offset_y; };
    face.box = {
        std::clamp(x(face.box.x1), edges.x1, edges.x2), std::clamp(y(face.box.y1), edges.y1, edges.y2),
        std::clamp(x(face.box.x2), edges.x1, edges.x2), std::clamp(y(face.box.y2), edges.y1, edges.y2)};
    for (Point& point : face.landmarks) point = {x(point.x), y(point.y)};
}

template <typename T>
const float* dequantised(const OutputView& output, std::vector<float>& reals) {
    reals.resize(output.values());
    const T* stored = static_cast<const T*>(output.data);
    const auto [scale, zero_point] = output.quantization;
    for (std::size_t i = 0; i < reals.size(); ++i)
        reals[i] = static_cast<float>(stored[i] - zero_point) * scale;
    return reals.data();
}

const float* real_values(const OutputView& output, std::vector<float>& reals) {
    switch (output.type) {
        case DataType::float32:
            return static_cast<const float*>(output.data);
        case DataType::int8:
            return dequantised<std::int8_t>(output, reals);
        case DataType::uint8:
            return dequantised<std::uint8_t>(output, reals);
    }
    return nullptr;
}

// What lay wholly outside has no area left; landmarks may have gone beyond all floats on the way.
bool is_nothing(const Detection& face) {
    const bool empty = face.box.x1 >= face.box.x2 || face.box.y1 >= face.box.y2;
    return empty || std::any_of(face.landmarks.begin(), face.landmarks.end(), [](const Point& point) {
               return !std::isfinite(point.x) || !std::isfinite(point.y);
           });
}

}  // namespace

Detector::Detector(std::shared_ptr<Backend> backend, ModelSpec spec, Options options)
    : backend_(std::move(backend)),
      spec_(std::move(spec)),
      options_(std::move(options)),
      priors_(make_priors(spec_.priors, spec_.input.size)),
      kernels_(select_preprocess(options_.isa)) {
    const Size size = spec_.input.size;
    const std::size_t pixels = static_cast<std::size_t>(size.width) * static_cast<std::size_t>(size.height);
    const std::vector<std::uint8_t> gray(pixels);
    detect({gray.data(), size, size.width, Channels::gray}, {0, 0, size.width, size.height});
}

// Looked at every time: a backend may give another buffer, and preprocessing writes all of the spec's input.
InputView Detector::input() {
    const InputView input = backend_->input();
    if (input.size != spec_.input.size) {
        throw ModelError("the network's input is " + std::to_string(input.size.width) + "x" +
                         std::to_string(input.size.height) + "; the spec says " +
                         std::to_string(spec_.input.size.width) + "x" +
                         std::to_string(spec_.input.size.height));
    }
    const int expected = spec_.input.channels == Order::gray ? 1 : 3;
    if (input.channels != expected) {
        throw ModelError("the network's input has " + std::to_string(input.channels) +
                         " channels; the spec's channel order needs " + std::to_string(expected));
    }
    return input;
}

Head Detector::head(const std::string& name, int min_columns, int max_columns, std::vector<float>& reals) {
    const OutputView output = backend_->output(name);
    if (static_cast<std::size_t>(output.rows) == priors_.size() && output.columns >= min_columns &&
        output.columns <= max_columns) {
        return {real_values(output, reals), output.rows, output.columns};
    }
    throw ModelError("output '" + name + "' has " + std::to_string(output.values()) + " values (" +
                     std::to_string(output.rows) + " x " + std::to_string(output.columns) + "); the spec's " +
                     std::to_string(priors_.size()) + " priors need " +
                     std::to_string(priors_.size() * static_cast<std::size_t>(max_columns)));
}

Heads Detector::heads() {
    Heads heads;
    heads.scores = head(spec_.heads.scores, 1, 2, reals_[0]);
    heads.boxes = head(spec_.heads.boxes, 4, 4, reals_[1]);
    if (has_landmarks()) heads.landmarks = head(spec_.heads.landmarks, 10, 10, reals_[2]);
    if (!spec_.heads.objectness.empty()) heads.objectness = head(spec_.heads.objectness, 1, 1, reals_[3]);
    return heads;
}

Result Detector::detect(const Frame& frame, Rect region) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Clock::time_point start = Clock::now();
    const Frame part = cut(frame, region);
    if (!resize_.fits(part)) resize_ = plan_resize(part, spec_.input, kernels_);
    preprocess(part, spec_.input, resize_, input());
    const Clock::time_point preprocessed = Clock::now();

    backend_->run();
    const Clock::time_point ran = Clock::now();

    Placement placement = resize_.placement;
    const Box edges = edges_of(region, frame.reduction);
    placement.scale_x *= frame.reduction.x;
    placement.scale_y *= frame.reduction.y;
    placement.offset_x = edges.x1;
    placement.offset_y = edges.y1;
    const Point min_face{options_.min_face / placement.scale_x, options_.min_face / placement.scale_y};
    Result result;
    result.faces = non_max_suppression(
        decode(heads(), priors_, spec_, spec_.input.size, options_.score_threshold, min_face), options_.nms);
    for (Detection& face : result.faces) place(face, placement, edges);
    result.faces.erase(std::remove_if(result.faces.begin(), result.faces.end(), is_nothing),
                       result.faces.end());
    const Clock::time_point decoded = Clock::now();
    result.timings = {milliseconds(start, preprocessed), milliseconds(preprocessed, ran),
                      milliseconds(ran, decoded)};
    return result;
}

}  // namespace edgeface
