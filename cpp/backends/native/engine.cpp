#include "engine.h"

#include "../../error.h"
#include "cpu.h"

namespace edgeface::native {

Engine::Engine(const Network& network, int threads, const std::string& isa, const CacheSizes& caches)
    : kernels_(select_kernels(isa)),
      plan_(network, kernels_, threads, caches) {}

InputView Engine::input() {
    const Image& image = plan_.input();
    return {image.data,           plan_.type(),
            image.quantization,   {image.shape.width, image.shape.height},
            image.shape.channels, 1,
            image.pitch,          image.stride};
}

OutputView Engine::output(const std::string& name) {
    const auto found = plan_.outputs().find(name);
    if (found == plan_.outputs().end()) throw BackendError("the network has no output '" + name + "'");
    const Image& image = found->second;
    return {image.data, plan_.type(), image.quantization, static_cast<int>(image.shape.pixels()),
            image.shape.channels};
}

}  // namespace edgeface::native
