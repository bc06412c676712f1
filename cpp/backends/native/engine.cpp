#include "engine.h"

#include "../../error.h"
#include "cpu.h"

namespace edgeface::native {

Engine::Engine(const Network& network, int threads, const std::string& isa)
    : kernels_(select_kernels(isa)),
      plan_(network, kernels_, threads) {}

InputView Engine::input() {
    const Image& image = plan_.input();
    return {image.data,
            plan_.type(),
            image.quantization,
            {image.shape.width, image.shape.height},
            image.shape.channels,
            1,
            image.stride * image.shape.width,
            image.stride};
}

OutputView Engine::output(const std::string& name) {
    const auto found = plan_.outputs().find(name);
    if (found == plan_.outputs().end()) throw BackendError("the network has no output '" + name + "'");
    const Image& image = found->second;
    return {image.data, plan_.type(), image.quantization, image.pixels(), image.shape.channels};
}

}  // namespace edgeface::native
