#include "tengine.h"

#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>
#include <stdexcept>

#include "../error.h"

namespace edgeface {
namespace {

// The C interface of libtengine-lite as of version 1.5, the little of it that is used.
struct TengineOptions {
    int threads;
    int cluster;
    int precision;
    std::uint64_t affinity;  // bit i: CPU i
};

constexpr int kAllClusters = 0;
constexpr int kLogErrors = 3;
constexpr int kMaxDimensions = 8;

struct Functions {
    int (*init_tengine)();
    const char* (*get_tengine_version)();
    void (*set_log_level)(int);
    void (*set_log_output)(void (*)(const char*));
    void* (*create_graph)(void* context, const char* format, const char* model, ...);
    int (*prerun_graph_multithread)(void* graph, TengineOptions);
    int (*run_graph)(void* graph, int block);
    int (*postrun_graph)(void* graph);
    int (*destroy_graph)(void* graph);
    int (*get_graph_input_node_number)(void* graph);
    void* (*get_graph_input_tensor)(void* graph, int node, int tensor);
    int (*get_graph_output_node_number)(void* graph);
    void* (*get_graph_output_tensor)(void* graph, int node, int tensor);
    const char* (*get_tensor_name)(void* tensor);
    int (*get_tensor_data_type)(void* tensor);
    int (*get_tensor_shape)(void* tensor, int* dimensions, int count);
    int (*get_tensor_quant_param)(void* tensor, float* scales, int* zero_points, int count);
    int (*get_tensor_buffer_size)(void* tensor);
    void* (*get_tensor_buffer)(void* tensor);
    int (*set_tensor_buffer)(void* tensor, void* buffer, int bytes);
    // Of the OpenMP runtime that the library uses; null where it was built without one.
    int (*omp_get_max_threads)();
    void (*omp_set_num_threads)(int);
};

// A tensor's type, the mode to run a network in whose input has that type, and a value's size.
struct TypeInfo {
    int tengine;
    int precision;
    DataType type;
    std::size_t bytes;
};

constexpr TypeInfo kTypes[] = {
    {0, 0, DataType::float32, 4},
    {2, 4, DataType::int8, 1},
    {3, 3, DataType::uint8, 1},
};

// Tengine locks nothing around its registries: one thread at a time opens or closes anything.
std::mutex& opening() {
    static std::mutex mutex;
    return mutex;
}

// What Tengine logs in this thread while one of these lives. Its return values say no more than "failed".
class Log {
  public:
    Log()
        : outer_(current_) {
        current_ = this;
    }
    ~Log() { current_ = outer_; }
    Log(const Log&) = delete;
    Log& operator=(const Log&) = delete;

    [[noreturn]] void fail(const std::string& what) const {
        throw BackendError("Tengine " + what + (text_.empty() ? "; it gave no reason" : ": " + text_));
    }

    // Called by Tengine, from any thread and also for other users of the library: those still have stderr.
    static void receive(const char* message) {
        if (current_ == nullptr) {
            std::fputs(message, stderr);
            return;
        }
        try {
            current_->add(message);
        } catch (const std::bad_alloc&) {  // must not pass through C
        }
    }

  private:
    static constexpr std::size_t kEnough = 2000;

    void add(std::string_view message) {
        // How the format "tengine:m" is found: a failed look-up by that name, then one without the ":m".
        if (message.find("Can not find serializer tengine:m") != std::string_view::npos) return;
        const std::size_t end = message.find_last_not_of(" \r\n");
        if (end == std::string_view::npos || text_.size() > kEnough) return;
        text_ += text_.empty() ? "" : "; ";
        text_ += message.substr(0, end + 1);
    }

    static thread_local Log* current_;
    Log* outer_;
    std::string text_;
};

thread_local Log* Log::current_ = nullptr;

// Preparing a graph moves the calling thread to CPUs of Tengine's choice and sets how many threads OpenMP
// takes in it; both are the caller's affair.
class ThreadSettings {
  public:
    explicit ThreadSettings(const Functions& tengine)
        : tengine_(tengine) {
        CPU_ZERO(&cpus_);
        known_ = sched_getaffinity(0, sizeof cpus_, &cpus_) == 0;
        if (has_openmp()) openmp_threads_ = tengine_.omp_get_max_threads();
    }
    ~ThreadSettings() {
        if (known_) sched_setaffinity(0, sizeof cpus_, &cpus_);
        if (has_openmp()) tengine_.omp_set_num_threads(openmp_threads_);
    }
    ThreadSettings(const ThreadSettings&) = delete;
    ThreadSettings& operator=(const ThreadSettings&) = delete;

    // The CPUs that this thread may use. Tengine starts an OpenMP thread for every bit, to pin it, whatever
    // the number of threads: a network for one thread gets one bit, and no threads that nobody needs.
    std::uint64_t affinity(int threads) const {
        std::uint64_t mask = 0;
        for (std::size_t cpu = 0; known_ && cpu < 64; ++cpu) {
            if (!CPU_ISSET(cpu, &cpus_)) continue;
            mask |= std::uint64_t{1} << cpu;
            if (threads == 1) break;
        }
        return mask;
    }

  private:
    bool has_openmp() const {
        return tengine_.omp_get_max_threads != nullptr && tengine_.omp_set_num_threads != nullptr;
    }

    const Functions& tengine_;
    cpu_set_t cpus_;
    bool known_;
    int openmp_threads_ = 0;
};

template <typename Function>
void find(void* handle, const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(dlsym(handle, name));
}

template <typename Function>
void need(void* handle, const char* name, Function*& function) {
    find(handle, name, function);
    if (function == nullptr)
        throw BackendError(std::string("it has no function ") + name + "; expected libtengine-lite 1.5");
}

Functions functions_of(void* handle) {
    Functions f{};
    need(handle, "init_tengine", f.init_tengine);
    need(handle, "get_tengine_version", f.get_tengine_version);
    need(handle, "set_log_level", f.set_log_level);
    need(handle, "set_log_output", f.set_log_output);
    need(handle, "create_graph", f.create_graph);
    need(handle, "prerun_graph_multithread", f.prerun_graph_multithread);
    need(handle, "run_graph", f.run_graph);
    need(handle, "postrun_graph", f.postrun_graph);
    need(handle, "destroy_graph", f.destroy_graph);
    need(handle, "get_graph_input_node_number", f.get_graph_input_node_number);
    need(handle, "get_graph_input_tensor", f.get_graph_input_tensor);
    need(handle, "get_graph_output_node_number", f.get_graph_output_node_number);
    need(handle, "get_graph_output_tensor", f.get_graph_output_tensor);
    need(handle, "get_tensor_name", f.get_tensor_name);
    need(handle, "get_tensor_data_type", f.get_tensor_data_type);
    need(handle, "get_tensor_shape", f.get_tensor_shape);
    need(handle, "get_tensor_quant_param", f.get_tensor_quant_param);
    need(handle, "get_tensor_buffer_size", f.get_tensor_buffer_size);
    need(handle, "get_tensor_buffer", f.get_tensor_buffer);
    need(handle, "set_tensor_buffer", f.set_tensor_buffer);
    find(handle, "omp_get_max_threads", f.omp_get_max_threads);
    find(handle, "omp_set_num_threads", f.omp_set_num_threads);
    return f;
}

// What the interface says of a tensor, checked.
struct TensorInfo {
    const TypeInfo* type = nullptr;
    Quantization quantization;
    std::array<int, kMaxDimensions> shape{};
    int dimensions = 0;
    std::size_t values = 1;

    int bytes() const { return static_cast<int>(values * type->bytes); }
};

TensorInfo describe(const Functions& tengine, void* tensor, const std::string& what) {
    TensorInfo info;
    const int number = tengine.get_tensor_data_type(tensor);
    for (const TypeInfo& type : kTypes) {
        if (type.tengine == number) info.type = &type;
    }
    if (info.type == nullptr)
        throw BackendError(what + " has Tengine's data type " + std::to_string(number) +
                           "; expected 0 (fp32), 2 (int8) or 3 (uint8)");
    info.dimensions = tengine.get_tensor_shape(tensor, info.shape.data(), kMaxDimensions);
    for (int i = 0; i < info.dimensions; ++i) {
        const int size = info.shape[static_cast<std::size_t>(i)];
        if (size < 1 || info.values > std::numeric_limits<int>::max() / 4 / static_cast<std::size_t>(size))
            throw BackendError(what + " has a dimension of " + std::to_string(size));
        info.values *= static_cast<std::size_t>(size);
    }
    const int bytes = tengine.get_tensor_buffer_size(tensor);
    if (info.dimensions < 1 || bytes != info.bytes())
        throw BackendError(what + " has " + std::to_string(bytes) + " bytes; its " +
                           std::to_string(info.dimensions) + " dimensions make " +
                           std::to_string(info.bytes()));
    if (info.type->type == DataType::float32) return info;
    // It returns how many there are, not the 0 that its header promises.
    const int count =
        tengine.get_tensor_quant_param(tensor, &info.quantization.scale, &info.quantization.zero_point, 1);
    const float scale = info.quantization.scale;
    if (count != 1 || !std::isfinite(scale) || scale <= 0)
        throw BackendError(what + " is quantised without one positive scale");
    return info;
}

}  // namespace

class TengineBackend::Library {
  public:
    const Functions tengine;

    // Held to open or close anything.
    static Library& at(const std::string& path) {
        // Never unloaded: its OpenMP threads and whatever it registered would be left without code.
        static auto& loaded = *new std::map<std::string, Library>();
        const std::lock_guard<std::mutex> lock(opening());
        const auto found = loaded.find(path);
        if (found != loaded.end()) return found->second;
        try {
            const Functions functions = functions_of(load(path));
            start(functions);
            return loaded.emplace(path, functions).first->second;
        } catch (const BackendError& error) {
            throw BackendError(path + " cannot be used: " + error.what());
        }
    }

    explicit Library(const Functions& functions)
        : tengine(functions) {}

    // OpenMP's threads do not live on in a forked child, which would wait for them forever.
    void check_fork(int threads) const {
        const pid_t owner = team_owner_;
        if (threads > 1 && owner != 0 && owner != getpid())
            throw BackendError(
                "Tengine ran with several threads before this process was forked and would now wait for them "
                "forever; start processes with the method 'spawn', or use num_threads=1");
    }

    void claim_threads(int threads) {
        check_fork(threads);
        if (threads > 1) team_owner_ = getpid();
    }

  private:
    static void* load(const std::string& path) {
        void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (handle != nullptr) return handle;
        const char* error = dlerror();
        throw BackendError(error != nullptr ? error : "it cannot be loaded");
    }

    static void start(const Functions& functions) {
        functions.set_log_output(&Log::receive);
        functions.set_log_level(kLogErrors);
        const Log log;
        if (functions.init_tengine() != 0) log.fail("does not start");
    }

    std::atomic<pid_t> team_owner_{0};
};

// One of Tengine's graphs, closed in the right order.
class TengineBackend::Graph {
  public:
    Library& library;
    const Functions& tengine;

    Graph(Library& from, std::string_view model)
        : library(from),
          tengine(from.tengine) {
        if (model.size() > static_cast<std::size_t>(std::numeric_limits<int>::max()))
            throw BackendError("the network is too large for Tengine");
        // Tengine releases it with free(), also where it refuses the model.
        void* memory = std::malloc(model.size());
        if (memory == nullptr) throw std::bad_alloc();
        std::memcpy(memory, model.data(), model.size());
        const std::lock_guard<std::mutex> lock(opening());
        const Log log;
        handle_ = tengine.create_graph(nullptr, "tengine:m", static_cast<const char*>(memory),
                                       static_cast<int>(model.size()));
        if (handle_ == nullptr) log.fail("cannot load the network");
    }

    ~Graph() {
        const std::lock_guard<std::mutex> lock(opening());
        const Log log;
        if (prepared_) tengine.postrun_graph(handle_);  // it reads what only a prepared graph has
        tengine.destroy_graph(handle_);
    }

    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    void prepare(int precision, int threads) {
        const std::lock_guard<std::mutex> lock(opening());
        library.claim_threads(threads);
        const ThreadSettings settings(tengine);
        const Log log;
        const TengineOptions options{threads, kAllClusters, precision, settings.affinity(threads)};
        if (tengine.prerun_graph_multithread(handle_, options) != 0) log.fail("cannot prepare the network");
        prepared_ = true;
    }

    void run() {
        const Log log;
        if (tengine.run_graph(handle_, 1) != 0) log.fail("failed to run the network");
    }

    void* input() {
        const int count = tengine.get_graph_input_node_number(handle_);
        void* tensor = count == 1 ? tengine.get_graph_input_tensor(handle_, 0, 0) : nullptr;
        if (tensor == nullptr)
            throw BackendError("Tengine sees " + std::to_string(count) +
                               " inputs in the network; expected 1");
        return tensor;
    }

    // By name; shapes are known once the graph is prepared.
    std::map<std::string, Output> outputs() {
        std::map<std::string, Output> found;
        const int count = tengine.get_graph_output_node_number(handle_);
        for (int i = 0; i < count; ++i) {
            void* tensor = tengine.get_graph_output_tensor(handle_, i, 0);
            const char* name = tensor != nullptr ? tengine.get_tensor_name(tensor) : nullptr;
            if (name != nullptr) found[name] = {tensor, view(tensor, name)};
        }
        return found;
    }

  private:
    OutputView view(void* tensor, const std::string& name) {
        const TensorInfo info = describe(tengine, tensor, "output '" + name + "'");
        const int columns = info.shape[static_cast<std::size_t>(info.dimensions - 1)];
        const int rows = static_cast<int>(info.values / static_cast<std::size_t>(columns));
        return {nullptr, info.type->type, info.quantization, rows, columns};
    }

    void* handle_ = nullptr;
    bool prepared_ = false;
};

TengineBackend::TengineBackend(const std::string& library, std::string_view model, int threads)
    : threads_(threads) {
    if (threads < 1) throw std::invalid_argument("num_threads is not positive");
    graph_ = std::make_unique<Graph>(Library::at(library), model);
    const Functions& tengine = graph_->tengine;
    void* tensor = graph_->input();
    const TensorInfo info = describe(tengine, tensor, "the network's input");
    if (info.dimensions != 4 || info.shape[0] != 1)
        throw BackendError("the network's input is not (1, C, H, W) in Tengine");
    pixels_.resize(static_cast<std::size_t>(info.bytes()));
    if (tengine.set_tensor_buffer(tensor, pixels_.data(), info.bytes()) != 0)
        throw BackendError("Tengine does not take the input's memory");
    const auto [one, channels, height, width] =
        std::array<int, 4>{info.shape[0], info.shape[1], info.shape[2], info.shape[3]};
    const std::ptrdiff_t row = width;
    input_ = {pixels_.data(),
              info.type->type,
              info.quantization,
              {width, height},
              channels,
              row * height,
              row,
              one};
    graph_->prepare(info.type->precision, threads);
    outputs_ = graph_->outputs();
}

TengineBackend::~TengineBackend() = default;

InputView TengineBackend::input() { return input_; }

void TengineBackend::run() {
    graph_->library.check_fork(threads_);
    graph_->run();
}

OutputView TengineBackend::output(const std::string& name) {
    const auto found = outputs_.find(name);
    if (found == outputs_.end()) throw BackendError("the network has no output '" + name + "'");
    OutputView view = found->second.view;
    view.data = graph_->tengine.get_tensor_buffer(found->second.tensor);
    if (view.data == nullptr) throw BackendError("Tengine has no memory for output '" + name + "'");
    return view;
}

std::string TengineBackend::version() const { return graph_->tengine.get_tengine_version(); }

}  // namespace edgeface
