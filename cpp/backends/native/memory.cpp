#include "memory.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <new>
#include <numeric>
#include <optional>

namespace edgeface::native {
namespace {

constexpr std::size_t kAlignment = 64;  // elements: whole cache lines for every type

std::size_t index(int value) { return static_cast<std::size_t>(value); }

std::size_t aligned(std::size_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

// Elements that can be told apart by bytes whatever their type, with room to spare: of 32 bits, files could
// ask for more.
constexpr std::int64_t kMostElements = std::numeric_limits<std::ptrdiff_t>::max() / 16;

void check_size(const Shape& shape, int margin) {
    const std::int64_t in_row = std::int64_t{shape.width} + 2 * std::int64_t{margin};
    const std::int64_t pixels = shape.height * in_row + 2 * std::int64_t{margin};
    if (pixels > kMostElements / shape.channels) throw std::bad_alloc();
}

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
    std::ptrdiff_t pitch = 0;
    int margin = 0;
    bool overwritten = false;  // by an operation that works in place
};

// Gives values their places from the last operation to the first, so that an input of a Concat learns
// which part of the joined image it is before its producer is looked at.
class Placer {
  public:
    Placer(const Network& network, const std::vector<Chain>& chains)
        : network_(network),
          chains_(chains),
          margins_(plan_margins(network)),
          places_(network.values().size()),
          readers_(network.values().size()),
          internal_(network.values().size()) {
        for (std::size_t i = 0; i < margins_.size(); ++i) check_size(network.values()[i].shape, margins_[i]);
        for (const Operation& operation : network.operations()) {
            for (const int input : operation.inputs) ++readers_[index(input)];
        }
        for (const Chain& chain : chains) {
            for (int i = chain.first; i < chain.last; ++i)
                internal_[index(network.operations()[index(i)].output)] = true;
        }
        // An output is read by the caller, and stays until the next run.
        for (const auto& [name, value] : network.outputs()) {
            ++readers_[index(value)];
            place_new(value);
        }
        const auto& operations = network.operations();
        for (auto operation = operations.rbegin(); operation != operations.rend(); ++operation) {
            if (!internal_[index(operation->output)]) share(*operation);
        }
        place_new(Network::kInput);
        measure_lifetimes();
    }

    MemoryPlan plan() {
        MemoryPlan plan;
        plan.size = pack();
        for (std::size_t i = 0; i < places_.size(); ++i) {
            const auto& place = places_[i];
            if (!place) {
                plan.values.push_back(alone(static_cast<int>(i)));
                continue;
            }
            const std::size_t start = buffers_[index(place->buffer)].offset;
            plan.values.push_back({start + place->offset, place->stride, place->pitch, place->margin});
        }
        return plan;
    }

  private:
    const Shape& shape(int value) const { return network_.values()[index(value)].shape; }

    bool same_scale(int a, int b) const {
        return network_.values()[index(a)].quantization == network_.values()[index(b)].quantization;
    }

    Location alone(int value) const {
        const std::ptrdiff_t channels = shape(value).channels;
        const int margin = margins_[index(value)];
        return {index(margin) * index(shape(value).channels), channels,
                (shape(value).width + margin) * channels, margin};
    }

    void place_new(int value) {
        if (places_[index(value)]) return;
        const Location at = alone(value);
        places_[index(value)] =
            Place{static_cast<int>(buffers_.size()), at.offset, at.stride, at.pitch, at.margin, false};
        buffers_.push_back(
            {aligned(at.offset + index(shape(value).height) * static_cast<std::size_t>(at.pitch))});
    }

    // Does nothing where sharing is not possible: the value already lies elsewhere, is the network's input
    // (which preprocessing writes as one dense image), has readers who may come after it is overwritten, or
    // whose windows reach further than there is room. The step then copies.
    void try_place(int value, const Place& place) {
        if (value == Network::kInput || places_[index(value)]) return;
        if (place.overwritten && readers_[index(value)] > 1) return;
        if (place.margin < margins_[index(value)]) return;
        places_[index(value)] = place;
    }

    void share(const Operation& operation) {
        place_new(operation.output);
        const Place output = *places_[index(operation.output)];
        const int first = operation.inputs.front();
        if (const auto* concat = std::get_if<Concat>(&operation.op)) {
            share_concat(operation, concat->axis, output);
        } else if (std::holds_alternative<View>(operation.op)) {
            const bool dense = output.stride == shape(operation.output).channels &&
                               output.pitch == shape(operation.output).width * output.stride;
            const Shape& from = shape(first);
            if (dense) {
                try_place(first, {output.buffer, output.offset, from.channels,
                                  std::ptrdiff_t{from.channels} * from.width, 0, output.overwritten});
            }
        } else if (std::holds_alternative<Relu>(operation.op) ||
                   std::holds_alternative<Sigmoid>(operation.op) ||
                   std::holds_alternative<Softmax>(operation.op)) {
            // In place: every value is read before it is written, so scales may differ.
            Place same = output;
            same.overwritten = true;
            try_place(first, same);
        }
    }

    void share_concat(const Operation& operation, Axis axis, const Place& output) {
        Place part = output;
        for (const int input : operation.inputs) {
            if (same_scale(input, operation.output)) try_place(input, part);
            const Shape& joined = shape(input);
            part.offset += axis == Axis::channels
                               ? index(joined.channels)
                               : index(joined.height) * static_cast<std::size_t>(output.pitch);
        }
    }

    void measure_lifetimes() {
        const int end = static_cast<int>(chains_.size());
        for (Buffer& buffer : buffers_) buffer.first = end;
        use(Network::kInput, -1);
        for (int time = 0; time < end; ++time) {
            for (int i = chains_[index(time)].first; i <= chains_[index(time)].last; ++i) {
                const Operation& operation = network_.operations()[index(i)];
                for (const int input : operation.inputs) use(input, time);
                use(operation.output, time);
            }
        }
        for (const auto& [name, value] : network_.outputs()) use(value, end);
    }

    void use(int value, int step) {
        if (internal_[index(value)]) return;
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
            if (buffer.offset + buffer.size > static_cast<std::size_t>(kMostElements)) throw std::bad_alloc();
            const auto after =
                std::upper_bound(packed.begin(), packed.end(), buffer.offset,
                                 [](std::size_t offset, const Buffer* b) { return offset < b->offset; });
            packed.insert(after, &buffer);
            size = std::max(size, buffer.offset + buffer.size);
        }
        return size;
    }

    const Network& network_;
    const std::vector<Chain>& chains_;
    std::vector<int> margins_;
    std::vector<std::optional<Place>> places_;
    std::vector<int> readers_;
    std::vector<bool> internal_;  // handed on within a chain
    std::vector<Buffer> buffers_;
};

}  // namespace

std::vector<int> plan_margins(const Network& network) {
    std::vector<int> margins(network.values().size());
    for (const Operation& operation : network.operations()) {
        if (!reads_margins(operation)) continue;
        const std::size_t input = index(operation.inputs.front());
        const std::int64_t reach = reach_beyond(*window_of(operation), network.values()[input].shape,
                                                network.values()[index(operation.output)].shape);
        margins[input] = std::max(margins[input], static_cast<int>(reach));
    }
    return margins;
}

MemoryPlan plan_memory(const Network& network, const std::vector<Chain>& chains) {
    return Placer(network, chains).plan();
}

}  // namespace edgeface::native
