// Which operations run band by band, one after another, so that what they hand on never leaves the cache.
#pragma once

#include <cstddef>
#include <vector>

#include "network.h"

namespace edgeface::native {

// Operations first to last; each but the first reads what the one before makes, and nothing else does.
struct Chain {
    int first = 0;
    int last = 0;
};

struct CacheSizes {
    std::size_t level2 = 0;  // bytes, of one core
};

CacheSizes cache_sizes();

// Depth-first execution pays where a value would otherwise go to memory and back. Where no row is read for
// two rows of the output, as by a pointwise convolution, it is free. Else every thread has to compute some
// rows of its neighbour's band too, so there only values that are large for the cache are kept in the chain.
std::vector<Chain> plan_chains(const Network& network, const CacheSizes& caches, int threads);

}  // namespace edgeface::native
