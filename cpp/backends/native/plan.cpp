#include "plan.h"

#include <chrono>
#include <limits>
#include <utility>

#include "memory.h"

namespace edgeface::native {
namespace {

constexpr std::size_t kCacheLine = 64;
// Kernels may read a little past the last value.
constexpr std::size_t kSlack = 64;

std::size_t bytes_of(DataType type) { return type == DataType::float32 ? sizeof(float) : 1; }

std::byte* aligned_start(std::vector<std::byte>& memory, std::size_t size) {
    memory.resize(size + kSlack + kCacheLine);
    void* start = memory.data();
    std::size_t space = memory.size();
    return static_cast<std::byte*>(std::align(kCacheLine, size + kSlack, start, space));
}

// The margin behind a row is the one before the next: only the last row fills its own, so that threads that
// make neighbouring rows never write to one place.
template <typename T>
void fill_margins_of(const Image& image, Rows rows) {
    const auto zero = static_cast<T>(image.quantization.zero_point);
    for (int y = rows.begin; y < rows.end; ++y) {
        for (int x = 1; x <= image.margin; ++x) {
            std::fill_n(pixel<T>(image, y, -x), image.shape.channels, zero);
            if (y + 1 < image.rows) continue;
            std::fill_n(pixel<T>(image, y, image.shape.width - 1 + x), image.shape.channels, zero);
        }
    }
}

void fill_margins(DataType type, const Image& image, Rows rows) {
    if (image.margin == 0) return;
    if (type == DataType::float32) return fill_margins_of<float>(image, rows);
    fill_margins_of<std::uint8_t>(image, rows);  // the lowest byte is the same for int8
}

// An output is dense for the caller; where windows read it too, and so want margins, the caller gets a copy.
std::vector<std::size_t> outputs_to_copy(const Network& network) {
    const std::vector<int> margins = plan_margins(network);
    std::vector<std::size_t> numbers;
    for (std::size_t i = 0; i < network.outputs().size(); ++i) {
        if (margins[size_of(network.outputs()[i].second)] > 0) numbers.push_back(i);
    }
    return numbers;
}

// Pixels that a stage of a chain should make at a time: fewer would stream the weights of a convolution for
// too little work.
constexpr int kPiecePixels = 48;

}  // namespace

// Turns operations into stages; memory has been planned.
class PlanBuilder {
  public:
    PlanBuilder(Plan& plan, const Network& network, const Kernels& kernels, std::vector<Image> images)
        : plan_(plan),
          type_(network.type()),
          kernels_(kernels),
          images_(std::move(images)) {}

    void add(const Operation& operation) {
        operation_ = &operation;
        std::visit([this](const auto& op) { build(op); }, operation.op);
    }

    std::vector<Image> take_images() { return std::move(images_); }

  private:
    const Image& input(std::size_t i) const { return images_[size_of(operation_->inputs[i])]; }
    const Image& output() const { return images_[size_of(operation_->output)]; }

    void append(std::unique_ptr<Step> step, const char* kind) {
        append(std::move(step), kind, operation_->inputs, operation_->output);
    }

    void append(std::unique_ptr<Step> step, const char* kind, std::vector<int> inputs, int output) {
        plan_.stages_.push_back({std::move(step), std::move(inputs), output, 0});
        plan_.infos_.push_back({operation_->name, kind, images_[size_of(output)].shape, 0, 0, 0});
    }

    const char* kind(int groups) const {
        return is_depthwise(groups, input(0), output()) ? "depthwise" : "conv";
    }

    void build(const Conv& conv) { append(make_conv(conv, kernels_, input(0), output()), kind(conv.groups)); }

    void build(const QuantizedConv& conv) {
        append(type_ == DataType::int8
                   ? make_quantized_conv<std::int8_t>(conv, kernels_, input(0), output())
                   : make_quantized_conv<std::uint8_t>(conv, kernels_, input(0), output()),
               kind(conv.groups));
    }

    void build(const Relu& relu) {
        switch (type_) {
            case DataType::float32:
                return append(make_relu(relu, kernels_), "relu");
            case DataType::int8:
                return append(make_quantized_relu<std::int8_t>(relu, kernels_, input(0), output()), "relu");
            case DataType::uint8:
                return append(make_quantized_relu<std::uint8_t>(relu, kernels_, input(0), output()), "relu");
        }
    }

    void build(const Sigmoid&) {
        switch (type_) {
            case DataType::float32:
                return append(make_sigmoid(kernels_), "sigmoid");
            case DataType::int8:
                return append(make_quantized_sigmoid<std::int8_t>(input(0), output()), "sigmoid");
            case DataType::uint8:
                return append(make_quantized_sigmoid<std::uint8_t>(input(0), output()), "sigmoid");
        }
    }

    void build(const MaxPool& pool) {
        switch (type_) {
            case DataType::float32:
                return append(make_max_pool<float>(pool, kernels_, input(0)), "max_pool");
            case DataType::int8:
                return append(make_max_pool<std::int8_t>(pool, kernels_, input(0)), "max_pool");
            case DataType::uint8:
                return append(make_max_pool<std::uint8_t>(pool, kernels_, input(0)), "max_pool");
        }
    }

    void build(const Upsample&) {
        append(make_upsample(input(0), output(), static_cast<int>(bytes_of(type_))), "upsample");
    }

    void build(const Add& add) {
        switch (type_) {
            case DataType::float32:
                return append(make_add(add, kernels_), "add");
            case DataType::int8:
                return append(make_quantized_add<std::int8_t>(add, kernels_, input(0), input(1), output()),
                              "add");
            case DataType::uint8:
                return append(make_quantized_add<std::uint8_t>(add, kernels_, input(0), input(1), output()),
                              "add");
        }
    }

    void build(const Softmax&) {
        switch (type_) {
            case DataType::float32:
                return append(make_softmax(kernels_), "softmax");
            case DataType::int8:
                return append(make_quantized_softmax<std::int8_t>(input(0), output()), "softmax");
            case DataType::uint8:
                return append(make_quantized_softmax<std::uint8_t>(input(0), output()), "softmax");
        }
    }

    void build(const View&) { copy_unless_shared(operation_->inputs.front(), operation_->output); }

    void build(const Concat& concat) {
        Image part = output();
        for (const int number : operation_->inputs) {
            const Image& from = images_[size_of(number)];
            part.shape = from.shape;
            part.rows = from.shape.height;
            const std::ptrdiff_t elements =
                concat.axis == Axis::channels ? part.shape.channels : part.shape.height * part.pitch;
            std::byte* next =
                static_cast<std::byte*>(part.data) + elements * static_cast<std::ptrdiff_t>(bytes_of(type_));
            if (from.data != part.data) {
                images_.push_back(part);
                copy_unless_shared(number, static_cast<int>(images_.size()) - 1);
            }
            part.data = next;
        }
    }

    void copy_unless_shared(int from_number, int to_number) {
        const Image& from = images_[size_of(from_number)];
        const Image& to = images_[size_of(to_number)];
        if (from.data == to.data) return;
        switch (type_) {
            case DataType::float32:
                return append(make_copy(), "copy", {from_number}, to_number);
            case DataType::int8:
                return append(make_quantized_copy<std::int8_t>(kernels_, from, to), "copy", {from_number},
                              to_number);
            case DataType::uint8:
                return append(make_quantized_copy<std::uint8_t>(kernels_, from, to), "copy", {from_number},
                              to_number);
        }
    }

    Plan& plan_;
    DataType type_;
    const Kernels& kernels_;
    std::vector<Image> images_;
    const Operation* operation_ = nullptr;
};

Plan::Plan(const Network& network, const Kernels& kernels, int threads, const CacheSizes& caches)
    : type_(network.type()),
      pool_(threads) {
    const std::vector<std::size_t> copied = outputs_to_copy(network);
    const bool centres = type_ == DataType::int8 && kernels.int8.centres;
    if (copied.empty() && !centres) {
        prepare(network, kernels, caches);
        return;
    }
    Network changed = network;
    for (const std::size_t output : copied) changed.copy_output(output);
    if (centres) changed.centre();
    prepare(changed, kernels, caches);
}

void Plan::prepare(const Network& network, const Kernels& kernels, const CacheSizes& caches) {
    const std::vector<Chain> chains = plan_chains(network, caches, pool_.size());
    const MemoryPlan memory = plan_memory(network, chains);
    arena_size_ = memory.size * bytes_of(type_);
    std::byte* arena = aligned_start(arena_, arena_size_);
    std::vector<Image> images;
    for (std::size_t i = 0; i < memory.values.size(); ++i) {
        const Location& at = memory.values[i];
        const Value& value = network.values()[i];
        images.push_back({arena + at.offset * bytes_of(type_), value.shape, at.stride, at.pitch,
                          value.shape.height, at.margin, value.quantization, value.reach});
    }
    PlanBuilder builder(*this, network, kernels, std::move(images));
    for (const Chain& chain : chains) {
        const int first = static_cast<int>(stages_.size());
        for (int i = chain.first; i <= chain.last; ++i) builder.add(network.operations()[size_of(i)]);
        const int count = static_cast<int>(stages_.size()) - first;
        // One operation may have come to several steps, or to none, of which each stands alone.
        if (chain.last > chain.first) {
            chains_.push_back({first, first + count - 1});
        } else {
            for (int i = 0; i < count; ++i) chains_.push_back({first + i, first + i});
        }
    }
    hire(builder.take_images());
    for (const auto& [name, value] : network.outputs())
        outputs_.emplace(name, workers_.front().images[size_of(value)]);
}

// Rings hold what the next stage reads at a time, and what is made together with it.
void Plan::hire(std::vector<Image> images) {
    std::size_t scratch = 0;
    for (const Stage& stage : stages_) scratch = std::max(scratch, stage.step->scratch());
    for (int rank = 0; rank < pool_.size(); ++rank) {
        Worker worker;
        worker.images = images;
        worker.scratch_start = aligned_start(worker.scratch, scratch);
        worker.made.resize(stages_.size());
        workers_.push_back(std::move(worker));
    }
    for (std::size_t number = 0; number < chains_.size(); ++number) {
        const StageChain& chain = chains_[number];
        int together = 1;
        for (int i = chain.first; i <= chain.last; ++i)
            together = std::max(together, stages_[size_of(i)].step->together());
        for (int i = chain.last; i >= chain.first; --i) {
            Stage& stage = stages_[size_of(i)];
            const Shape& shape = images[size_of(stage.output)].shape;
            const bool alone = chain.first == chain.last;
            const int rows = round_up(ceil_divide(kPiecePixels, shape.width), together);
            stage.piece = alone ? shape.height : std::min(shape.height, rows);
            infos_[size_of(i)].chain = static_cast<int>(number);
            if (i > chain.first) {
                const Stage& before = stages_[size_of(i - 1)];
                const int beyond = 2 * (before.step->together() - 1);  // at both ends
                add_ring(before.output, stage.step->span(stage.piece) + beyond);
            }
        }
    }
    for (std::size_t i = 0; i < stages_.size(); ++i) {
        const Image& image = workers_.front().images[size_of(stages_[i].output)];
        infos_[i].rows = image.rows;
        infos_[i].bytes = size_of(image.shape.width * image.shape.channels) * bytes_of(type_);
    }
}

void Plan::add_ring(int number, int rows) {
    for (Worker& worker : workers_) {
        Image& image = worker.images[size_of(number)];
        image.rows = std::min(rows, image.shape.height);
        const std::ptrdiff_t start = image.margin * image.stride;
        worker.rings.emplace_back();
        std::byte* memory =
            aligned_start(worker.rings.back(), size_of(start + image.rows * image.pitch) * bytes_of(type_));
        image.data = memory + size_of(start) * bytes_of(type_);
        fill_margins(type_, image, {0, image.rows});
    }
}

void Plan::run() {
    fill_margins(type_, input(), {0, input().shape.height});
    const auto work = [](void* plan, int phase, int part, int rank) {
        static_cast<Plan*>(plan)->run_part(phase, part, rank);
    };
    pool_.run(static_cast<int>(chains_.size()), work, this);
}

std::vector<double> Plan::profile(int rounds) {
    using Clock = std::chrono::steady_clock;
    std::vector<double> best(chains_.size(), std::numeric_limits<double>::infinity());
    for (int round = 0; round < rounds; ++round) {
        for (std::size_t i = 0; i < chains_.size(); ++i) {
            const Clock::time_point start = Clock::now();
            run_chain(chains_[i], {0, height(chains_[i])}, workers_.front());
            best[i] = std::min(best[i], std::chrono::duration<double>(Clock::now() - start).count());
        }
    }
    return best;
}

void Plan::run_part(int number, int part, int rank) {
    const StageChain& chain = chains_[size_of(number)];
    const int rows = height(chain), together = stages_[size_of(chain.last)].step->together();
    const long long groups = ceil_divide(rows, together), parts = pool_.size();
    const auto edge = [&](int i) { return std::min(rows, static_cast<int>(groups * i / parts) * together); };
    run_chain(chain, {edge(part), edge(part + 1)}, workers_[size_of(rank)]);
}

int Plan::height(const StageChain& chain) const {
    return workers_.front().images[size_of(stages_[size_of(chain.last)].output)].shape.height;
}

void Plan::run_chain(const StageChain& chain, Rows rows, Worker& worker) const {
    if (rows.begin == rows.end) return;
    worker.made[size_of(chain.last)] = rows.begin;
    for (int i = chain.last; i > chain.first; --i) {
        const int made = worker.made[size_of(i)];
        const int needed = std::max(0, stages_[size_of(i)].step->reads({made, made + 1}).begin);
        const int together = stages_[size_of(i - 1)].step->together();
        worker.made[size_of(i - 1)] = needed / together * together;
    }
    make(chain, chain.last, rows.end, worker);
}

// The rows of a stage's output up to `end` that are not there yet, piece by piece, and what each needs of the
// stages before.
void Plan::make(const StageChain& chain, int number, int end, Worker& worker) const {
    const Stage& stage = stages_[size_of(number)];
    const Image* inputs[2] = {};
    for (std::size_t i = 0; i < stage.inputs.size(); ++i)
        inputs[i] = &worker.images[size_of(stage.inputs[i])];
    const Image& output = worker.images[size_of(stage.output)];
    const int together = stage.step->together();
    end = std::min(round_up(end, together), output.shape.height);
    int& made = worker.made[size_of(number)];
    while (made < end) {
        const Rows rows{made, std::min(made + stage.piece, end)};
        if (number > chain.first) {
            const int needed = stage.step->reads(rows).end;
            make(chain, number - 1, needed, worker);
        }
        stage.step->run(inputs, output, rows, worker.scratch_start);
        if (number == chain.last) fill_margins(type_, output, rows);
        made = rows.end;
    }
}

}  // namespace edgeface::native
