#include "plan.h"

#include <utility>

#include "memory.h"

namespace edgeface::native {
namespace {

std::ptrdiff_t bytes_of(DataType type) { return type == DataType::float32 ? sizeof(float) : 1; }

// Turns operations into steps; memory has been planned.
class Builder {
  public:
    Builder(DataType type, const Kernels& kernels, const std::vector<Image>& images)
        : type_(type),
          kernels_(kernels),
          images_(images) {}

    void add(const Operation& operation) {
        operation_ = &operation;
        std::visit([this](const auto& op) { build(op); }, operation.op);
    }

    std::vector<std::unique_ptr<Step>> steps;
    std::vector<StepInfo> infos;

  private:
    const Image& input(std::size_t i) const { return images_[size_of(operation_->inputs[i])]; }
    const Image& output() const { return images_[size_of(operation_->output)]; }

    void append(std::unique_ptr<Step> step, const char* kind) {
        steps.push_back(std::move(step));
        infos.push_back({operation_->name, kind, output().shape});
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

    void build(const Relu&) {
        switch (type_) {
            case DataType::float32:
                return append(make_relu(kernels_, input(0), output()), "relu");
            case DataType::int8:
                return append(make_quantized_relu<std::int8_t>(input(0), output()), "relu");
            case DataType::uint8:
                return append(make_quantized_relu<std::uint8_t>(input(0), output()), "relu");
        }
    }

    void build(const Add& add) {
        const Image& a = input(0);
        const Image& b = input(1);
        switch (type_) {
            case DataType::float32:
                return append(make_add(add, kernels_, a, b, output()), "add");
            case DataType::int8:
                return append(make_quantized_add<std::int8_t>(add, a, b, output()), "add");
            case DataType::uint8:
                return append(make_quantized_add<std::uint8_t>(add, a, b, output()), "add");
        }
    }

    void build(const Softmax&) {
        switch (type_) {
            case DataType::float32:
                return append(make_softmax(input(0), output()), "softmax");
            case DataType::int8:
                return append(make_quantized_softmax<std::int8_t>(input(0), output()), "softmax");
            case DataType::uint8:
                return append(make_quantized_softmax<std::uint8_t>(input(0), output()), "softmax");
        }
    }

    void build(const View&) { copy_unless_shared(input(0), output()); }

    void build(const Concat& concat) {
        Image part = output();
        for (std::size_t i = 0; i < operation_->inputs.size(); ++i) {
            part.shape = input(i).shape;
            copy_unless_shared(input(i), part);
            const std::ptrdiff_t elements =
                concat.axis == Axis::channels ? part.shape.channels : part.pixels() * part.stride;
            part.data = static_cast<std::byte*>(part.data) + elements * bytes_of(type_);
        }
    }

    void copy_unless_shared(const Image& from, const Image& to) {
        if (from.data == to.data) return;
        switch (type_) {
            case DataType::float32:
                return append(make_copy(from, to), "copy");
            case DataType::int8:
                return append(make_quantized_copy<std::int8_t>(from, to), "copy");
            case DataType::uint8:
                return append(make_quantized_copy<std::uint8_t>(from, to), "copy");
        }
    }

    DataType type_;
    const Kernels& kernels_;
    const std::vector<Image>& images_;
    const Operation* operation_ = nullptr;
};

}  // namespace

Plan::Plan(const Network& network, const Kernels& kernels, int threads)
    : type_(network.type()),
      pool_(threads) {
    const MemoryPlan memory = plan_memory(network);
    const auto element = static_cast<std::size_t>(bytes_of(type_));
    constexpr std::size_t kCacheLine = 64;
    arena_size_ = memory.size * element;
    arena_.resize(arena_size_ + kCacheLine);
    void* start = arena_.data();
    std::size_t space = arena_.size();
    auto* arena = static_cast<std::byte*>(std::align(kCacheLine, arena_size_, start, space));
    for (std::size_t i = 0; i < memory.values.size(); ++i) {
        const Location& location = memory.values[i];
        const Value& value = network.values()[i];
        images_.push_back(
            {arena + location.offset * element, value.shape, location.stride, value.quantization});
    }
    Builder builder(type_, kernels, images_);
    for (const Operation& operation : network.operations()) builder.add(operation);
    steps_ = std::move(builder.steps);
    infos_ = std::move(builder.infos);
    for (const auto& [name, value] : network.outputs()) outputs_.emplace(name, images_[size_of(value)]);
}

void Plan::run() {
    pool_.run([](void* plan, int rank) { static_cast<Plan*>(plan)->run_steps(rank); }, this);
}

void Plan::run_steps(int rank) {
    const int threads = pool_.size();
    for (const std::unique_ptr<Step>& step : steps_) {
        const long long pieces = step->pieces();
        step->run(static_cast<int>(pieces * rank / threads), static_cast<int>(pieces * (rank + 1) / threads));
        pool_.wait_for_all();
    }
}

}  // namespace edgeface::native
