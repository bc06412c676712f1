// Python <-> C++ conversion: the only file that knows Python. src/edgeface/_core/__init__.pyi describes it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "backend.h"
#include "backends/native/cpu.h"
#include "backends/native/engine.h"
#include "backends/tengine.h"
#include "decode.h"
#include "detector.h"
#include "error.h"
#include "nms.h"
#include "preprocess.h"
#include "priors.h"

namespace py = pybind11;
using namespace py::literals;

namespace edgeface {
namespace {

using FloatArray = py::array_t<float>;
using DenseArray = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Pixels = py::array_t<std::uint8_t>;

template <typename Enum>
Enum parse(const std::map<std::string, Enum>& names, const std::string& name, const char* what) {
    const auto found = names.find(name);
    if (found != names.end()) return found->second;
    std::string known;
    for (const auto& [key, value] : names) known += (known.empty() ? "" : ", ") + key;
    throw std::invalid_argument(std::string(what) + " is '" + name + "'; expected one of " + known);
}

Channels parse_channels(const std::string& name) {
    return parse<Channels>({{"bgr", Channels::bgr},
                            {"rgb", Channels::rgb},
                            {"bgra", Channels::bgra},
                            {"rgba", Channels::rgba},
                            {"gray", Channels::gray},
                            {"yuyv", Channels::yuyv},
                            {"uyvy", Channels::uyvy},
                            {"nv12", Channels::nv12},
                            {"nv21", Channels::nv21},
                            {"i420", Channels::i420}},
                           name, "channels");
}

ModelSpec make_spec(int width, int height, const std::string& channels, std::array<float, 3> mean,
                    std::array<float, 3> scale, const std::string& resize, std::vector<int> strides,
                    std::vector<std::vector<float>> min_sizes, const std::string& grid, bool clip,
                    std::array<float, 2> variances, const std::string& scores, const std::string& boxes,
                    const std::string& landmarks, const std::string& encoding, const std::string& activation,
                    const std::string& objectness) {
    ModelSpec spec;
    spec.input.size = {width, height};
    spec.input.channels =
        parse<Order>({{"rgb", Order::rgb}, {"bgr", Order::bgr}, {"gray", Order::gray}}, channels, "channels");
    spec.input.mean = mean;
    spec.input.scale = scale;
    spec.input.resize =
        parse<Resize>({{"stretch", Resize::stretch}, {"letterbox", Resize::letterbox}}, resize, "resize");
    spec.priors.strides = std::move(strides);
    spec.priors.min_sizes = std::move(min_sizes);
    spec.priors.grid =
        parse<Grid>({{"cell", Grid::cell}, {"stride", Grid::stride}, {"corner", Grid::corner}}, grid, "grid");
    spec.priors.clip = clip;
    spec.priors.variances = variances;
    spec.heads.scores = scores;
    spec.heads.boxes = boxes;
    spec.heads.landmarks = landmarks;
    spec.heads.objectness = objectness;
    spec.heads.encoding = parse<Encoding>({{"offsets", Encoding::offsets}, {"corners", Encoding::corners}},
                                          encoding, "encoding");
    spec.heads.activation = parse<Activation>({{"none", Activation::none}, {"softmax", Activation::softmax}},
                                              activation, "activation");
    if (width < 1 || height < 1) throw std::invalid_argument("the input size is not positive");
    if (spec.priors.strides.size() != spec.priors.min_sizes.size()) {
        throw std::invalid_argument("strides and min_sizes have different lengths");
    }
    for (const int stride : spec.priors.strides) {
        if (stride < 1) throw std::invalid_argument("a stride is not positive");
    }
    return spec;
}

Options make_options(float score_threshold, float iou_threshold, const std::string& nms, int max_faces,
                     int pre_nms_top_k, float min_face, const std::string& isa) {
    Options options;
    options.score_threshold = score_threshold;
    options.min_face = min_face;
    options.nms.kind = parse<Nms>({{"hard", Nms::hard},
                                   {"soft-linear", Nms::soft_linear},
                                   {"soft-gaussian", Nms::soft_gaussian},
                                   {"blending", Nms::blending}},
                                  nms, "nms");
    options.nms.iou_threshold = iou_threshold;
    options.nms.score_threshold = score_threshold;
    options.nms.pre_nms_top_k = pre_nms_top_k;
    options.nms.max_faces = max_faces;
    options.isa = isa;
    if (max_faces < 1 || pre_nms_top_k < 1) throw std::invalid_argument("counts start at 1");
    return options;
}

// U and V of two by two pixels: (H / 2, W) uint8 with both in turns, or (2, H / 2, W / 2) with U, then V.
void add_chroma(Frame& frame, const std::optional<Pixels>& array) {
    const auto [width, height] = frame.size;
    const py::ssize_t axes = chroma_step(frame.channels) == 1 ? 3 : 2;
    const py::ssize_t across = axes == 3 ? width / 2 : width;
    const bool fits = array && array->ndim() == axes && array->shape(axes - 1) == across &&
                      array->shape(axes - 2) == height / 2 && (axes == 2 || array->shape(0) == 2) &&
                      width % 2 == 0 && height % 2 == 0 && (across == 1 || array->strides(axes - 1) == 1);
    if (!fits) throw std::invalid_argument("the frame's chroma plane does not fit its luma plane");
    frame.chroma = array->data();
    frame.chroma_stride = array->strides(axes - 2);
    frame.v_offset = axes == 3 ? array->strides(0) : 0;
}

// (H, W) or (H, W, C) uint8 with packed pixels; rows may be any distance apart.
Frame as_frame(const Pixels& array, const std::string& name, const std::optional<Pixels>& chroma) {
    Frame frame;
    frame.channels = parse_channels(name);
    const py::ssize_t bytes = bytes_per_pixel(frame.channels);
    const bool planar = array.ndim() == 2;
    const bool shaped = (planar && bytes == 1) || (array.ndim() == 3 && array.shape(2) == bytes);
    if (!shaped || array.shape(0) < 1 || array.shape(1) < 1) {
        throw std::invalid_argument("the frame's shape does not fit channels '" + name + "'");
    }
    // The stride of an axis of length 1 may be anything.
    const bool packed =
        (array.shape(1) == 1 || array.strides(1) == bytes) && (planar || bytes == 1 || array.strides(2) == 1);
    if (!packed) {
        throw std::invalid_argument("the frame's pixels are not packed");
    }
    frame.pixels = array.data();
    frame.size = {static_cast<int>(array.shape(1)), static_cast<int>(array.shape(0))};
    frame.row_stride = array.strides(0);
    if (has_chroma_plane(frame.channels)) add_chroma(frame, chroma);
    if (is_packed_yuv(frame.channels) && frame.size.width % 2 != 0)
        throw std::invalid_argument("the frame's width is odd");
    return frame;
}

InputView as_input(FloatArray& array) {
    if (array.ndim() != 4 || array.shape(0) != 1)
        throw BackendError("a backend's input must be (1, C, H, W) float32");
    if (!array.writeable()) throw BackendError("a backend's input must be writeable");
    const auto stride = [&](int axis) {
        return array.strides(axis) / static_cast<py::ssize_t>(sizeof(float));
    };
    return {array.mutable_data(),
            DataType::float32,
            {},
            {static_cast<int>(array.shape(3)), static_cast<int>(array.shape(2))},
            static_cast<int>(array.shape(1)),
            stride(1),
            stride(2),
            stride(3)};
}

// Rows by columns of a contiguous array whose leading dimensions are rows.
OutputView as_output(const py::array& array, const std::string& name) {
    const bool fits = py::isinstance<DenseArray>(array) && array.ndim() >= 2;
    if (!fits) throw BackendError("output '" + name + "' must be a contiguous float32 array of rows");
    const py::ssize_t columns = array.shape(array.ndim() - 1);
    const py::ssize_t rows = columns > 0 ? array.size() / columns : 0;
    return {array.data(), DataType::float32, {}, static_cast<int>(rows), static_cast<int>(columns)};
}

// A backend written in Python: an object with input(), run() and output(name).
class PythonBackend : public Backend {
  public:
    explicit PythonBackend(py::object object)
        : object_(std::move(object)) {}

    ~PythonBackend() override {
        const py::gil_scoped_acquire gil;
        input_.release().dec_ref();
        outputs_.clear();
        object_.release().dec_ref();
    }

    InputView input() override {
        const py::gil_scoped_acquire gil;
        py::object array = object_.attr("input")();
        if (!py::isinstance<FloatArray>(array))
            throw BackendError("a backend's input must be (1, C, H, W) float32");
        FloatArray input(std::move(array));
        const InputView view = as_input(input);
        input_ = std::move(input);
        return view;
    }

    void run() override {
        const py::gil_scoped_acquire gil;
        object_.attr("run")();
    }

    OutputView output(const std::string& name) override {
        const py::gil_scoped_acquire gil;
        py::array array = object_.attr("output")(name);
        const OutputView view = as_output(array, name);
        outputs_[name] = std::move(array);  // alive while the core reads it
        return view;
    }

  private:
    py::object object_;
    py::object input_;
    std::map<std::string, py::object> outputs_;
};

std::shared_ptr<Backend> as_backend(const py::object& object) {
    if (py::isinstance<native::Engine>(object)) return object.cast<std::shared_ptr<native::Engine>>();
    if (py::isinstance<TengineBackend>(object)) return object.cast<std::shared_ptr<TengineBackend>>();
    return std::make_shared<PythonBackend>(object);
}

// One face a row: x1, y1, x2, y2, score, then the five landmarks' x, y.
FloatArray as_rows(const std::vector<Detection>& faces, bool landmarks) {
    FloatArray rows({static_cast<py::ssize_t>(faces.size()), static_cast<py::ssize_t>(landmarks ? 15 : 5)});
    float* out = rows.mutable_data();
    for (const Detection& face : faces) {
        for (const float value : {face.box.x1, face.box.y1, face.box.x2, face.box.y2, face.score})
            *out++ = value;
        if (!landmarks) continue;
        for (const Point& point : face.landmarks) {
            *out++ = point.x;
            *out++ = point.y;
        }
    }
    return rows;
}

std::vector<Detection> as_detections(const DenseArray& rows) {
    if (rows.ndim() != 2 || (rows.shape(1) != 5 && rows.shape(1) != 15)) {
        throw std::invalid_argument("candidates must be (N, 5) or (N, 15)");
    }
    std::vector<Detection> detections(static_cast<std::size_t>(rows.shape(0)));
    int prior = 0;
    for (Detection& detection : detections) {
        const float* row = rows.data(prior, 0);
        detection.box = {row[0], row[1], row[2], row[3]};
        detection.score = row[4];
        detection.prior = prior++;
        if (rows.shape(1) == 5) continue;
        for (std::size_t i = 0; i < 5; ++i) detection.landmarks[i] = {row[5 + 2 * i], row[6 + 2 * i]};
    }
    return detections;
}

py::tuple detect(Detector& detector, const Pixels& array, const std::string& channels,
                 std::array<int, 4> region, const std::optional<Pixels>& chroma,
                 std::array<float, 2> reduction) {
    Frame frame = as_frame(array, channels, chroma);
    frame.reduction = {reduction[0], reduction[1]};
    const Rect rect{region[0], region[1], region[2], region[3]};
    const bool inside = rect.x >= 0 && rect.y >= 0 && rect.width >= 1 && rect.height >= 1 &&
                        rect.width <= frame.size.width - rect.x && rect.height <= frame.size.height - rect.y;
    if (!inside) throw std::invalid_argument("the region does not lie inside the frame");
    Result result;
    {
        const py::gil_scoped_release release;
        result = detector.detect(frame, rect);
    }
    const Timings& timings = result.timings;
    return py::make_tuple(as_rows(result.faces, detector.has_landmarks()),
                          py::make_tuple(timings.preprocess, timings.run, timings.decode));
}

FloatArray preprocess_frame(const Pixels& array, const ModelSpec& spec, const std::string& channels,
                            const std::string& isa, const std::optional<Pixels>& chroma) {
    const Frame frame = as_frame(array, channels, chroma);
    const Size size = spec.input.size;
    FloatArray out({1, spec.input.channels == Order::gray ? 1 : 3, size.height, size.width});
    ResizePlan plan = plan_resize(frame, spec.input, select_preprocess(isa));
    preprocess(frame, spec.input, plan, as_input(out));
    return out;
}

FloatArray prior_array(const ModelSpec& spec) {
    const std::vector<Prior> priors = make_priors(spec.priors, spec.input.size);
    FloatArray out({static_cast<py::ssize_t>(priors.size()), static_cast<py::ssize_t>(4)});
    float* row = out.mutable_data();
    for (const Prior& prior : priors) {
        for (const float value : {prior.x, prior.y, prior.width, prior.height}) *row++ = value;
    }
    return out;
}

FloatArray decode_heads(const DenseArray& scores, const DenseArray& boxes,
                        const std::optional<DenseArray>& landmarks, const ModelSpec& spec,
                        float score_threshold, std::array<float, 2> min_face,
                        const std::optional<DenseArray>& objectness) {
    const std::vector<Prior> priors = make_priors(spec.priors, spec.input.size);
    const auto head = [](const DenseArray& array, const std::string& name) {
        return Head{array.data(), as_output(array, name).rows, as_output(array, name).columns};
    };
    Heads heads{head(scores, "scores"), head(boxes, "boxes"), {}, {}};
    if (landmarks) heads.landmarks = head(*landmarks, "landmarks");
    if (objectness) heads.objectness = head(*objectness, "objectness");
    const auto rows = static_cast<int>(priors.size());
    const bool fit = heads.scores.rows == rows && heads.boxes.rows == rows && heads.boxes.columns == 4 &&
                     (heads.scores.columns == 1 || heads.scores.columns == 2) &&
                     (!landmarks || (heads.landmarks.rows == rows && heads.landmarks.columns == 10)) &&
                     (!objectness || (heads.objectness.rows == rows && heads.objectness.columns == 1));
    if (!fit) throw ModelError("the heads do not fit the spec's " + std::to_string(rows) + " priors");
    const Point smallest{min_face[0], min_face[1]};
    return as_rows(decode(heads, priors, spec, spec.input.size, score_threshold, smallest),
                   landmarks.has_value());
}

using Scale = std::pair<float, int>;  // scale and zero point

Quantization as_quantization(const Scale& scale) { return {scale.first, scale.second}; }

// The lowest, the highest, the slope.
native::Clamp as_clamp(std::array<float, 3> clamp) { return {clamp[0], clamp[1], clamp[2]}; }

native::Window as_window(const std::string& name, const py::array& weight, std::array<int, 2> stride,
                         std::array<int, 2> dilation, std::array<int, 2> pad) {
    if (weight.ndim() != 4)
        throw std::invalid_argument("native engine: '" + name + "': the weight is not 4-D");
    return {static_cast<int>(weight.shape(2)),
            static_cast<int>(weight.shape(3)),
            stride[0],
            stride[1],
            dilation[0],
            dilation[1],
            pad[0],
            pad[1]};
}

template <typename Array>
auto as_vector(const Array& array) {
    return std::vector<typename Array::value_type>(array.data(), array.data() + array.size());
}

int conv(native::Network& network, const std::string& name, int data, const DenseArray& weight,
         const DenseArray& bias, std::array<int, 2> stride, std::array<int, 2> dilation,
         std::array<int, 2> pad, int groups, std::array<float, 3> clamp, std::array<int, 3> output) {
    native::Conv conv;
    conv.window = as_window(name, weight, stride, dilation, pad);
    conv.groups = groups;
    conv.clamp = as_clamp(clamp);
    conv.weight = as_vector(weight);
    conv.bias = as_vector(bias);
    return network.conv(name, data, std::move(conv), {output[0], output[1], output[2]});
}

template <typename T>
using Dense = py::array_t<T, py::array::c_style>;

int quantized_conv(native::Network& network, const std::string& name, int data,
                   const Dense<std::int16_t>& weight, const Dense<std::int32_t>& bias,
                   const Dense<float>& weight_scale, std::array<int, 2> stride, std::array<int, 2> dilation,
                   std::array<int, 2> pad, int groups, std::array<float, 3> clamp, std::array<int, 3> output,
                   const Scale& scale) {
    native::QuantizedConv conv;
    conv.window = as_window(name, weight, stride, dilation, pad);
    conv.groups = groups;
    conv.clamp = as_clamp(clamp);
    conv.weight = as_vector(weight);
    conv.bias = as_vector(bias);
    conv.weight_scale = as_vector(weight_scale);
    const native::Shape shape{output[0], output[1], output[2]};
    return network.conv(name, data, std::move(conv), {shape, as_quantization(scale)});
}

py::dtype as_dtype(DataType type) {
    switch (type) {
        case DataType::float32:
            return py::dtype::of<float>();
        case DataType::int8:
            return py::dtype::of<std::int8_t>();
        case DataType::uint8:
            return py::dtype::of<std::uint8_t>();
    }
    return {};
}

template <typename Engine>
py::array engine_input(const py::object& self) {
    const InputView view = self.cast<Engine&>().input();
    const py::dtype dtype = as_dtype(view.type);
    const py::ssize_t element = dtype.itemsize();
    return py::array(dtype,
                     {py::ssize_t{1}, py::ssize_t{view.channels}, py::ssize_t{view.size.height},
                      py::ssize_t{view.size.width}},
                     {view.size.height * view.row_stride * element, view.channel_stride * element,
                      view.row_stride * element, view.pixel_stride * element},
                     view.data, self);
}

template <typename Engine>
py::array engine_output(const py::object& self, const std::string& name) {
    const OutputView view = self.cast<Engine&>().output(name);
    const py::dtype dtype = as_dtype(view.type);
    const py::ssize_t element = dtype.itemsize();
    py::array array(dtype, {py::ssize_t{view.rows}, py::ssize_t{view.columns}},
                    {view.columns * element, element}, view.data, self);
    array.attr("setflags")("write"_a = false);
    return array;
}

std::shared_ptr<native::Engine> make_engine(const native::Network& network, int threads,
                                            const std::string& isa, std::optional<std::size_t> level2_bytes) {
    native::CacheSizes caches = native::cache_sizes();
    if (level2_bytes) caches.level2 = *level2_bytes;
    return std::make_shared<native::Engine>(network, threads, isa, caches);
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const native::Kernels* kernels : native::available_kernels()) names.emplace_back(kernels->isa);
    return names;
}

void bind_errors() {
    static py::object model_error;  // for the interpreter's life
    static py::object backend_error;
    const py::module_ errors = py::module_::import("edgeface.errors");
    model_error = errors.attr("ModelError");
    backend_error = errors.attr("BackendError");
    model_error.inc_ref();
    backend_error.inc_ref();
    py::register_exception_translator([](std::exception_ptr pointer) {
        try {
            if (pointer) std::rethrow_exception(pointer);
        } catch (const ModelError& error) {
            py::set_error(model_error, error.what());
        } catch (const BackendError& error) {
            py::set_error(backend_error, error.what());
        }
    });
}

void bind_detector(py::module_& m) {
    py::class_<ModelSpec>(m, "Spec").def(
        py::init(&make_spec), py::kw_only(), "width"_a, "height"_a, "channels"_a, "mean"_a, "scale"_a,
        "resize"_a, "strides"_a, "min_sizes"_a, "grid"_a, "clip"_a, "variances"_a, "scores"_a, "boxes"_a,
        "landmarks"_a, "encoding"_a, "activation"_a, "objectness"_a = "");
    py::class_<Options>(m, "Options")
        .def(py::init(&make_options), py::kw_only(), "score_threshold"_a, "iou_threshold"_a, "nms"_a,
             "max_faces"_a, "pre_nms_top_k"_a, "min_face"_a, "isa"_a = "");
    py::class_<Detector>(m, "Detector")
        .def(py::init([](const py::object& backend, ModelSpec spec, Options options) {
                 std::shared_ptr<Backend> runner = as_backend(backend);
                 const py::gil_scoped_release release;
                 return std::make_unique<Detector>(std::move(runner), std::move(spec), std::move(options));
             }),
             "backend"_a, "spec"_a, "options"_a)
        .def("detect", &detect, "frame"_a, "channels"_a, "region"_a, py::kw_only(), "chroma"_a = py::none(),
             "reduction"_a = std::array<float, 2>{1, 1});
    m.def("preprocess", &preprocess_frame, "frame"_a, "spec"_a, "channels"_a, "isa"_a = "", py::kw_only(),
          "chroma"_a = py::none());
    m.def("make_priors", &prior_array, "spec"_a);
    m.def("decode", &decode_heads, "scores"_a, "boxes"_a, "landmarks"_a, "spec"_a, "score_threshold"_a,
          "min_face"_a = std::array<float, 2>{0, 0}, "objectness"_a = py::none());
    m.def(
        "non_max_suppression",
        [](const DenseArray& candidates, const Options& options) {
            const std::vector<Detection> detections = as_detections(candidates);
            return as_rows(non_max_suppression(detections, options.nms), candidates.shape(1) == 15);
        },
        "candidates"_a, "options"_a);
}

void bind_native(py::module_& m) {
    using native::Network;
    py::class_<Network>(m, "Network")
        .def(py::init([](int height, int width, int channels, const std::string& dtype, const Scale& scale) {
                 const auto parsed = parse<DataType>(
                     {{"float32", DataType::float32}, {"int8", DataType::int8}, {"uint8", DataType::uint8}},
                     dtype, "dtype");
                 return Network(native::Shape{height, width, channels}, parsed, as_quantization(scale));
             }),
             "height"_a, "width"_a, "channels"_a, py::kw_only(), "dtype"_a, "scale"_a)
        .def("conv", &conv, "name"_a, "data"_a, py::kw_only(), "weight"_a, "bias"_a, "stride"_a, "dilation"_a,
             "pad"_a, "groups"_a, "clamp"_a, "output"_a)
        .def("quantized_conv", &quantized_conv, "name"_a, "data"_a, py::kw_only(), "weight"_a, "bias"_a,
             "weight_scale"_a, "stride"_a, "dilation"_a, "pad"_a, "groups"_a, "clamp"_a, "output"_a,
             "scale"_a)
        .def(
            "relu",
            [](Network& network, const std::string& name, int data, std::array<float, 3> clamp,
               const Scale& scale) {
                return network.relu(name, data, as_clamp(clamp), as_quantization(scale));
            },
            "name"_a, "data"_a, py::kw_only(), "clamp"_a, "scale"_a)
        .def(
            "sigmoid",
            [](Network& network, const std::string& name, int data, const Scale& scale) {
                return network.sigmoid(name, data, as_quantization(scale));
            },
            "name"_a, "data"_a, py::kw_only(), "scale"_a)
        .def(
            "max_pool",
            [](Network& network, const std::string& name, int data, std::array<int, 2> kernel,
               std::array<int, 2> stride, std::array<int, 2> pad, std::array<int, 2> size) {
                const native::Window window{kernel[0], kernel[1], stride[0], stride[1], 1, 1, pad[0], pad[1]};
                return network.max_pool(name, data, window, size[0], size[1]);
            },
            "name"_a, "data"_a, py::kw_only(), "kernel"_a, "stride"_a, "pad"_a, "size"_a)
        .def("upsample", &Network::upsample, "name"_a, "data"_a, py::kw_only(), "height"_a, "width"_a)
        .def(
            "add",
            [](Network& network, const std::string& name, int a, int b, std::array<float, 3> clamp,
               const Scale& scale) {
                return network.add(name, a, b, as_clamp(clamp), as_quantization(scale));
            },
            "name"_a, "a"_a, "b"_a, py::kw_only(), "clamp"_a, "scale"_a)
        .def(
            "concat",
            [](Network& network, const std::string& name, std::vector<int> values, const std::string& axis,
               const Scale& scale) {
                const auto parsed = parse<native::Axis>(
                    {{"channels", native::Axis::channels}, {"rows", native::Axis::rows}}, axis, "axis");
                return network.concat(name, std::move(values), parsed, as_quantization(scale));
            },
            "name"_a, "values"_a, py::kw_only(), "axis"_a, "scale"_a)
        .def("rows", &Network::rows, "name"_a, "data"_a, py::kw_only(), "columns"_a)
        .def(
            "softmax",
            [](Network& network, const std::string& name, int data, const Scale& scale) {
                return network.softmax(name, data, as_quantization(scale));
            },
            "name"_a, "data"_a, py::kw_only(), "scale"_a)
        .def("output", &Network::output, "name"_a, "value"_a);
    py::class_<native::StepInfo>(m, "Step")
        .def_readonly("name", &native::StepInfo::name)
        .def_readonly("kind", &native::StepInfo::kind)
        .def_property_readonly("shape",
                               [](const native::StepInfo& info) {
                                   return py::make_tuple(info.output.height, info.output.width,
                                                         info.output.channels);
                               })
        .def_readonly("chain", &native::StepInfo::chain)
        .def_readonly("rows", &native::StepInfo::rows)
        .def_readonly("row_bytes", &native::StepInfo::bytes);

    py::class_<native::Engine, std::shared_ptr<native::Engine>>(m, "Engine")
        .def(py::init(&make_engine), "network"_a, py::kw_only(), "num_threads"_a, "isa"_a,
             "level2_bytes"_a = py::none(), py::call_guard<py::gil_scoped_release>())
        .def("input", &engine_input<native::Engine>)
        .def("run", &native::Engine::run, py::call_guard<py::gil_scoped_release>())
        .def("output", &engine_output<native::Engine>, "name"_a)
        .def("profile", &native::Engine::profile, "rounds"_a, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("isa", &native::Engine::isa)
        .def_property_readonly("steps", [](const native::Engine& engine) { return engine.plan().steps(); })
        .def_property_readonly("arena_bytes",
                               [](const native::Engine& engine) { return engine.plan().arena_size(); });
    m.def("isas", &isas);
}

void bind_tengine(py::module_& m) {
    const auto open = [](const std::string& library, const py::bytes& model, int num_threads) {
        const std::string_view bytes = model;
        const py::gil_scoped_release release;
        return std::make_shared<TengineBackend>(library, bytes, num_threads);
    };
    const auto quantization = [](const Quantization& q) { return py::make_tuple(q.scale, q.zero_point); };
    py::class_<TengineBackend, std::shared_ptr<TengineBackend>>(m, "Tengine")
        .def(py::init(open), "library"_a, "model"_a, py::kw_only(), "num_threads"_a)
        .def("input", &engine_input<TengineBackend>)
        .def("run", &TengineBackend::run, py::call_guard<py::gil_scoped_release>())
        .def("output", &engine_output<TengineBackend>, "name"_a)
        .def("input_quantization",
             [quantization](TengineBackend& engine) { return quantization(engine.input().quantization); })
        .def(
            "output_quantization",
            [quantization](TengineBackend& engine, const std::string& name) {
                return quantization(engine.output(name).quantization);
            },
            "name"_a)
        .def_property_readonly("version", &TengineBackend::version);
}

}  // namespace
}  // namespace edgeface

PYBIND11_MODULE(_core, m) {
    edgeface::bind_errors();
    edgeface::bind_detector(m);
    edgeface::bind_native(m);
    edgeface::bind_tengine(m);
}
