// Every ISA's preprocessing against the scalar kernels', to the byte. Python compares these with a reference;
// this runs where there is no Python, such as under an emulator, and in memory that ends where frame and
// input end.
#include "preprocess.h"

#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backends/native/cpu.h"

namespace {

using namespace edgeface;

struct Case {
    Size from;
    Channels channels;
    int second_x = 0;  // of YUV: whether the frame begins inside a pair of pixels
    int second_y = 0;
    bool upside_down;
    InputSpec spec;
    DataType type;
    bool planes;
    int gap;  // values between the rows
};

Case make_case(std::mt19937& random) {
    const auto from = [&](int low, int high) { return low + static_cast<int>(random() % (high - low + 1U)); };
    Case made;
    made.from = {from(1, 70), from(1, 70)};
    made.channels = static_cast<Channels>(from(0, 9));
    if (is_yuv(made.channels)) {
        made.second_x = from(0, 1);
        made.second_y = from(0, 1);
    }
    made.upside_down = from(0, 1) == 1;
    made.spec.size = {from(1, 50), from(1, 50)};
    made.spec.channels = static_cast<Order>(from(0, 2));
    made.spec.resize = static_cast<Resize>(from(0, 1));
    for (float& mean : made.spec.mean) mean = static_cast<float>(from(0, 2550)) / 10;
    for (float& scale : made.spec.scale) scale = 1 / static_cast<float>(from(1, 300));
    made.type = static_cast<DataType>(from(0, 2));
    made.planes = from(0, 1) == 1;
    made.gap = from(0, 3);
    return made;
}

template <typename T>
class Input {
  public:
    explicit Input(const Case& made) {
        const Size size = made.spec.size;
        view_.type = made.type;
        view_.size = size;
        view_.channels = made.spec.channels == Order::gray ? 1 : 3;
        if (made.type != DataType::float32)
            view_.quantization = {0.0123F, made.type == DataType::int8 ? -7 : 120};
        view_.pixel_stride = made.planes ? 1 : view_.channels;
        view_.row_stride = size.width * view_.pixel_stride + made.gap;
        view_.channel_stride = made.planes ? view_.row_stride * size.height : 1;
        const std::ptrdiff_t rows = size.height * (made.planes ? view_.channels : 1);
        values_.resize(static_cast<std::size_t>(view_.row_stride * rows - made.gap), T{77});
        view_.data = values_.data();
    }

    const InputView& view() const { return view_; }
    // The gaps too: nobody may write there.
    bool is_like(const Input& other) const {
        return std::memcmp(values_.data(), other.values_.data(), values_.size() * sizeof(T)) == 0;
    }

  private:
    std::vector<T> values_;
    InputView view_;
};

template <typename T>
bool is_like_scalar(const Case& made, const PreprocessKernels& kernels) {
    const int columns = (made.from.width + made.second_x + 1) / 2;
    const int rows = (made.from.height + made.second_y + 1) / 2;
    const std::ptrdiff_t stride =
        is_packed_yuv(made.channels) ? 4 * columns : made.from.width * bytes_per_pixel(made.channels);
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(stride * made.from.height));
    std::vector<std::uint8_t> chroma(
        has_chroma_plane(made.channels) ? static_cast<std::size_t>(2 * columns * rows) : 0);
    std::mt19937 random(7);
    for (std::uint8_t& pixel : pixels) pixel = static_cast<std::uint8_t>(random());
    for (std::uint8_t& value : chroma) value = static_cast<std::uint8_t>(random());
    const int step = chroma_step(made.channels);
    const std::ptrdiff_t v_offset = step == 1 ? columns * rows : 0;
    Frame frame{pixels.data(),  made.from, stride,        made.channels, chroma.data(),
                step * columns, v_offset,  made.second_x, made.second_y, {1, 1}};
    if (made.upside_down) {
        frame.pixels += stride * (made.from.height - 1);
        frame.row_stride = -stride;
    }
    const Input<T> wants(made);
    const Input<T> found(made);
    ResizePlan plan = plan_resize(frame, made.spec, scalar_preprocess());
    preprocess(frame, made.spec, plan, wants.view());
    plan = plan_resize(frame, made.spec, kernels);
    preprocess(frame, made.spec, plan, found.view());
    return wants.is_like(found);
}

bool is_like_scalar(const Case& made, const PreprocessKernels& kernels) {
    switch (made.type) {
        case DataType::float32:
            return is_like_scalar<float>(made, kernels);
        case DataType::int8:
            return is_like_scalar<std::int8_t>(made, kernels);
        case DataType::uint8:
            return is_like_scalar<std::uint8_t>(made, kernels);
    }
    return false;
}

}  // namespace

int main() {
    constexpr int kCases = 1000;
    int failures = 0;
    for (const native::Kernels* engine : native::available_kernels()) {
        const PreprocessKernels& kernels = select_preprocess(engine->isa);
        std::mt19937 random(1);
        int different = 0;
        for (int i = 0; i < kCases; ++i) different += !is_like_scalar(make_case(random), kernels);
        std::printf("%s, by the kernels of %s: %d of %d inputs differ from scalar's\n", engine->isa,
                    kernels.isa, different, kCases);
        failures += different;
    }
    return failures != 0;
}
