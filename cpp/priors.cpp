#include "priors.h"

#include <algorithm>

namespace edgeface {
namespace {

// Every downsampling layer of these networks rounds up, so a level has ceil(size / stride) cells.
int cells(int size, int stride) { return (size + stride - 1) / stride; }

// `cell` spreads the centres over the input whatever its size; `stride` puts them where the stride
// says, which goes past the edge when it does not divide the size; `corner` puts them half a stride before.
// Weights are trained with one of them.
double centre(Grid grid, int index, int count, int stride, int size) {
    switch (grid) {
        case Grid::cell:
            return (index + 0.5) / count;
        case Grid::stride:
            return (index + 0.5) * stride / size;
        case Grid::corner:
            return static_cast<double>(index) * stride / size;
    }
    return 0;
}

float limited(double value, bool clip) {
    return static_cast<float>(clip ? std::clamp(value, 0.0, 1.0) : value);
}

}  // namespace

std::vector<Prior> make_priors(const PriorSpec& spec, Size input) {
    std::vector<Prior> priors;
    for (std::size_t level = 0; level < spec.strides.size(); ++level) {
        const int stride = spec.strides[level];
        const int columns = cells(input.width, stride);
        const int rows = cells(input.height, stride);
        for (int j = 0; j < rows; ++j) {
            for (int i = 0; i < columns; ++i) {
                for (const double min_size : spec.min_sizes[level]) {
                    priors.push_back({limited(centre(spec.grid, i, columns, stride, input.width), spec.clip),
                                      limited(centre(spec.grid, j, rows, stride, input.height), spec.clip),
                                      limited(min_size / input.width, spec.clip),
                                      limited(min_size / input.height, spec.clip)});
                }
            }
        }
    }
    return priors;
}

}  // namespace edgeface
