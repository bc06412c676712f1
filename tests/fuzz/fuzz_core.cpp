// Fuzzes the steps around the network: preprocess, decode, non_max_suppression, and all of them in a
// Detector.
//
// With clang, libFuzzer drives; tests/fuzz/README.md has the commands.
//
// What Python has checked before the core sees it is kept here too: sizes from 1, numbers of a spec finite in
// float32, positive scales, counts from 1. Everything else is free, above all what a network answers.

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "backends/native/cpu.h"
#include "decode.h"
#include "detector.h"
#include "error.h"
#include "nms.h"
#include "preprocess.h"
#include "priors.h"
#include "target.h"

namespace {

using namespace edgeface;
using fuzz::expect;
using fuzz::Input;

// --- Values that Python would let through ------------------------------------------------------------

InputSpec make_input_spec(Input& in) {
    InputSpec spec;
    spec.size = {in.from(1, 40), in.from(1, 40)};
    spec.channels = in.one_of({Order::rgb, Order::bgr, Order::gray});
    spec.resize = in.one_of({Resize::stretch, Resize::letterbox});
    const bool usual = in.flag();
    for (float& mean : spec.mean) mean = usual ? 127.0F : in.finite();
    for (float& scale : spec.scale) scale = usual ? 1 / 128.0F : in.finite();
    return spec;
}

PriorSpec make_prior_spec(Input& in) {
    PriorSpec spec;
    const int levels = in.from(1, 3);
    for (int i = 0; i < levels; ++i) {
        spec.strides.push_back(in.one_of({8, 16, 5, 64, 1 << 14}));
        std::vector<float> sizes(static_cast<std::size_t>(in.from(1, 3)));
        for (float& size : sizes) size = in.positive();
        spec.min_sizes.push_back(sizes);
    }
    spec.grid = in.one_of({Grid::cell, Grid::stride, Grid::corner});
    spec.clip = in.flag();
    spec.variances = {in.flag() ? 0.1F : in.finite(), in.flag() ? 0.2F : in.finite()};
    return spec;
}

ModelSpec make_spec(Input& in) {
    ModelSpec spec;
    spec.input = make_input_spec(in);
    spec.priors = make_prior_spec(in);
    spec.heads.scores = "scores";
    spec.heads.boxes = "boxes";
    spec.heads.landmarks = in.flag() ? "landmarks" : "";
    spec.heads.encoding = in.one_of({Encoding::offsets, Encoding::corners});
    spec.heads.activation = in.one_of({Activation::none, Activation::softmax});
    return spec;
}

Options make_options(Input& in) {
    Options options;
    options.score_threshold = in.share();
    options.min_face = in.flag() ? 0 : std::fabs(in.finite());
    options.nms.kind = in.one_of({Nms::hard, Nms::soft_linear, Nms::soft_gaussian, Nms::blending});
    options.nms.iou_threshold = in.share();
    options.nms.score_threshold = options.score_threshold;
    options.nms.pre_nms_top_k = in.one_of({1, 2, 7, 100, 5000, std::numeric_limits<int>::max()});
    options.nms.max_faces = in.one_of({1, 2, 7, 750, std::numeric_limits<int>::max()});
    return options;
}

std::vector<float> values(Input& in, std::size_t count) {
    std::vector<float> result(count);
    for (float& value : result) value = in.any();
    return result;
}

// Pixels of a frame. Small ones have their own memory, to the byte, so that the address sanitizer sees a step
// outside. Huge ones lie in a mapping that is all zero pages and costs no memory until something writes.
class Picture {
  public:
    explicit Picture(Input& in) {
        frame_.channels =
            in.one_of({Channels::bgr, Channels::rgb, Channels::bgra, Channels::rgba, Channels::gray,
                       Channels::yuyv, Channels::uyvy, Channels::nv12, Channels::nv21, Channels::i420});
        const int bytes = bytes_per_pixel(frame_.channels);
        if (in.byte() % 8 == 0) {
            huge(in, bytes);
            return;
        }
        frame_.size = {in.one_of({1, 2, 3, in.from(1, 60)}), in.one_of({1, 2, 3, in.from(1, 60)})};
        make_even();
        if (has_chroma_plane(frame_.channels)) add_chroma(in);
        const int packed = frame_.size.width * bytes;
        const int stride = packed + in.one_of({0, 1, 7, 64});
        const int rows = frame_.size.height;
        pixels_.resize(static_cast<std::size_t>(stride) * static_cast<std::size_t>(rows - 1) +
                       static_cast<std::size_t>(packed));
        for (std::uint8_t& pixel : pixels_) pixel = in.byte();
        const bool upside_down = in.flag();
        // No stride at all: every row is the first (numpy.broadcast_to).
        frame_.row_stride = in.byte() % 16 == 0 ? 0 : upside_down ? -stride : stride;
        const bool from_last = frame_.row_stride < 0;
        frame_.pixels = pixels_.data() + (from_last ? static_cast<std::ptrdiff_t>(stride) * (rows - 1) : 0);
    }

    const Frame& frame() const { return frame_; }

  private:
    void make_even() {
        if (!is_yuv(frame_.channels)) return;
        frame_.size.width += frame_.size.width % 2;
        frame_.size.height += frame_.size.height % 2;
    }

    void add_chroma(Input& in) {
        const int across = frame_.size.width / 2 * chroma_step(frame_.channels);
        const int stride = across + in.one_of({0, 1, 7, 64});
        const int rows = frame_.size.height / 2;
        const int last = stride * (rows - 1);
        const int planes = chroma_step(frame_.channels) == 1 ? 2 : 1;
        chroma_.resize(static_cast<std::size_t>(planes * (last + across)));
        for (std::uint8_t& value : chroma_) value = in.byte();
        const bool upside_down = in.flag();
        frame_.chroma_stride = upside_down ? -stride : stride;
        frame_.chroma = chroma_.data() + (upside_down ? last : 0);
        if (planes == 1) return;
        const bool v_first = in.flag();
        frame_.v_offset = v_first ? -(last + across) : last + across;
        if (v_first) frame_.chroma -= frame_.v_offset;
    }

    void huge(Input& in, int bytes) {
        // frames.MAX_PIXELS is 1 << 28.
        constexpr std::size_t kBytes = std::size_t{4} << 28;
        static void* const zeros =
            mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        expect(zeros != MAP_FAILED, "address space for a huge frame");
        const int width = 1 << in.from(0, 28);
        const int height = (1 << 28) / width;
        const int cut_width = std::max(1, width - in.from(0, 3));
        frame_.size = {cut_width, std::max(1, height - in.from(0, 3))};
        if (is_yuv(frame_.channels)) frame_.size = {std::max(2, width), std::max(2, height)};
        frame_.chroma = static_cast<const std::uint8_t*>(zeros);
        frame_.chroma_stride = frame_.size.width;
        frame_.pixels = static_cast<const std::uint8_t*>(zeros);
        frame_.row_stride = static_cast<std::ptrdiff_t>(width) * bytes;
    }

    Frame frame_;
    std::vector<std::uint8_t> pixels_;
    std::vector<std::uint8_t> chroma_;
};

Rect make_region(Input& in, Size size) {
    if (in.flag()) return {0, 0, size.width, size.height};
    const int x = in.from(0, size.width - 1);
    const int y = in.from(0, size.height - 1);
    return {x, y, in.from(1, size.width - x), in.from(1, size.height - y)};
}

// --- Preprocess --------------------------------------------------------------------------------------

// A backend's buffer in either memory order, with gaps that must stay as they were.
template <typename T>
class Buffer {
  public:
    Buffer(Input& in, Size size, int channels, DataType type) {
        const int gap = in.one_of({0, 1, 3});
        view_.type = type;
        view_.size = size;
        view_.channels = channels;
        if (in.flag()) {
            view_.pixel_stride = 1;
            view_.row_stride = size.width + gap;
            view_.channel_stride = view_.row_stride * size.height;
        } else {
            view_.channel_stride = 1;
            view_.pixel_stride = channels + gap;
            view_.row_stride = view_.pixel_stride * size.width;
        }
        if (type != DataType::float32) {
            const int low = type == DataType::int8 ? -128 : 0;
            view_.quantization = {in.positive(), in.from(low, low + 255)};
        }
        const std::ptrdiff_t last = (channels - 1) * view_.channel_stride +
                                    (size.height - 1) * view_.row_stride +
                                    (size.width - 1) * view_.pixel_stride;
        stored_.assign(static_cast<std::size_t>(last) + 1, kUntouched);
        view_.data = stored_.data();
    }

    const InputView& view() const { return view_; }

    void check_gaps() const {
        std::vector<bool> used(stored_.size());
        for (int c = 0; c < view_.channels; ++c) {
            for (int y = 0; y < view_.size.height; ++y) {
                for (int x = 0; x < view_.size.width; ++x) used[place(c, y, x)] = true;
            }
        }
        for (std::size_t i = 0; i < stored_.size(); ++i) {
            if (!used[i]) expect(stored_[i] == kUntouched, "gaps are not written to");
        }
    }

    const std::vector<T>& stored() const { return stored_; }

    std::size_t place(int channel, int y, int x) const {
        return static_cast<std::size_t>(channel * view_.channel_stride + y * view_.row_stride +
                                        x * view_.pixel_stride);
    }

  private:
    static constexpr T kUntouched = 99;
    InputView view_;
    std::vector<T> stored_;
};

template <typename T>
void run_preprocess(Input& in, const InputSpec& spec, const Frame& frame, DataType type) {
    const Buffer<T> first(in, spec.size, spec.channels == Order::gray ? 1 : 3, type);
    const std::vector<const native::Kernels*> isas = native::available_kernels();
    const PreprocessKernels& kernels = select_preprocess(isas[in.byte() % isas.size()]->isa);
    ResizePlan plan = plan_resize(frame, spec, kernels);
    expect(plan.to.width >= 1 && plan.to.width <= spec.size.width, "the covered width lies in the input");
    expect(plan.to.height >= 1 && plan.to.height <= spec.size.height, "the covered height lies in the input");
    expect(std::isfinite(plan.placement.scale_x) && plan.placement.scale_x > 0, "the scale is a number");
    expect(std::isfinite(plan.placement.scale_y) && plan.placement.scale_y > 0, "the scale is a number");
    preprocess(frame, spec, plan, first.view());
    first.check_gaps();
    const std::vector<T> once = first.stored();
    preprocess(frame, spec, plan, first.view());
    expect(std::memcmp(once.data(), first.stored().data(), once.size() * sizeof(T)) == 0,
           "a plan that is used again gives the same");
    if constexpr (std::is_same_v<T, float>) {
        const auto huge = [](float value) { return std::fabs(value) > 1e30F; };
        const bool moderate =
            std::none_of(spec.mean.begin(), spec.mean.end(), huge) &&
            std::none_of(spec.scale.begin(), spec.scale.end(), [](float s) { return std::fabs(s) > 1e6F; });
        for (int c = 0; c < first.view().channels && moderate; ++c) {
            for (int y = 0; y < spec.size.height; ++y) {
                for (int x = 0; x < spec.size.width; ++x)
                    expect(std::isfinite(once[first.place(c, y, x)]), "the input is finite");
            }
        }
    }
}

void fuzz_preprocess(Input& in) {
    const InputSpec spec = make_input_spec(in);
    const Picture picture(in);
    switch (in.byte() % 3) {
        case 0:
            return run_preprocess<float>(in, spec, picture.frame(), DataType::float32);
        case 1:
            return run_preprocess<std::int8_t>(in, spec, picture.frame(), DataType::int8);
        default:
            return run_preprocess<std::uint8_t>(in, spec, picture.frame(), DataType::uint8);
    }
}

// --- Decode and NMS ----------------------------------------------------------------------------------

void check_finite(const Detection& face) {
    expect(std::isfinite(face.score), "a score is finite");
    for (const float value : {face.box.x1, face.box.y1, face.box.x2, face.box.y2})
        expect(std::isfinite(value), "a box is finite");
    for (const Point& point : face.landmarks)
        expect(std::isfinite(point.x) && std::isfinite(point.y), "a landmark is finite");
}

void check_faces(const std::vector<Detection>& faces, const Options& options) {
    expect(faces.size() <= static_cast<std::size_t>(options.nms.max_faces), "no more than max_faces");
    expect(faces.size() <= static_cast<std::size_t>(options.nms.pre_nms_top_k), "no more than pre_nms_top_k");
    for (std::size_t i = 0; i < faces.size(); ++i) {
        expect(faces[i].score >= 0 && faces[i].score <= 1, "a score is 0 to 1");
        expect(i == 0 || faces[i - 1].score >= faces[i].score, "the best score is first");
    }
}

void fuzz_decode(Input& in) {
    const ModelSpec spec = make_spec(in);
    const std::vector<Prior> priors = make_priors(spec.priors, spec.input.size);
    const int rows = static_cast<int>(priors.size());
    const int columns = in.from(1, 2);
    const std::vector<float> scores = values(in, priors.size() * static_cast<std::size_t>(columns));
    const std::vector<float> boxes = values(in, priors.size() * 4);
    const bool has_landmarks = !spec.heads.landmarks.empty();
    const std::vector<float> landmarks = values(in, has_landmarks ? priors.size() * 10 : 0);
    Heads heads{{scores.data(), rows, columns}, {boxes.data(), rows, 4}, {}, {}};
    if (in.flag()) heads.objectness = {boxes.data(), rows, 1};
    if (has_landmarks) heads.landmarks = {landmarks.data(), rows, 10};
    const Options options = make_options(in);
    const Point min_face{options.min_face, options.min_face / 2};
    const std::vector<Detection> found =
        decode(heads, priors, spec, spec.input.size, options.score_threshold, min_face);
    expect(found.size() <= priors.size(), "a face a prior");
    for (const Detection& face : found) {
        check_finite(face);
        expect(face.score >= options.score_threshold && face.score <= 1, "the score reaches the threshold");
        expect(face.prior >= 0 && face.prior < rows, "a prior of the list");
    }
    const std::vector<Detection> kept = non_max_suppression(found, options.nms);
    check_faces(kept, options);
}

// Candidates as decode gives them: finite, with finite areas, any place and size.
void fuzz_nms(Input& in) {
    const Options options = make_options(in);
    std::vector<Detection> candidates;
    while (!in.empty() && candidates.size() < 400) {
        Detection face;
        const bool again = !candidates.empty() && in.flag();
        if (again)
            face = candidates[in.byte() % candidates.size()];  // equal boxes, equal scores
        else
            face.box = {in.finite(), in.finite(), in.finite(), in.finite()};
        face.score = in.share();
        face.prior = static_cast<int>(candidates.size());
        for (Point& point : face.landmarks) point = {in.share(), in.share()};
        const float area = (face.box.x2 - face.box.x1) * (face.box.y2 - face.box.y1);
        if (std::isfinite(area)) candidates.push_back(face);
    }
    const std::size_t given = candidates.size();
    const std::vector<Detection> kept = non_max_suppression(candidates, options.nms);
    check_faces(kept, options);
    expect(kept.size() <= given, "no face is invented");
    expect(kept.empty() == (given == 0), "the best is kept");
    for (std::size_t i = 0; i < kept.size(); ++i) {
        expect(std::none_of(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(i),
                            [&](const Detection& other) { return other.prior == kept[i].prior; }),
               "a candidate is kept once");
        for (std::size_t j = 0; j < i && options.nms.kind == Nms::hard; ++j)
            expect(!(iou(kept[i].box, kept[j].box) > options.nms.iou_threshold), "kept faces do not overlap");
    }
}

// --- The whole way -----------------------------------------------------------------------------------

// Answers every run with the fuzzer's values.
class AnyBackend : public Backend {
  public:
    AnyBackend(Input& in, const ModelSpec& spec)
        : in_(in),
          size_(spec.input.size),
          channels_(spec.input.channels == Order::gray ? 1 : 3),
          rows_(static_cast<int>(make_priors(spec.priors, size_).size())),
          columns_(in.from(1, 2)),
          type_(in.one_of({DataType::float32, DataType::float32, DataType::int8, DataType::uint8})),
          pixels_(static_cast<std::size_t>(size_.width * size_.height * channels_)) {
        if (type_ != DataType::float32)
            quantization_ = {in.positive(), type_ == DataType::int8 ? 0 : in.from(0, 255)};
    }

    InputView input() override {
        return {pixels_.data(), DataType::float32,          {},          size_,
                channels_,      size_.width * size_.height, size_.width, 1};
    }

    void run() override {
        fill(scores_, columns_);
        fill(boxes_, 4);
        fill(landmarks_, 10);
    }

    OutputView output(const std::string& name) override {
        if (name == "scores") return view(scores_, columns_);
        return name == "boxes" ? view(boxes_, 4) : view(landmarks_, 10);
    }

  private:
    struct Values {
        std::vector<float> reals;
        std::vector<std::uint8_t> stored;
    };

    void fill(Values& values, int columns) {
        const std::size_t count = static_cast<std::size_t>(rows_) * static_cast<std::size_t>(columns);
        values.reals.resize(count);
        values.stored.resize(count);
        for (float& real : values.reals) real = in_.any();
        for (std::uint8_t& stored : values.stored) stored = in_.byte();
    }

    OutputView view(const Values& values, int columns) const {
        const void* data = type_ == DataType::float32 ? static_cast<const void*>(values.reals.data())
                                                      : static_cast<const void*>(values.stored.data());
        return {data, type_, quantization_, rows_, columns};
    }

    Input& in_;
    Size size_;
    int channels_;
    int rows_;
    int columns_;
    DataType type_;
    Quantization quantization_;
    std::vector<float> pixels_;
    Values scores_;
    Values boxes_;
    Values landmarks_;
};

void fuzz_detector(Input& in) {
    const ModelSpec spec = make_spec(in);
    const Options options = make_options(in);
    Detector detector(std::make_shared<AnyBackend>(in, spec), spec, options);
    for (int i = 0; i < 2; ++i) {
        const Picture picture(in);
        const Rect region = make_region(in, picture.frame().size);
        const Result result = detector.detect(picture.frame(), region);
        check_faces(result.faces, options);
        // Edges as detector.cpp has them: beyond 2^24 a float is not every whole number.
        const float left = static_cast<float>(region.x);
        const float top = static_cast<float>(region.y);
        const float right = left + static_cast<float>(region.width);
        const float bottom = top + static_cast<float>(region.height);
        for (const Detection& face : result.faces) {
            check_finite(face);
            expect(face.box.x1 >= left && face.box.x2 <= right, "a box is clipped to the region across");
            expect(face.box.y1 >= top && face.box.y2 <= bottom, "a box is clipped to the region down");
            expect(face.box.x1 < face.box.x2 && face.box.y1 < face.box.y2, "a box has an area");
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input in(data, size);
    switch (in.byte() % 4) {
        case 0:
            fuzz_preprocess(in);
            break;
        case 1:
            fuzz_decode(in);
            break;
        case 2:
            fuzz_nms(in);
            break;
        default:
            fuzz_detector(in);
    }
    return 0;
}
