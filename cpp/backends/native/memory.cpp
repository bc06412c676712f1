#include "memory.h"

#include <algorithm>
#include <numeric>
#include <optional>

namespace edgeface::native {
namespace {

constexpr std::size_t kAlignment = 64;  // elements: whole cache lines for every type

std::size_t index(int value) { return static_cast<std::size_t>(value); }

std::size_t aligned(std::size_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

// A piece of memory and the operations between which it is in use.
struct Buffer {
    std::size_t size = 0;
    int first = 0;
    int last = 0;
    std::size_t offset = 0;
};

struct Place {
    int buffer = 0;
    std::size_t offset = 0;
    std::ptrdiff_t stride = 0;
    bool overwritten = false;  // by an operation that works in place
};

// Gives values their places from the last operation to the first, so that an input of a Concat learns
// which part of the joined image it is before its producer is looked at.
class Placer {
  public:
    explicit Placer(const Network& network)
        : network_(network),
          places_(network.values().size()),
          readers_(network.values().size()) {
        for (const Operation& operation : network.operations()) {
            for (const int input : operation.inputs) ++readers_[index(input)];
        }
        // An output is read by the caller, and stays until the next run.
        for (const auto& [name, value] : network.outputs()) {
            ++readers_[index(value)];
            place_new(value);
        }
        const auto& operations = network.operations();
        for (auto operation = operations.rbegin(); operation != operations.rend(); ++operation)
            share(*operation);
        place_new(Network::kInput);
        measure_lifetimes();
    }

    MemoryPlan plan() {
        MemoryPlan plan;
        plan.size = pack();
        for (const auto& place : places_) {
            const std::size_t start = place ? buffers_[index(place->buffer)].offset : 0;
            plan.values.push_back(place ? Location{start + place->offset, place->stride} : Location{});
        }
        return plan;
    }

  private:
    const Shape& shape(int value) const { return network_.values()[index(value)].shape; }

    bool same_scale(int a, int b) const {
        return network_.values()[index(a)].quantization == network_.values()[index(b)].quantization;
    }

    void place_new(int value) {
        if (places_[index(value)]) return;
        places_[index(value)] = Place{static_cast<int>(buffers_.size()), 0, shape(value).channels, false};
        buffers_.push_back({aligned(shape(value).values())});
    }

    // Does nothing where sharing is not possible: the value already lies elsewhere, is the network's input
    // (which preprocessing writes as one dense image), or has readers who may come after it is overwritten.
    // The step then copies.
    void try_place(int value, const Place& place) {
        if (value == Network::kInput || places_[index(value)]) return;
        if (place.overwritten && readers_[index(value)] > 1) return;
        places_[index(value)] = place;
    }

    void share(const Operation& operation) {
        place_new(operation.output);
        const Place output = *places_[index(operation.output)];
        const int first = operation.inputs.front();
        if (const auto* concat = std::get_if<Concat>(&operation.op)) {
            share_concat(operation, concat->axis, output);
        } else if (std::holds_alternative<View>(operation.op)) {
            const bool dense = output.stride == shape(operation.output).channels;
            if (dense)
                try_place(first, {output.buffer, output.offset, shape(first).channels, output.overwritten});
        } else if (std::holds_alternative<Relu>(operation.op) ||
                   std::holds_alternative<Softmax>(operation.op)) {
            // In place: every value is read before it is written, so scales may differ.
            try_place(first, {output.buffer, output.offset, output.stride, true});
        }
    }

    void share_concat(const Operation& operation, Axis axis, const Place& output) {
        std::size_t offset = output.offset;
        for (const int input : operation.inputs) {
            if (same_scale(input, operation.output)) {
                try_place(input, {output.buffer, offset, output.stride, output.overwritten});
            }
            const Shape& part = shape(input);
            offset += axis == Axis::channels ? static_cast<std::size_t>(part.channels)
                                             : part.pixels() * static_cast<std::size_t>(output.stride);
        }
    }

    void measure_lifetimes() {
        const int end = static_cast<int>(network_.operations().size());
        for (Buffer& buffer : buffers_) buffer.first = end;
        use(Network::kInput, -1);
        for (int step = 0; step < end; ++step) {
            const Operation& operation = network_.operations()[index(step)];
            for (const int input : operation.inputs) use(input, step);
            use(operation.output, step);
        }
        for (const auto& [name, value] : network_.outputs()) use(value, end);
    }

    void use(int value, int step) {
        Buffer& buffer = buffers_[index(places_[index(value)]->buffer)];
        buffer.first = std::min(buffer.first, step);
        buffer.last = std::max(buffer.last, step);
    }

    // Largest first, each at the lowest offset where nothing alive at the same time lies.
    std::size_t pack() {
        std::vector<std::size_t> order(buffers_.size());
        std::iota(order.begin(), order.end(), 0U);
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t a, std::size_t b) { return buffers_[a].size > buffers_[b].size; });
        std::vector<const Buffer*> packed;  // by offset
        std::size_t size = 0;
        for (const std::size_t i : order) {
            Buffer& buffer = buffers_[i];
            for (const Buffer* other : packed) {
                const bool together = other->first <= buffer.last && buffer.first <= other->last;
                if (together && other->offset < buffer.offset + buffer.size) {
                    buffer.offset = std::max(buffer.offset, other->offset + other->size);
                }
            }
            const auto after =
                std::upper_bound(packed.begin(), packed.end(), buffer.offset,
                                 [](std::size_t offset, const Buffer* b) { return offset < b->offset; });
            packed.insert(after, &buffer);
            size = std::max(size, buffer.offset + buffer.size);
        }
        return size;
    }

    const Network& network_;
    std::vector<std::optional<Place>> places_;
    std::vector<int> readers_;
    std::vector<Buffer> buffers_;
};

}  // namespace

MemoryPlan plan_memory(const Network& network) { return Placer(network).plan(); }

}  // namespace edgeface::native
